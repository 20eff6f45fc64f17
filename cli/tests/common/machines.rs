//! What diskferry says of the machines in a package.

use std::path::Path;

use serde_json::Value;

use super::packages::sha256;
use super::{Finished, run, run_ok, s};

/// Facts of a machine that every description can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub name: String,
    pub cpus: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// `bios` or `efi`.
    pub firmware: Option<String>,
    pub disks: usize,
    /// Network and MAC of each.
    pub nics: Vec<(Option<String>, Option<String>)>,
}

/// Facts of the machines that `info --json` tells of, and the answer itself.
pub fn told(package: &Path) -> (Vec<Facts>, Value) {
    let answer = run_ok(&["info", s(package), "--json"]).json();
    // In the answer itself, or in the description that it gives.
    let machines = [&answer["machines"], &answer["package"]["machines"]];
    let machines = machines.into_iter().find_map(Value::as_array);
    let machines = machines.unwrap_or_else(|| panic!("no machines in {answer}"));
    (machines.iter().map(facts).collect(), answer)
}

fn facts(machine: &Value) -> Facts {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let empty = Vec::new();
    let nics = machine["nics"].as_array().unwrap_or(&empty);
    Facts {
        name: text(&machine["name"]).expect("a name"),
        cpus: machine["cpus"].as_u64(),
        memory: machine["memory"].as_u64(),
        firmware: text(&machine["firmware"]),
        disks: machine["disks"].as_array().map_or(0, Vec::len),
        nics: nics
            .iter()
            .map(|nic| (text(&nic["network"]), text(&nic["mac"])))
            .collect(),
    }
}

/// SHA-256 of the guest content of disk `number` (from 1) of a package.
pub fn disk_digest(package: &Path, number: usize) -> String {
    let number = number.to_string();
    super::guest_digest(package, &["--disk", &number]).0
}

/// The package holds these disks, in this order.
pub fn holds(package: &Path, contents: &[Vec<u8>]) {
    for (index, content) in contents.iter().enumerate() {
        let found = disk_digest(package, index + 1);
        assert_eq!(found, sha256(content), "{} {index}", package.display());
    }
}

/// What is said when the package is read, with a success or without.
pub fn digest(package: &Path, options: &[&str]) -> Finished {
    run(&[&["digest", s(package), "-a", "sha256", "--json"], options].concat())
}
