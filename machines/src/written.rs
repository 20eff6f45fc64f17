//! A description that was made, and what it could not say.

/// A text, and what was lost on the way to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The description.
    pub text: String,
    /// What the machine said and the text does not, one sentence each.
    pub notes: Vec<String>,
}

impl Written {
    /// Adds a note once.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// `keys` in a sentence: the first few of them, and how many more.
pub(crate) fn listed<'k>(keys: impl IntoIterator<Item = &'k str>) -> String {
    let keys: Vec<&str> = keys.into_iter().collect();
    let shown = keys.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    let shown = shown.escape_debug();
    match keys.len().saturating_sub(8) {
        0 => shown.to_string(),
        more => format!("{shown} and {more} more"),
    }
}
