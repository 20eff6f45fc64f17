//! Programs that read packages, each with what it says of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::skip::named_by;
use super::{Folder, have, s, tool};

/// What a program said of a machine, as far as it does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    pub name: String,
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// `bios` or `efi`.
    pub firmware: String,
    /// virt-v2v: bus of each. cot: device of each.
    pub disks: Vec<String>,
    /// MAC and model of each; cot only counts them.
    pub nics: Vec<(String, String)>,
    /// Complaints, one a line.
    pub complaints: Vec<String>,
}

/// Runs `program` and answers its exit code, and what it said on both ways.
pub fn ask(program: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// DMTF's schema, `dsp8023_1.1.1.xsd`, if `DISKFERRY_OVF_SCHEMA` names it and the program to judge by it is there.
pub fn schema() -> Option<PathBuf> {
    let schema = named_by("DISKFERRY_OVF_SCHEMA")?;
    have("xmllint").then_some(schema)
}

/// What xmllint finds wrong in a descriptor by the schema.
pub fn schema_errors(schema: &Path, ovf: &Path) -> Vec<String> {
    let arguments = ["--nonet", "--noout", "--schema", s(schema), s(ovf)];
    let (code, _, said) = ask("xmllint", &arguments);
    if code == Some(0) {
        return Vec::new();
    }
    said.lines()
        .filter(|line| !line.contains("Skipping import"))
        .map(str::to_owned)
        .collect()
}

/// What virt-v2v sees in an OVA, or in a folder with an OVF: `Err` with its words if it refuses.
pub fn virt_v2v(package: &Path) -> Result<Told, String> {
    let (code, told, complaints) = ask("virt-v2v", &["-i", "ova", s(package), "--print-source"]);
    if code != Some(0) {
        return Err(told + &complaints);
    }
    let mut machine = Told {
        complaints: complaints.lines().map(str::to_owned).collect(),
        ..Told::default()
    };
    let mut list = "";
    for line in told.lines() {
        match line.split_once(':') {
            Some(("disks" | "NICs" | "removable media", _)) => {
                list = line.trim_end_matches(':');
            }
            Some((key, value)) if list.is_empty() => {
                v2v_fact(&mut machine, key.trim(), value.trim());
            }
            _ if line.trim().is_empty() => {}
            _ if list == "disks" => machine.disks.push(bracketed(line)),
            // `Bridge "VM Network" mac: 00:50:56:aa:bb:cc [e1000]`
            _ if list == "NICs" => {
                let mac = line.split("mac: ").nth(1).unwrap_or_default();
                let mac = mac.split(' ').next().unwrap_or_default();
                machine.nics.push((mac.trim().to_owned(), bracketed(line)));
            }
            _ => {}
        }
    }
    Ok(machine)
}

fn v2v_fact(machine: &mut Told, key: &str, value: &str) {
    let number = || {
        let digits = value.split(' ').next().unwrap_or_default();
        digits.parse().unwrap_or_else(|_| panic!("{key}: {value}"))
    };
    match key {
        "source name" => machine.name = value.to_owned(),
        "memory" => machine.memory = number(),
        "nr vCPUs" => machine.cpus = number(),
        "firmware" => machine.firmware = value.replace("uefi", "efi"),
        _ => {}
    }
}

/// What stands in the last brackets of a line.
fn bracketed(line: &str) -> String {
    let start = line.rfind('[').map_or(line.len(), |at| at + 1);
    line[start..].trim_end_matches(']').to_owned()
}

/// What cot sees. It ends well whatever it finds: complaints are what it calls an error.
pub fn cot(package: &Path) -> Told {
    let (code, told, complaints) = ask("cot", &["info", "-v", s(package)]);
    assert_eq!(code, Some(0), "cot: {told}{complaints}");
    let mut machine = Told {
        complaints: complaints
            .lines()
            .filter(|line| line.contains("ERROR"))
            .map(str::to_owned)
            .collect(),
        ..Told::default()
    };
    for line in told.lines() {
        if let Some(device) = line.split("harddisk @ ").nth(1) {
            machine.disks.push(device.trim().to_owned());
        }
        // `  None (default)            2   512 MiB    1       0  1 /     8 MiB`
        let Some(row) = line.trim().strip_prefix("None (default)") else {
            continue;
        };
        let words: Vec<&str> = row.split_whitespace().collect();
        let [cpus, memory, unit, nics, ..] = words[..] else {
            panic!("cot: {line}");
        };
        machine.cpus = cpus.parse().expect("a number");
        let memory: f64 = memory.parse().expect("a number");
        let unit = ["B", "KiB", "MiB", "GiB", "TiB"]
            .iter()
            .position(|u| *u == unit);
        machine.memory = (memory * 1024_f64.powi(unit.expect("a unit") as i32)) as u64;
        let nics: usize = nics.parse().expect("a number");
        machine.nics = vec![(String::new(), String::new()); nics];
    }
    machine
}

/// What Ganeti made of a package: lines of its `config.ini`, and raw disks in their order.
#[derive(Debug)]
pub struct Ganeti {
    /// Holds the disks; goes away with this.
    pub folder: Folder,
    pub config: BTreeMap<String, String>,
    pub disks: Vec<PathBuf>,
}

impl Ganeti {
    /// Imports a package, if it can: its exit code says nothing.
    pub fn import(package: &Path) -> Result<Ganeti, String> {
        let folder = Folder::new();
        let arguments = ["import", s(package), "--output-dir", s(folder.path())];
        // What a package of others does not say.
        let own = [
            "-o",
            "debootstrap+default",
            "-n",
            "vm1",
            "-t",
            "plain",
            "-v",
        ];
        let (_, _, said) = ask("ovfconverter", &[&arguments[..], &own].concat());
        let made = folder.file("vm1");
        let Ok(text) = std::fs::read_to_string(made.join("config.ini")) else {
            return Err(said);
        };
        let lines = text.lines().filter_map(|line| line.split_once(" = "));
        let config: BTreeMap<String, String> = lines
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let names = (0..).map_while(|n| config.get(&format!("disk{n}_dump")));
        let disks = names.map(|name| made.join(name)).collect();
        Ok(Ganeti {
            folder,
            config,
            disks,
        })
    }

    pub fn get(&self, key: &str) -> &str {
        self.config.get(key).map_or("", String::as_str)
    }
}

/// What xva-img makes of the disk `id` of an XVA with SHA-1 sums, as a raw file in `folder`.
pub fn xva_img_export(xva: &Path, id: &str, folder: &Folder) -> Result<PathBuf, String> {
    let unpacked = unpack(xva);
    let raw = folder.file("xva-img.raw");
    let blocks = unpacked.file(id);
    // It takes a folder only with a slash behind it.
    let blocks = format!("{}/", s(&blocks));
    let (code, told, said) = ask("xva-img", &["-p", "disk-export", &blocks, s(&raw)]);
    let has_content = raw.metadata().is_ok_and(|m| m.len() > 0);
    if code == Some(0) && has_content {
        Ok(raw)
    } else {
        Err(told + &said)
    }
}

/// The members of a package, unpacked by GNU tar, without the rights that they are said to have.
pub fn unpack(package: &Path) -> Folder {
    let folder = Folder::new();
    tool("tar", &["-xf", s(package), "-C", s(folder.path())]);
    tool("chmod", &["-R", "u+rwX", s(folder.path())]);
    folder
}

/// Names and lengths of the members, by GNU tar.
pub fn gnu_tar_list(package: &Path) -> Vec<(String, u64)> {
    let text = tool("tar", &["--numeric-owner", "-tvf", s(package)]);
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, _, size, _, _, name] = words[..] else {
                panic!("tar: {line}");
            };
            (name.to_owned(), size.parse().expect("a size"))
        })
        .collect()
}

/// The same by Python's tarfile, which also says that every member is a plain file.
pub fn python_tar_list(package: &Path) -> Vec<(String, u64)> {
    let program = "import sys, tarfile\n\
        for m in tarfile.open(sys.argv[1], 'r:'):\n\
        \x20   assert m.isreg() and not m.pax_headers, m\n\
        \x20   print(m.size, m.name)\n";
    let text = tool("python3", &["-c", program, s(package)]);
    text.lines()
        .map(|line| {
            let (size, name) = line.split_once(' ').expect("two words");
            (name.to_owned(), size.parse().expect("a size"))
        })
        .collect()
}
