//! An XML document as a tree that is safe to make of anything: [`Document::parse`], [`Element`].
//!
//! Names are compared by namespace and local name. There is no DTD and no entity beyond the five of XML and numbers;
//! depth, elements and attributes have caps. Elements remember where they stand, so that errors can say a line and a
//! part that is not understood can be kept as it was written ([`Element::fragment`]).

mod build;
mod escape;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashSet;
use std::ops::Range;

use formats::{Error, ErrorKind, Result};

pub use escape::{escape_attribute, escape_text};

/// The namespace bound to `xml:` everywhere.
pub const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// A parsed document.
#[derive(Debug)]
pub struct Document {
    text: String,
    nodes: Vec<Node>,
    attributes: Vec<Attribute>,
    /// Each declaration of a prefix, with the one before it that is still in scope.
    bindings: Vec<Binding>,
    namespaces: Vec<String>,
    undeclared: Vec<String>,
    /// Where each line ends.
    line_ends: Vec<u32>,
    /// Bytes of declarations in the fragments that were given out.
    declared: Cell<usize>,
}

type Span = Range<u32>;

#[derive(Debug)]
struct Node {
    /// From `<` of the start tag to `>` of the end tag.
    span: Span,
    local: Span,
    namespace: u32,
    attributes: Span,
    /// The innermost binding inside this element, and the one outside of it.
    scope: Option<u32>,
    outer_scope: Option<u32>,
    first_child: Option<u32>,
    next: Option<u32>,
    /// Text and CDATA directly inside, where it is more than blanks.
    content: Option<Box<str>>,
}

#[derive(Debug)]
struct Attribute {
    local: Span,
    namespace: u32,
    value: Box<str>,
}

#[derive(Debug)]
struct Binding {
    prefix: Span,
    namespace: u32,
    outer: Option<u32>,
}

/// An element of a [`Document`].
#[derive(Clone, Copy)]
pub struct Element<'d> {
    document: &'d Document,
    index: u32,
}

impl Document {
    /// Parses `text`, which is `what` in errors.
    ///
    /// # Errors
    /// `Malformed` for what is not well-formed, `Refused` for a DTD or an entity, `Limit` above the caps.
    pub fn parse(text: String, what: &str) -> Result<Document> {
        build::parse(text, what)
    }

    /// The outermost element.
    pub fn root(&self) -> Element<'_> {
        Element {
            document: self,
            index: 0,
        }
    }

    /// Prefixes of attributes that are declared nowhere: against the rules, but in use.
    pub fn undeclared_prefixes(&self) -> &[String] {
        &self.undeclared
    }

    fn slice(&self, span: &Span) -> &str {
        self.text
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default()
    }

    fn namespace(&self, index: u32) -> &str {
        self.namespaces.get(index as usize).map_or("", |n| n)
    }
}

impl<'d> Element<'d> {
    fn node(&self) -> Option<&'d Node> {
        self.document.nodes.get(self.index as usize)
    }

    /// Whether it is the same element, not only one that looks the same.
    pub fn is(&self, other: Element) -> bool {
        std::ptr::eq(self.document, other.document) && self.index == other.index
    }

    /// The local name.
    pub fn name(&self) -> &'d str {
        self.node().map_or("", |n| self.document.slice(&n.local))
    }

    /// The namespace, empty for none.
    pub fn namespace(&self) -> &'d str {
        self.node()
            .map_or("", |n| self.document.namespace(n.namespace))
    }

    /// The elements directly inside, in order.
    pub fn children(&self) -> impl Iterator<Item = Element<'d>> + use<'d> {
        let document = self.document;
        let first = self.node().and_then(|n| n.first_child);
        std::iter::successors(first, move |index| {
            document.nodes.get(*index as usize).and_then(|n| n.next)
        })
        .map(move |index| Element { document, index })
    }

    /// The first element inside with this local name.
    pub fn child(&self, name: &str) -> Option<Element<'d>> {
        self.children().find(|c| c.name() == name)
    }

    /// The text directly inside, without blanks at its ends.
    pub fn text(&self) -> &'d str {
        self.node()
            .and_then(|n| n.content.as_deref())
            .map_or("", str::trim)
    }

    /// The text directly inside, as it is.
    pub fn raw_text(&self) -> &'d str {
        self.node()
            .and_then(|n| n.content.as_deref())
            .unwrap_or_default()
    }

    /// The text of the first element inside with this name, unless there is none or it is empty.
    pub fn child_text(&self, name: &str) -> Option<&'d str> {
        self.child(name).map(|c| c.text()).filter(|t| !t.is_empty())
    }

    fn own_attributes(&self) -> &'d [Attribute] {
        self.node()
            .and_then(|n| {
                let range = n.attributes.start as usize..n.attributes.end as usize;
                self.document.attributes.get(range)
            })
            .unwrap_or_default()
    }

    /// The attributes: namespace, local name, value.
    pub fn attributes(&self) -> impl Iterator<Item = (&'d str, &'d str, &'d str)> + use<'d> {
        let document = self.document;
        self.own_attributes().iter().map(move |a| {
            (
                document.namespace(a.namespace),
                document.slice(&a.local),
                &*a.value,
            )
        })
    }

    /// The value of the attribute `name` with the namespace of the element's own dialect, or with none.
    pub fn attribute(&self, namespace: &str, name: &str) -> Option<&'d str> {
        let find = |wanted: &str| {
            self.attributes()
                .find(|(space, local, _)| *local == name && *space == wanted)
                .map(|(_, _, value)| value)
        };
        find(namespace).or_else(|| find(""))
    }

    /// Line of the start tag, from 1.
    pub fn line(&self) -> usize {
        let start = self.node().map_or(0, |n| n.span.start);
        self.document.line_ends.partition_point(|end| *end < start) + 1
    }

    /// Bytes of the element as it was written.
    pub fn len(&self) -> usize {
        self.node()
            .map_or(0, |n| n.span.end.saturating_sub(n.span.start) as usize)
    }

    /// Whether there is nothing inside.
    pub fn is_empty(&self) -> bool {
        self.node()
            .is_none_or(|n| n.first_child.is_none() && n.content.is_none())
    }

    /// An error of `kind` about this element.
    pub fn error(
        &self,
        kind: ErrorKind,
        message: impl Into<std::borrow::Cow<'static, str>>,
    ) -> Error {
        Error::new(
            kind,
            format!("{} in line {}", self.name(), self.line()),
            message,
        )
    }

    /// An error of a document that contradicts itself here.
    pub fn malformed(&self, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        self.error(ErrorKind::Malformed, message)
    }

    /// The element as it was written, with the declarations of prefixes that it takes from outside.
    ///
    /// # Errors
    /// `Limit` if the declarations of all fragments of a document come to more than the document may.
    pub fn fragment(&self) -> Result<String> {
        let Some(node) = self.node() else {
            return Ok(String::new());
        };
        let text = self.document.slice(&node.span);
        let name_end = (node.local.end.saturating_sub(node.span.start)) as usize;
        let (Some(start), Some(rest)) = (text.get(..name_end), text.get(name_end..)) else {
            return Ok(String::new());
        };
        let mut declarations = String::new();
        for (prefix, namespace) in self.borrowed_prefixes(node) {
            declarations += &match prefix {
                "" => format!(" xmlns=\"{}\"", escape_attribute(namespace)),
                _ => format!(" xmlns:{prefix}=\"{}\"", escape_attribute(namespace)),
            };
        }
        let declared = self
            .document
            .declared
            .get()
            .saturating_add(declarations.len());
        self.document.declared.set(declared);
        if declared > MAX_DECLARED {
            return Err(self.error(ErrorKind::Limit, "too many declarations of namespaces"));
        }
        Ok(format!("{start}{declarations}{rest}"))
    }

    /// Prefixes declared outside of this element that may be used inside: those in scope that stand before a colon
    /// somewhere in its text, and the default.
    fn borrowed_prefixes(&self, node: &Node) -> Vec<(&'d str, &'d str)> {
        let text = self.document.slice(&node.span);
        let words: HashSet<&str> = text.split(':').filter_map(last_word).collect();
        let mut seen: HashSet<&str> = own_declarations(self.document, node);
        let mut found = Vec::new();
        let mut next = node.outer_scope;
        while let Some(binding) = next.and_then(|i| self.document.bindings.get(i as usize)) {
            let prefix = self.document.slice(&binding.prefix);
            let namespace = self.document.namespace(binding.namespace);
            let is_used = prefix.is_empty() || words.contains(prefix);
            if is_used && seen.insert(prefix) && !namespace.is_empty() {
                found.push((prefix, namespace));
            }
            next = binding.outer;
        }
        found.reverse();
        found
    }
}

/// Bytes of declarations that all fragments of a document together may take from outside.
const MAX_DECLARED: usize = 16 << 20;

/// The name at the end of a text.
fn last_word(text: &str) -> Option<&str> {
    let is_end = |c: char| c.is_whitespace() || "</>\"'=;,()[]{}".contains(c);
    text.rsplit(is_end).next().filter(|w| !w.is_empty())
}

/// The prefixes that the start tag of `node` declares.
fn own_declarations<'d>(document: &'d Document, node: &Node) -> HashSet<&'d str> {
    let mut found = HashSet::new();
    let mut next = node.scope;
    while next != node.outer_scope {
        let Some(binding) = next.and_then(|i| document.bindings.get(i as usize)) else {
            break;
        };
        found.insert(document.slice(&binding.prefix));
        next = binding.outer;
    }
    found
}
