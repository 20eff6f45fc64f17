//! A reader that takes an XVA in as xapi does (`import.ml`, `stream_vdi.ml`): in one pass over the archive, in the order that
//! it expects, with its rules about which objects and fields must be there. It panics where xapi would refuse, or would
//! take in something else than what was exported.

use std::collections::BTreeMap;
use std::path::Path;

use roxmltree::{Document, Node};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use xxhash_rust::xxh64::xxh64;

use super::packages::hex;
use super::packages::tarball::{Archive, Found};

const NULL: &str = "OpaqueRef:NULL";
/// The newest (major, minor) that every host from XenServer 6.5 on opens.
const XAPI: (u64, u64) = (1, 20);

/// Fields without which xapi takes in no row of a class.
const REQUIRED: &[(&str, &str)] = &[
    (
        "VM",
        "uuid name_label name_description user_version is_a_template resident_on affinity memory_static_max \
         memory_dynamic_max memory_dynamic_min memory_static_min VCPUs_params VCPUs_max VCPUs_at_startup \
         actions_after_shutdown actions_after_reboot actions_after_crash PV_bootloader PV_kernel PV_ramdisk PV_args \
         PV_bootloader_args PV_legacy_args HVM_boot_policy HVM_boot_params platform PCI_bus other_config domid domarch \
         is_control_domain metrics guest_metrics recommendations power_state",
    ),
    (
        "VBD",
        "uuid VM VDI device userdevice bootable mode type empty storage_lock other_config currently_attached \
         status_code status_detail",
    ),
    (
        "VDI",
        "uuid name_label SR virtual_size physical_utilisation type sharable read_only other_config storage_lock \
         managed missing parent location sm_config",
    ),
    (
        "SR",
        "uuid name_label virtual_allocation physical_utilisation physical_size type content_type shared other_config \
         default_vdi_visibility",
    ),
    ("VIF", "uuid device network VM MAC MTU other_config"),
    ("network", "uuid name_label bridge other_config"),
];

/// A value of XML-RPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Flag(bool),
    Map(BTreeMap<String, Value>),
    Set(Vec<Value>),
}

impl Value {
    fn read(node: Node) -> Value {
        assert_eq!(node.tag_name().name(), "value", "ova.xml");
        let Some(inner) = node.first_element_child() else {
            return Value::Text(node.text().unwrap_or_default().to_owned());
        };
        let text = inner.text().unwrap_or_default();
        match inner.tag_name().name() {
            "string" | "dateTime.iso8601" => Value::Text(text.to_owned()),
            "boolean" => match text {
                "0" => Value::Flag(false),
                "1" => Value::Flag(true),
                other => panic!("ova.xml: a boolean {other:?}"),
            },
            "struct" => Value::Map(
                inner
                    .children()
                    .filter(Node::is_element)
                    .map(member)
                    .collect(),
            ),
            "array" => {
                let data = inner.first_element_child().expect("data");
                assert_eq!(data.tag_name().name(), "data", "ova.xml");
                Value::Set(
                    data.children()
                        .filter(Node::is_element)
                        .map(Value::read)
                        .collect(),
                )
            }
            other => panic!("ova.xml: a value of type {other}"),
        }
    }

    fn find(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Map(members) => members.get(name),
            _ => None,
        }
    }

    pub fn get(&self, name: &str) -> &Value {
        let found = self.find(name);
        found.unwrap_or_else(|| panic!("Field {name} not present in rpc: {self:?}"))
    }

    pub fn text(&self) -> &str {
        match self {
            Value::Text(text) => text,
            other => panic!("ova.xml: {other:?} is no text"),
        }
    }

    fn number(&self) -> u64 {
        let text = self.text();
        text.parse()
            .unwrap_or_else(|_| panic!("ova.xml: {text:?} is no number"))
    }

    fn items(&self) -> &[Value] {
        match self {
            Value::Set(items) => items,
            other => panic!("ova.xml: {other:?} is no set"),
        }
    }
}

fn member(node: Node) -> (String, Value) {
    assert_eq!(node.tag_name().name(), "member", "ova.xml");
    let mut parts = node.children().filter(Node::is_element);
    let name = parts.next().expect("a name");
    assert_eq!(name.tag_name().name(), "name", "ova.xml");
    (
        name.text().unwrap_or_default().to_owned(),
        Value::read(parts.next().expect("a value")),
    )
}

/// A disk that was taken in.
#[derive(Debug, Clone)]
pub struct Disk {
    pub id: String,
    pub name: String,
    pub size: u64,
    pub sha256: String,
    /// Blocks that stood in the archive, empty ones among them.
    pub blocks: usize,
}

/// A machine that was taken in.
#[derive(Debug, Clone)]
pub struct Machine {
    pub name: String,
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    pub firmware: Option<String>,
    pub secure_boot: bool,
    /// Ids of its disks by the number that the guest sees.
    pub disks: BTreeMap<u64, String>,
    pub cd_drives: usize,
    pub macs: Vec<String>,
    pub networks: Vec<String>,
}

/// Everything that was taken in.
#[derive(Debug, Clone)]
pub struct Imported {
    pub machines: Vec<Machine>,
    /// In the order of the archive.
    pub disks: Vec<Disk>,
    /// How the blocks' sums are named: `.checksum` or `.xxhash`.
    pub sums: Option<&'static str>,
}

impl Imported {
    /// The disks of a machine, in the order in which the guest meets them.
    pub fn disks_of(&self, machine: usize) -> Vec<&Disk> {
        let ids = self.machines[machine].disks.values();
        ids.map(|id| self.disks.iter().find(|d| d.id == *id).expect("a disk"))
            .collect()
    }
}

/// Takes in the export in the file at `path`.
pub fn import(path: &Path) -> Imported {
    import_by(path, true)
}

/// As [`import`], by a host that has defaults for fields that older ones ask for, and lets references lead nowhere: XCP-ng
/// 8.2, for which Xen Orchestra writes.
pub fn import_leniently(path: &Path) -> Imported {
    import_by(path, false)
}

fn import_by(path: &Path, is_strict: bool) -> Imported {
    let archive = Archive::open(path);
    let first = archive.members.first().expect("an empty archive");
    assert_eq!(first.name, "ova.xml", "the first member");
    let text = String::from_utf8(archive.data(first)).expect("ova.xml in UTF-8");
    let document = Document::parse(&text).expect("ova.xml");
    let root = Value::read(document.root_element());
    check_version(root.get("version"));
    let objects = Objects::of(root.get("objects"), is_strict);
    let mut blocks = Blocks {
        archive: &archive,
        members: archive.members[1..].iter(),
        first_len: None,
        sums: None,
    };
    let streamed = objects.streamed();
    let disks = streamed
        .iter()
        .map(|(id, vdi)| blocks.disk(id, vdi))
        .collect();
    let left: Vec<&str> = blocks.members.map(|m| m.name.as_str()).collect();
    assert_eq!(left, Vec::<&str>::new(), "members that belong to no disk");
    Imported {
        machines: objects.machines(),
        disks,
        sums: blocks.sums,
    }
}

fn check_version(version: &Value) {
    for name in [
        "hostname",
        "date",
        "product_version",
        "product_brand",
        "build_number",
    ] {
        version.get(name).text();
    }
    let xapi = (
        version.get("xapi_major").number(),
        version.get("xapi_minor").number(),
    );
    assert!(xapi <= XAPI, "import_incompatible_version: {xapi:?}");
    // Below, a table of sums is expected at the end.
    assert_eq!(version.get("export_vsn").number(), 2, "export_vsn");
}

struct Objects(Vec<(String, String, Value)>);

impl Objects {
    fn of(rows: &Value, is_strict: bool) -> Objects {
        let mut objects: Vec<(String, String, Value)> = Vec::new();
        for row in rows.items() {
            let (class, id) = (row.get("class").text(), row.get("id").text());
            assert!(id.starts_with("Ref:"), "an object with the id {id:?}");
            assert!(
                objects.iter().all(|o| o.1 != id),
                "two objects with the id {id}"
            );
            let fields = row.get("snapshot").clone();
            let required = REQUIRED
                .iter()
                .find(|(name, _)| is_strict && *name == class);
            for field in required.map_or("", |(_, fields)| fields).split_whitespace() {
                fields.get(field);
            }
            objects.push((class.to_owned(), id.to_owned(), fields));
        }
        for (_, _, fields) in objects.iter().filter(|_| is_strict) {
            no_hanging_reference(fields, &objects);
        }
        Objects(objects)
    }

    fn find(&self, class: &str, id: &str) -> &Value {
        let found = self.0.iter().find(|(c, i, _)| c == class && i == id);
        &found
            .unwrap_or_else(|| panic!("no {class} with the id {id}"))
            .2
    }

    fn of_class(&self, class: &str) -> impl Iterator<Item = (&str, &Value)> {
        let rows = self.0.iter().filter(move |(c, _, _)| c == class);
        rows.map(|(_, id, fields)| (id.as_str(), fields))
    }

    /// Disks whose blocks must follow, in the order in which they must.
    fn streamed(&self) -> BTreeMap<String, &Value> {
        let mut found = BTreeMap::new();
        for (_, vbd) in self.of_class("VBD") {
            self.find("VM", vbd.get("VM").text());
            let (kind, vdi) = (vbd.get("type").text(), vbd.get("VDI").text());
            assert!(["Disk", "CD"].contains(&kind), "a VBD of type {kind:?}");
            if kind == "CD" {
                continue;
            }
            assert!(vdi != NULL, "a disk without a VDI is not imported");
            let fields = self.find("VDI", vdi);
            let storage = self.find("SR", fields.get("SR").text());
            if let Some(kind) = storage.find("content_type") {
                assert_eq!(kind.text(), "user", "content_type");
            }
            found.insert(vdi.to_owned(), fields);
        }
        for (id, _) in self.of_class("VDI") {
            assert!(found.contains_key(id), "VDI {id} belongs to no VBD");
        }
        found
    }

    fn machines(&self) -> Vec<Machine> {
        self.of_class("VM")
            .map(|(id, fields)| self.machine(id, fields))
            .collect()
    }

    fn machine(&self, id: &str, fields: &Value) -> Machine {
        let memory = [
            "memory_static_max",
            "memory_dynamic_max",
            "memory_dynamic_min",
            "memory_static_min",
        ];
        let memory = memory.map(|name| fields.get(name).number());
        assert!(memory.is_sorted_by(|a, b| a >= b), "memory {memory:?}");
        let cpus = fields.get("VCPUs_at_startup").number();
        assert!(
            cpus >= 1 && cpus <= fields.get("VCPUs_max").number(),
            "VCPUs"
        );
        let boot = fields.get("HVM_boot_params");
        let in_map = |map: &Value, key: &str| match map {
            Value::Map(members) => members.get(key).map(|v| v.text().to_owned()),
            other => panic!("ova.xml: {other:?} is no map"),
        };
        let policy = fields.get("HVM_boot_policy").text();
        assert!(
            ["BIOS order", ""].contains(&policy),
            "HVM_boot_policy {policy:?}"
        );
        let secure = in_map(fields.get("platform"), "secureboot");
        let mut machine = Machine {
            name: fields.get("name_label").text().to_owned(),
            cpus,
            memory: memory[0],
            firmware: in_map(boot, "firmware"),
            secure_boot: secure.is_some_and(|s| ["true", "1"].contains(&s.as_str())),
            disks: BTreeMap::new(),
            cd_drives: 0,
            macs: Vec::new(),
            networks: Vec::new(),
        };
        for (_, vbd) in self
            .of_class("VBD")
            .filter(|(_, f)| f.get("VM").text() == id)
        {
            let place = vbd.get("userdevice").number();
            if vbd.get("type").text() == "CD" {
                machine.cd_drives += 1;
            } else {
                let vdi = vbd.get("VDI").text().to_owned();
                assert_eq!(machine.disks.insert(place, vdi), None, "userdevice {place}");
            }
        }
        let mut vifs: Vec<&Value> = self
            .of_class("VIF")
            .map(|(_, fields)| fields)
            .filter(|fields| fields.get("VM").text() == id)
            .collect();
        vifs.sort_by_key(|fields| fields.get("device").number());
        let device = |fields: &Value| fields.get("device").number();
        let distinct = vifs.is_sorted_by(|a, b| device(a) < device(b));
        assert!(distinct, "two VIFs are one device");
        for vif in vifs {
            let network = self.find("network", vif.get("network").text());
            machine
                .networks
                .push(network.get("name_label").text().to_owned());
            machine.macs.push(vif.get("MAC").text().to_owned());
        }
        machine
    }
}

/// What looks like one of the file's references must lead to an object.
fn no_hanging_reference(value: &Value, objects: &[(String, String, Value)]) {
    match value {
        Value::Text(text) if text.starts_with("Ref:") => {
            assert!(objects.iter().any(|o| o.1 == *text), "{text} is no object");
        }
        Value::Map(members) => members
            .values()
            .for_each(|v| no_hanging_reference(v, objects)),
        Value::Set(items) => items.iter().for_each(|v| no_hanging_reference(v, objects)),
        _ => {}
    }
}

struct Blocks<'a> {
    archive: &'a Archive,
    members: std::slice::Iter<'a, Found>,
    /// Length of the very first block of the stream: what every gap is counted in.
    first_len: Option<u64>,
    sums: Option<&'static str>,
}

impl Blocks<'_> {
    fn next(&mut self, what: &str) -> &Found {
        let found = self.members.next();
        let found = found.unwrap_or_else(|| panic!("the archive ends, {what} is expected"));
        assert_eq!(found.kind, b'0', "{} is no plain file", found.name);
        assert_eq!(
            found.dialect,
            super::packages::tarball::Dialect::Ustar,
            "{}",
            found.name
        );
        found
    }

    /// Reads blocks until the disk is full.
    fn disk(&mut self, id: &str, vdi: &Value) -> Disk {
        let size = vdi.get("virtual_size").number();
        assert!(size > 0, "{id} has no bytes");
        let prefix = format!("{id}/");
        let mut digest = Sha256::new();
        let (mut offset, mut last, mut blocks) = (0, -1_i64, 0);
        while offset < size {
            let archive = self.archive;
            let found = self.next(&prefix).clone();
            let suffix = found.name.strip_prefix(&prefix);
            let suffix = suffix.unwrap_or_else(|| {
                panic!("Expected VDI chunk prefix {prefix}; got {}", found.name)
            });
            let is_number = suffix.len() == 8 && suffix.bytes().all(|b| b.is_ascii_digit());
            assert!(is_number, "{}", found.name);
            let number: i64 = suffix.parse().expect("a number");
            assert!(number > last, "{} after {last}: not increasing", found.name);
            assert!(
                found.size <= 1 << 20,
                "{}: {} bytes",
                found.name,
                found.size
            );
            let first_len = *self.first_len.get_or_insert(found.size);
            assert!(
                first_len == 1 << 20,
                "gaps are counted in blocks of {first_len} bytes"
            );
            let gap = (number - last - 1) as u64 * first_len;
            assert!(
                offset + gap + found.size <= size,
                "{} is behind the disk's end",
                found.name
            );
            for _ in 0..gap >> 16 {
                digest.update([0; 1 << 16]);
            }
            let data = archive.data(&found);
            digest.update(&data);
            self.sum(&found.name, &data);
            offset += gap + found.size;
            last = number;
            blocks += 1;
        }
        Disk {
            id: id.to_owned(),
            name: vdi.get("name_label").text().to_owned(),
            size,
            sha256: hex(&digest.finalize()),
            blocks,
        }
    }

    /// The member behind a block.
    fn sum(&mut self, block: &str, data: &[u8]) {
        let archive = self.archive;
        let found = self.next("a sum").clone();
        let said = String::from_utf8(archive.data(&found)).expect("a sum in ASCII");
        let (kind, expected) = match found.name.strip_prefix(block) {
            Some(".checksum") => (".checksum", hex(&Sha1::digest(data))),
            Some(".xxhash") => (".xxhash", format!("{:016X}", xxh64(data, 0))),
            _ => panic!("{} stands behind {block}", found.name),
        };
        assert_eq!(said, expected, "{}", found.name);
        assert_eq!(*self.sums.get_or_insert(kind), kind, "two kinds of sums");
    }
}
