//! XML-RPC values, as xapi writes them: numbers are plain text, nothing is an attribute.

use formats::{Error, Result};

use super::WHAT;
use crate::xml::{Element, escape_text};

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text; numbers too.
    Text(String),
    /// `<boolean>`.
    Boolean(bool),
    /// `<dateTime.iso8601>`.
    Date(String),
    /// `<struct>`: names and values, in order.
    Struct(Vec<(String, Value)>),
    /// `<array>`.
    Array(Vec<Value>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Boolean(value)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Text(number.to_string())
    }
}

impl Value {
    /// Reads a `<value>`. Elements nest as deep as [`crate::xml`] lets them.
    ///
    /// # Errors
    /// `Malformed` for what XML-RPC does not know, and members of one name.
    pub fn read(value: Element) -> Result<Value> {
        let Some(inside) = value.children().next() else {
            return Ok(Value::Text(value.raw_text().to_owned()));
        };
        match inside.name() {
            "struct" => read_struct(inside).map(Value::Struct),
            "array" => inside
                .child("data")
                .into_iter()
                .flat_map(|data| data.children())
                .map(Value::read)
                .collect::<Result<_>>()
                .map(Value::Array),
            "boolean" => match inside.text() {
                "1" | "true" => Ok(Value::Boolean(true)),
                "0" | "false" => Ok(Value::Boolean(false)),
                _ => Err(inside.malformed("neither 0 nor 1")),
            },
            "dateTime.iso8601" => Ok(Value::Date(inside.text().to_owned())),
            "nil" => Ok(Value::Text(String::new())),
            "string" | "int" | "i4" | "double" | "i8" | "base64" => {
                Ok(Value::Text(inside.raw_text().to_owned()))
            }
            _ => Err(inside.malformed("not a value of XML-RPC")),
        }
    }

    /// The text, or what stands for the value in one.
    pub fn text(&self) -> &str {
        match self {
            Value::Text(text) | Value::Date(text) => text,
            Value::Boolean(true) => "1",
            Value::Boolean(false) => "0",
            Value::Struct(_) | Value::Array(_) => "",
        }
    }

    /// Whether it is true, in any of the spellings in use.
    pub fn is_true(&self) -> bool {
        matches!(self.text(), "1" | "true")
    }

    /// The member of a struct.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Struct(members) => members.iter().find(|(n, _)| n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Names and texts of a struct's members.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let members: &[(String, Value)] = match self {
            Value::Struct(members) => members,
            _ => &[],
        };
        members
            .iter()
            .map(|(name, value)| (name.as_str(), value.text()))
    }

    /// The values of an array.
    pub fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) => items,
            _ => &[],
        }
    }

    /// Writes a `<value>`.
    pub fn write(&self, out: &mut String) {
        *out += "<value>";
        match self {
            Value::Text(text) => *out += &escape_text(text),
            Value::Boolean(value) => {
                *out += if *value {
                    "<boolean>1</boolean>"
                } else {
                    "<boolean>0</boolean>"
                };
            }
            Value::Date(date) => {
                *out += &format!("<dateTime.iso8601>{}</dateTime.iso8601>", escape_text(date));
            }
            Value::Struct(members) => {
                *out += "<struct>";
                for (name, value) in members {
                    *out += &format!("<member><name>{}</name>", escape_text(name));
                    value.write(out);
                    *out += "</member>";
                }
                *out += "</struct>";
            }
            Value::Array(items) => {
                *out += "<array><data>";
                items.iter().for_each(|item| item.write(out));
                *out += "</data></array>";
            }
        }
        *out += "</value>";
    }
}

fn read_struct(element: Element) -> Result<Vec<(String, Value)>> {
    let mut members: Vec<(String, Value)> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for member in element.children() {
        let (name, value) = match (member.child("name"), member.child("value")) {
            (Some(name), Some(value)) if member.name() == "member" => (name.text(), value),
            _ => return Err(member.malformed("not a member of a struct")),
        };
        if !names.insert(name) {
            return Err(Error::malformed(WHAT, "two members of one name")
                .found(format!("{name:?} in line {}", member.line())));
        }
        members.push((name.to_owned(), Value::read(value)?));
    }
    Ok(members)
}
