//! Picking a machine of a package, and a disk of a machine.

use formats::{Error, Result};
use machines::Machine;

use crate::opened::Opened;

/// What a user wants of a package.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// A machine: its name, its id, or its number from 1 (`#1` if machines have numbers for names).
    pub machine: Option<String>,
    /// A disk: its number from 1, its name, its id or its file.
    pub disk: Option<String>,
}

impl Choice {
    /// The machines that are meant: the one that was named, or all of them.
    ///
    /// # Errors
    /// `Usage` when there is none of that name.
    pub fn machines(&self, opened: &Opened) -> Result<Vec<usize>> {
        let machines = &opened.package.machines;
        let Some(wanted) = &self.machine else {
            return Ok((0..machines.len()).collect());
        };
        let all = |is_meant: &dyn Fn(&Machine) -> bool| -> Vec<usize> {
            let found = machines.iter().enumerate().filter(|(_, m)| is_meant(m));
            found.map(|(index, _)| index).collect()
        };
        // The name of one machine may be the id of another.
        let mut found = all(&|m| m.name == *wanted);
        if found.is_empty() {
            found = all(&|m| m.id.as_deref() == Some(wanted));
        }
        let by_number = number(wanted, machines.len());
        match (&found[..], by_number) {
            ([one], _) => Ok(vec![*one]),
            ([], Some(number)) => Ok(vec![number]),
            ([], None) => Err(unknown("--vm", "the package has no such machine", wanted)
                .expected(listed_machines(machines))
                .in_file(opened.path())),
            _ => Err(unknown("--vm", "several machines have this name", wanted)
                .expected(format!("its number, #1 to #{}", machines.len()))
                .in_file(opened.path())),
        }
    }

    /// The one machine that is meant.
    ///
    /// # Errors
    /// `Usage` when nobody can tell which, `Malformed` for a package without machines.
    pub fn machine(&self, opened: &Opened) -> Result<usize> {
        match self.machines(opened)?[..] {
            [one] => Ok(one),
            [] => Err(Error::malformed("package", "describes no machine").in_file(opened.path())),
            _ => Err(Error::usage("--vm", "the package has several machines")
                .expected(listed_machines(&opened.package.machines))
                .in_file(opened.path())),
        }
    }

    /// The disks that are meant: the one that was named, or all of them.
    ///
    /// # Errors
    /// `Usage` when there is none of that name.
    pub fn disks(&self, opened: &Opened, machine: usize) -> Result<Vec<usize>> {
        let Some(machine) = opened.package.machines.get(machine) else {
            return Ok(Vec::new());
        };
        let Some(wanted) = &self.disk else {
            return Ok((0..machine.disks.len()).collect());
        };
        if let Some(number) = number(wanted, machine.disks.len()) {
            return Ok(vec![number]);
        }
        let is_meant = |index: &usize| {
            let disk = machine.disks.get(*index);
            disk.is_some_and(|disk| {
                let file = disk.image.file.as_ref().map(|file| file.href.as_str());
                [disk.name.as_deref(), disk.image.id.as_deref(), file].contains(&Some(wanted))
            })
        };
        let by_name: Vec<usize> = (0..machine.disks.len()).filter(is_meant).collect();
        match by_name.len() {
            1 => Ok(by_name),
            0 => Err(unknown("--disk", "the machine has no such disk", wanted)
                .expected(listed_disks(machine))
                .in_file(opened.path())),
            _ => Err(unknown("--disk", "several disks have this name", wanted)
                .expected("its number, from 1")
                .in_file(opened.path())),
        }
    }

    /// The one disk that is meant.
    ///
    /// # Errors
    /// `Usage` when nobody can tell which, `Malformed` for a machine without disks.
    pub fn disk(&self, opened: &Opened, machine: usize) -> Result<usize> {
        match self.disks(opened, machine)?[..] {
            [one] => Ok(one),
            [] => {
                Err(Error::malformed("package", "the machine has no disk").in_file(opened.path()))
            }
            _ => {
                let disks = opened.package.machines.get(machine).map(listed_disks);
                Err(Error::usage("--disk", "the machine has several disks")
                    .expected(disks.unwrap_or_default())
                    .hint("pick one, or name a folder as the target for all of them")
                    .in_file(opened.path()))
            }
        }
    }
}

/// The index that a number from 1 stands for.
fn number(text: &str, count: usize) -> Option<usize> {
    let number: usize = text.strip_prefix('#').unwrap_or(text).parse().ok()?;
    number.checked_sub(1).filter(|index| *index < count)
}

fn unknown(option: &'static str, why: &'static str, wanted: &str) -> Error {
    Error::usage(option, why).found(format!("{wanted:?}"))
}

fn listed_machines(machines: &[Machine]) -> String {
    let names = machines.iter().take(20).map(|m| format!("{:?}", m.name));
    format!("one of {}", names.collect::<Vec<_>>().join(", "))
}

fn listed_disks(machine: &Machine) -> String {
    let disks = machine.disks.iter().take(20).enumerate().map(|(index, d)| {
        let file = d.image.file.as_ref().map(|file| file.href.as_str());
        let name = d.name.as_deref().or(file).or(d.image.id.as_deref());
        format!(
            "{} ({})",
            index + 1,
            name.unwrap_or("without a name").escape_debug()
        )
    });
    format!("one of {}", disks.collect::<Vec<_>>().join(", "))
}
