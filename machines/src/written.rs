//! A description that was made, and what it could not say.

use crate::machine::Machine;

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

/// What neither an OVF nor a VMX has words for, of drives and ports.
pub(crate) fn drives_unsaid(machine: &Machine, written: &mut Written) {
    let disks = machine.disks.iter();
    let names: Vec<&str> = disks
        .clone()
        .filter_map(|disk| disk.name.as_deref())
        .collect();
    let names: Vec<&str> = names.into_iter().filter(|name| !is_counted(name)).collect();
    if !names.is_empty() {
        written.note(format!("names of disks are left out: {}", listed(names)));
    }
    for (number, disk) in (1..).zip(disks) {
        if disk.read_only {
            written.note(format!(
                "disk {number} will be writable: the target cannot say that it is not"
            ));
        }
        if disk.bootable == Some(true) && number > 1 {
            written.note(format!(
                "the machine starts from disk {number}: set that in the target's boot order"
            ));
        }
    }
    for (number, floppy) in (1..).zip(&machine.floppies) {
        if let Some(medium) = &floppy.medium {
            written.note(format!(
                "what is in floppy drive {number} is left out: {}",
                listed([medium.href.as_str()])
            ));
        }
    }
}

/// Whether a name is no more than the number of a disk, as every product gives one.
fn is_counted(name: &str) -> bool {
    let words = ["hard disk ", "hard drive ", "disk ", "disk", "harddisk"];
    let name = name.trim().to_ascii_lowercase();
    let number = words.iter().find_map(|word| name.strip_prefix(word));
    number.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
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
