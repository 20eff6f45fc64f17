//! Elements, one a line, indented.

use crate::xml::{escape_attribute, escape_text};

/// A document in the making.
pub(super) struct Writer {
    text: String,
    depth: usize,
}

impl Writer {
    pub fn new() -> Writer {
        Writer {
            text: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned(),
            depth: 0,
        }
    }

    fn indent(&mut self) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
    }

    fn tag<V: AsRef<str>>(&mut self, name: &str, attributes: &[(&str, V)], end: &str) {
        self.indent();
        self.text += &format!("<{name}");
        for (key, value) in attributes {
            self.text += &format!(" {key}=\"{}\"", escape_attribute(value.as_ref()));
        }
        self.text += end;
    }

    /// The start of an element that others are in.
    pub fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes, ">\n");
        self.depth += 1;
    }

    /// As [`Writer::open`].
    pub fn open_owned(&mut self, name: &str, attributes: &[(&str, String)]) {
        self.tag(name, attributes, ">\n");
        self.depth += 1;
    }

    /// The end of the element that was opened last.
    pub fn close(&mut self, name: &str) {
        self.depth = self.depth.saturating_sub(1);
        self.indent();
        self.text += &format!("</{name}>\n");
    }

    /// An element with nothing in it.
    pub fn empty(&mut self, name: &str, attributes: &[(&str, String)]) {
        self.tag(name, attributes, "/>\n");
    }

    /// An element with a text in it.
    pub fn text(&mut self, name: &str, text: &str) {
        self.indent();
        self.text += &format!("<{name}>{}</{name}>\n", escape_text(text));
    }

    /// An element with attributes and a text in it.
    pub fn text_with(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.tag(name, attributes, ">");
        self.text += &format!("{}</{name}>\n", escape_text(text));
    }

    /// Whole elements, as they are.
    pub fn raw(&mut self, xml: &str) {
        self.indent();
        self.text += xml;
        self.text.push('\n');
    }

    /// The document.
    pub fn finish(self) -> String {
        self.text
    }
}
