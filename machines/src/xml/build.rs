//! From text to the tree: well-formedness, namespaces and the caps.

use std::cell::Cell;
use std::collections::HashMap;

use formats::{Error, Result};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::escape::is_xml_char;
use super::{Attribute, Binding, Document, Node, Span, XML_NAMESPACE};

/// Elements inside each other.
const MAX_DEPTH: usize = 64;
/// Elements of a document: the largest known descriptor, of 4 MB, has a few thousand.
const MAX_ELEMENTS: usize = 200_000;
/// Attributes of an element.
const MAX_ATTRIBUTES: usize = 256;
/// Prefixes in scope at one place. Each name is looked up among them.
const MAX_BINDINGS: usize = 128;

struct Builder<'w> {
    document: Document,
    what: &'w str,
    known_namespaces: HashMap<String, u32>,
    open: Vec<Open>,
    scope: Option<u32>,
    bindings_in_scope: usize,
}

/// An element whose end has not come yet.
struct Open {
    node: u32,
    last_child: Option<u32>,
    content: String,
    bindings: usize,
}

pub(super) fn parse(text: String, what: &str) -> Result<Document> {
    let mut builder = Builder {
        document: Document {
            text: String::new(),
            nodes: Vec::new(),
            attributes: Vec::new(),
            bindings: Vec::new(),
            namespaces: vec![String::new()],
            undeclared: Vec::new(),
            declared: Cell::new(0),
            line_ends: text
                .bytes()
                .zip(0u32..)
                .filter(|(b, _)| *b == b'\n')
                .map(|(_, at)| at)
                .collect(),
        },
        what,
        known_namespaces: HashMap::from([(String::new(), 0)]),
        open: Vec::new(),
        scope: None,
        bindings_in_scope: 0,
    };
    builder.run(&text)?;
    builder.document.text = text;
    Ok(builder.document)
}

impl Builder<'_> {
    fn run(&mut self, text: &str) -> Result<()> {
        if let Some(at) = text.find(|c| !is_xml_char(c)) {
            return Err(self.error("a character that XML does not have", at));
        }
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_comments = false;
        loop {
            let start = reader.buffer_position() as usize;
            let event = reader
                .read_event()
                .map_err(|e| self.error(e.to_string(), reader.error_position() as usize))?;
            let end = reader.buffer_position() as usize;
            match event {
                Event::Start(tag) => self.start(&tag, text, start..end)?,
                Event::Empty(tag) => {
                    self.start(&tag, text, start..end)?;
                    self.end(end)?;
                }
                Event::End(_) => self.end(end)?,
                Event::Text(words) => self.content(&words.xml10_content(), start)?,
                Event::CData(words) => self.content(&words.xml10_content(), start)?,
                Event::GeneralRef(name) => {
                    let raw = name.into_inner();
                    let c = self.reference(&raw, start)?;
                    self.content(c.encode_utf8(&mut [0; 4]), start)?;
                }
                Event::DocType(_) => return Err(self.refused("a DTD", start)),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Decl(_) if start == 0 => {}
                Event::Decl(_) => {
                    return Err(self.error("a declaration that is not at the beginning", start));
                }
                Event::Eof => return self.finish(text.len()),
            }
        }
    }

    fn error(&self, message: impl Into<std::borrow::Cow<'static, str>>, at: usize) -> Error {
        Error::malformed(self.what.to_owned(), message).at(at as u64)
    }

    fn refused(&self, what: &str, at: usize) -> Error {
        let message =
            format!("{what}, which descriptions do not need and parsers are attacked with");
        Error::refused(self.what.to_owned(), message).at(at as u64)
    }

    fn limit(&self, what: &'static str, most: usize, at: usize) -> Error {
        Error::limit(self.what.to_owned(), what)
            .expected(format!("at most {most}"))
            .at(at as u64)
    }

    fn finish(&self, at: usize) -> Result<()> {
        if !self.open.is_empty() {
            return Err(self.error("ends inside an element", at));
        }
        if self.document.nodes.is_empty() {
            return Err(self.error("no element in it", at));
        }
        Ok(())
    }

    /// What a reference (`&name;`, `&#…;`) stands for.
    fn reference(&self, raw: &str, at: usize) -> Result<char> {
        let code = match raw.strip_prefix('#') {
            None => {
                return match raw {
                    "lt" => Ok('<'),
                    "gt" => Ok('>'),
                    "amp" => Ok('&'),
                    "quot" => Ok('"'),
                    "apos" => Ok('\''),
                    _ => Err(self.refused("an entity", at).found(format!("&{raw};"))),
                };
            }
            Some(number) => match number.strip_prefix('x') {
                Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                    u32::from_str_radix(hex, 16).ok()
                }
                None if number.bytes().all(|b| b.is_ascii_digit()) => number.parse().ok(),
                _ => None,
            },
        };
        code.and_then(char::from_u32)
            .filter(|c| is_xml_char(*c))
            .ok_or_else(|| {
                self.error("a number that is no character of XML", at)
                    .found(format!("&{raw};"))
            })
    }

    fn content(&mut self, words: &str, at: usize) -> Result<()> {
        match self.open.last_mut() {
            Some(open) => open.content += words,
            None if words.trim().is_empty() => {}
            None => return Err(self.error("text outside of the root element", at)),
        }
        Ok(())
    }

    fn start(&mut self, tag: &BytesStart, text: &str, span: std::ops::Range<usize>) -> Result<()> {
        let at = span.start;
        if self.open.is_empty() && !self.document.nodes.is_empty() {
            return Err(self.error("a second root element", at));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.limit("elements nested too deeply", MAX_DEPTH, at));
        }
        if self.document.nodes.len() >= MAX_ELEMENTS {
            return Err(self.limit("too many elements", MAX_ELEMENTS, at));
        }
        let outer_scope = self.scope;
        let bindings_before = self.bindings_in_scope;
        let raw = self.raw_attributes(tag, text, at)?;
        for (prefix, local, value) in &raw {
            self.declare(text, prefix, local, value, at)?;
        }
        let attributes = self.attributes(text, raw, at)?;
        let (prefix, local) = split_name(text, span_of(text, tag.name().0));
        let namespace = self.resolve(text, &prefix, at)?;
        let index = self.document.nodes.len() as u32;
        self.document.nodes.push(Node {
            span: at as u32..span.end as u32,
            local,
            namespace,
            attributes,
            scope: self.scope,
            outer_scope,
            first_child: None,
            next: None,
            content: None,
        });
        self.link(index);
        self.open.push(Open {
            node: index,
            last_child: None,
            content: String::new(),
            bindings: bindings_before,
        });
        Ok(())
    }

    /// Hangs a new element in where it belongs.
    fn link(&mut self, index: u32) {
        let Some(parent) = self.open.last_mut() else {
            return;
        };
        let before = parent.last_child.replace(index);
        let nodes = &mut self.document.nodes;
        match before.and_then(|b| nodes.get_mut(b as usize)) {
            Some(sibling) => sibling.next = Some(index),
            None => {
                if let Some(node) = nodes.get_mut(parent.node as usize) {
                    node.first_child = Some(index);
                }
            }
        }
    }

    fn end(&mut self, at: usize) -> Result<()> {
        let Some(open) = self.open.pop() else {
            return Err(self.error("an end tag without a start", at));
        };
        self.bindings_in_scope = open.bindings;
        if let Some(node) = self.document.nodes.get_mut(open.node as usize) {
            node.span.end = at as u32;
            self.scope = node.outer_scope;
            if !open.content.trim().is_empty() {
                node.content = Some(open.content.into());
            }
        }
        Ok(())
    }

    /// The attributes of a tag: where their prefix and local name stand, and what they say.
    fn raw_attributes(
        &self,
        tag: &BytesStart,
        text: &str,
        at: usize,
    ) -> Result<Vec<(Span, Span, String)>> {
        let mut found = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|e| self.error(e.to_string(), at))?;
            if found.len() >= MAX_ATTRIBUTES {
                return Err(self.limit("too many attributes", MAX_ATTRIBUTES, at));
            }
            let (prefix, local) = split_name(text, span_of(text, attribute.key.0));
            let value = self.attribute_value(&attribute.value, at)?;
            found.push((prefix, local, value));
        }
        Ok(found)
    }

    /// The value of an attribute: references resolved, line breaks and tabs as blanks (XML 1.0, 3.3.3).
    fn attribute_value(&self, raw: &str, at: usize) -> Result<String> {
        let mut value = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some(next) = rest.find(['&', '<', '\n', '\t', '\r']) {
            value += rest.get(..next).unwrap_or_default();
            let after = rest.get(next + 1..).unwrap_or_default();
            rest = match rest.as_bytes().get(next) {
                Some(b'&') => {
                    let (name, after) = after
                        .split_once(';')
                        .ok_or_else(|| self.error("an & without its end", at))?;
                    value.push(self.reference(name, at)?);
                    after
                }
                Some(b'<') => return Err(self.error("a < inside an attribute", at)),
                Some(b'\r') => {
                    value.push(' ');
                    after.strip_prefix('\n').unwrap_or(after)
                }
                _ => {
                    value.push(' ');
                    after
                }
            };
        }
        value += rest;
        Ok(value)
    }

    /// Takes `xmlns` and `xmlns:…` into scope.
    fn declare(
        &mut self,
        text: &str,
        prefix: &Span,
        local: &Span,
        value: &str,
        at: usize,
    ) -> Result<()> {
        let declared = match (slice(text, prefix), slice(text, local)) {
            ("", "xmlns") => 0..0,
            ("xmlns", _) => local.clone(),
            _ => return Ok(()),
        };
        self.bindings_in_scope += 1;
        if self.bindings_in_scope > MAX_BINDINGS {
            return Err(self.limit("too many namespaces in scope", MAX_BINDINGS, at));
        }
        let namespace = self.intern(value);
        let index = self.document.bindings.len() as u32;
        self.document.bindings.push(Binding {
            prefix: declared,
            namespace,
            outer: self.scope,
        });
        self.scope = Some(index);
        Ok(())
    }

    fn attributes(
        &mut self,
        text: &str,
        raw: Vec<(Span, Span, String)>,
        at: usize,
    ) -> Result<Span> {
        let first = self.document.attributes.len();
        for (prefix, local, value) in raw {
            let (space, name) = (slice(text, &prefix), slice(text, &local));
            if space == "xmlns" || space.is_empty() && name == "xmlns" {
                continue;
            }
            let namespace = match self.lookup(text, &prefix) {
                _ if space.is_empty() => 0,
                Some(namespace) => namespace,
                None => self.undeclared(space),
            };
            let of_this_tag = self.document.attributes.get(first..).unwrap_or_default();
            let is_double = of_this_tag
                .iter()
                .any(|a| a.namespace == namespace && slice(text, &a.local) == name);
            if is_double {
                return Err(self
                    .error("an attribute that is given twice", at)
                    .found(name));
            }
            self.document.attributes.push(Attribute {
                local,
                namespace,
                value: value.into(),
            });
        }
        Ok(first as u32..self.document.attributes.len() as u32)
    }

    /// The namespace of a prefix, if it has one.
    fn lookup(&mut self, text: &str, prefix: &Span) -> Option<u32> {
        let wanted = slice(text, prefix);
        let mut next = self.scope;
        while let Some(binding) = next.and_then(|i| self.document.bindings.get(i as usize)) {
            if slice(text, &binding.prefix) == wanted {
                return Some(binding.namespace);
            }
            next = binding.outer;
        }
        match wanted {
            "" => Some(0),
            "xml" => Some(self.intern(XML_NAMESPACE)),
            _ => None,
        }
    }

    fn resolve(&mut self, text: &str, prefix: &Span, at: usize) -> Result<u32> {
        self.lookup(text, prefix).ok_or_else(|| {
            self.error("a prefix that is declared nowhere", at)
                .found(format!("{}:", slice(text, prefix)))
        })
    }

    /// A namespace that is nobody's, for a prefix that stands for none.
    fn undeclared(&mut self, prefix: &str) -> u32 {
        let known = self.document.undeclared.iter().any(|p| p == prefix);
        if !known && self.document.undeclared.len() < MAX_BINDINGS {
            self.document.undeclared.push(prefix.to_owned());
        }
        self.intern(&format!("undeclared:{prefix}"))
    }

    fn intern(&mut self, namespace: &str) -> u32 {
        if let Some(index) = self.known_namespaces.get(namespace) {
            return *index;
        }
        let index = self.document.namespaces.len() as u32;
        self.document.namespaces.push(namespace.to_owned());
        self.known_namespaces.insert(namespace.to_owned(), index);
        index
    }
}

fn slice<'t>(text: &'t str, span: &Span) -> &'t str {
    text.get(span.start as usize..span.end as usize)
        .unwrap_or_default()
}

/// Where in `text` its part `part` stands.
fn span_of(text: &str, part: &str) -> Span {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start as u32..(start + part.len()) as u32
}

/// Where the prefix and the local name of a qualified name stand.
fn split_name(text: &str, name: Span) -> (Span, Span) {
    match slice(text, &name).find(':') {
        Some(colon) => {
            let colon = name.start + colon as u32;
            (name.start..colon, colon + 1..name.end)
        }
        None => (name.start..name.start, name),
    }
}
