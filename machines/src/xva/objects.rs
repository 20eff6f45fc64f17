//! Rows of xapi's database, by class and reference.

use std::collections::HashMap;

use formats::{Error, Result};

use super::{NULL, Value, WHAT};
use crate::text::check_characters;
use crate::units::number;

/// Rows of an export. One machine with its snapshots has a few hundred.
const MAX_OBJECTS: usize = 50_000;

/// A row.
#[derive(Debug)]
pub(super) struct Object<'v> {
    pub class: &'v str,
    pub reference: &'v str,
    fields: HashMap<&'v str, &'v Value>,
}

impl<'v> Object<'v> {
    /// A field.
    pub fn get(&self, field: &str) -> Option<&'v Value> {
        self.fields.get(field).copied()
    }

    /// The text of a field, empty if there is none.
    pub fn text(&self, field: &str) -> &'v str {
        self.get(field).map_or("", Value::text)
    }

    /// The text of a field, unless it is empty.
    pub fn filled(&self, field: &str) -> Option<&'v str> {
        Some(self.text(field).trim()).filter(|t| !t.is_empty())
    }

    /// Whether a field is true.
    pub fn is_true(&self, field: &str) -> bool {
        self.get(field).is_some_and(Value::is_true)
    }

    /// The value of a key in a field that is a map.
    pub fn in_map(&self, field: &str, key: &str) -> Option<&'v str> {
        let text = self.get(field)?.get(key)?.text().trim();
        (!text.is_empty()).then_some(text)
    }

    /// A field that is a whole number.
    pub fn number(&self, field: &'static str) -> Result<Option<u64>> {
        match self.filled(field) {
            Some(text) => number(text, field).map(Some).map_err(|e| {
                e.hint(format!(
                    "it is in {} {}",
                    self.class,
                    crate::text::shown(self.reference)
                ))
            }),
            None => Ok(None),
        }
    }

    /// The reference in a field, unless it stands for nothing.
    pub fn reference(&self, field: &str) -> Option<&'v str> {
        self.filled(field).filter(|r| *r != NULL)
    }
}

/// All rows.
#[derive(Debug, Default)]
pub(super) struct Objects<'v> {
    all: Vec<Object<'v>>,
    by_reference: HashMap<&'v str, usize>,
}

impl<'v> Objects<'v> {
    /// Takes the rows of `objects`.
    ///
    /// # Errors
    /// `Malformed` for rows without a class or a reference and two with one reference, `Limit` for too many.
    pub fn new(objects: &'v Value) -> Result<Objects<'v>> {
        let mut found = Objects::default();
        for (index, row) in objects.items().iter().enumerate() {
            let wrong = |message: &'static str| {
                Error::malformed(format!("{WHAT}: object {}", index + 1), message)
            };
            if index >= MAX_OBJECTS {
                return Err(Error::limit(WHAT, "too many objects")
                    .expected(format!("at most {MAX_OBJECTS}")));
            }
            let class = row.get("class").map(Value::text).filter(|c| !c.is_empty());
            let class = class.ok_or_else(|| wrong("no class"))?;
            let reference = row.get("id").map(Value::text).filter(|i| !i.is_empty());
            let reference = reference.ok_or_else(|| wrong("no id"))?;
            check_characters(reference, "reference of an object")?;
            let Some(Value::Struct(fields)) = row.get("snapshot") else {
                return Err(wrong("no fields"));
            };
            let fields = fields.iter().map(|(name, value)| (name.as_str(), value));
            if found
                .by_reference
                .insert(reference, found.all.len())
                .is_some()
            {
                return Err(wrong("its id is another's already").found(format!("{reference:?}")));
            }
            found.all.push(Object {
                class,
                reference,
                fields: fields.collect(),
            });
        }
        Ok(found)
    }

    /// The row of a class with this reference.
    pub fn find(&self, class: &str, reference: &str) -> Option<&Object<'v>> {
        let index = self.by_reference.get(reference)?;
        self.all.get(*index).filter(|o| o.class == class)
    }

    /// All rows of a class, in order.
    pub fn of_class(&self, class: &str) -> impl Iterator<Item = &Object<'v>> {
        self.all.iter().filter(move |o| o.class == class)
    }

    /// Rows of a class by the machine that they name.
    pub fn by_machine(&self, class: &str) -> HashMap<&'v str, Vec<&Object<'v>>> {
        let mut found: HashMap<&str, Vec<&Object>> = HashMap::new();
        for object in self.of_class(class) {
            found.entry(object.text("VM")).or_default().push(object);
        }
        found
    }
}
