//! XVAs, as xapi exports them and as nobody should.

use sha1::{Digest, Sha1};
use xxhash_rust::xxh64::xxh64;

use super::ova::{hex, tar_of};
use super::{Member, Members};

pub const MIB: usize = 1 << 20;

/// What stands behind each block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    Sha1,
    Xxhash,
}

impl Sum {
    pub fn suffix(self) -> &'static str {
        match self {
            Sum::Sha1 => ".checksum",
            Sum::Xxhash => ".xxhash",
        }
    }

    pub fn of(self, bytes: &[u8]) -> String {
        match self {
            Sum::Sha1 => hex(&Sha1::digest(bytes)),
            Sum::Xxhash => format!("{:016X}", xxh64(bytes, 0)),
        }
    }
}

/// A disk of an export.
#[derive(Debug, Clone)]
pub struct Disk {
    pub id: String,
    pub name: String,
    pub virtual_size: u64,
    pub content: Vec<u8>,
    /// Empty blocks before these blocks: the exporter had nothing to say for a while.
    pub keep_alive: Vec<usize>,
}

#[derive(Debug, Clone)]
pub struct Vm {
    pub name: String,
    pub cpus: u32,
    /// MiB.
    pub memory: u64,
    /// `bios` or `uefi`.
    pub firmware: &'static str,
    pub disks: Vec<Disk>,
    pub macs: Vec<String>,
}

impl Vm {
    pub fn new(name: &str) -> Vm {
        Vm {
            name: name.to_owned(),
            cpus: 2,
            memory: 512,
            firmware: "uefi",
            disks: Vec::new(),
            macs: vec!["00:50:56:aa:bb:cc".to_owned()],
        }
    }
}

/// An export to be.
#[derive(Debug, Clone)]
pub struct Xva {
    pub vms: Vec<Vm>,
    pub sum: Sum,
    /// xapi's major and minor.
    pub version: (u32, u32),
    pub export_version: u32,
    /// Whether the storage that the disks name is described.
    pub with_storage: bool,
    /// Written in place of what belongs there.
    pub text: Option<String>,
}

impl Xva {
    /// An export of one machine, "web", with these disks.
    pub fn of(contents: &[Vec<u8>]) -> Xva {
        let mut xva = Xva {
            vms: vec![Vm::new("web")],
            sum: Sum::Sha1,
            version: (1, 20),
            export_version: 2,
            with_storage: true,
            text: None,
        };
        for content in contents {
            xva.add_disk(content);
        }
        xva
    }

    /// One more disk for the last machine. References are of one width, so that their order is that of the bytes.
    pub fn add_disk(&mut self, content: &[u8]) {
        let number = self.disks().count() + 1;
        let vm = self.vms.last_mut().expect("a machine");
        vm.disks.push(Disk {
            id: format!("Ref:{number:03}"),
            name: format!("{} disk {number}", vm.name),
            virtual_size: content.len() as u64,
            content: content.to_vec(),
            keep_alive: Vec::new(),
        });
    }

    pub fn sum(mut self, sum: Sum) -> Xva {
        self.sum = sum;
        self
    }

    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.vms.iter().flat_map(|vm| &vm.disks)
    }

    /// The disk `index` of the first machine.
    pub fn disk(&mut self, index: usize) -> &mut Disk {
        &mut self.vms[0].disks[index]
    }

    /// With the text of `ova.xml` changed. `from` must be in it.
    pub fn replace(mut self, from: &str, to: &str) -> Xva {
        let text = self.ova_xml();
        assert!(text.contains(from), "{from:?} is not in {text}");
        self.text = Some(text.replace(from, to));
        self
    }

    pub fn ova_xml(&self) -> String {
        let text = self.text.clone();
        text.unwrap_or_else(|| super::ova_xml::text(self))
    }

    /// Everything in its order: blocks of disks by the bytes of their references.
    pub fn members(&self) -> Members {
        let mut members = vec![("ova.xml".to_owned(), self.ova_xml().into_bytes())];
        let mut disks: Vec<&Disk> = self.disks().collect();
        disks.sort_by(|a, b| a.id.cmp(&b.id));
        for disk in disks {
            members.extend(blocks(disk, self.sum));
        }
        members
    }

    pub fn bytes(&self) -> Vec<u8> {
        tar_of(&self.members())
    }
}

/// The blocks of a disk with their sums. Zeros are left out, save the first and the last block.
pub fn blocks(disk: &Disk, sum: Sum) -> Members {
    let mut members = Vec::new();
    let count = disk.content.len().div_ceil(MIB);
    let mut number = 0;
    for (index, block) in disk.content.chunks(MIB).enumerate() {
        if disk.keep_alive.contains(&index) {
            members.extend(block_members(&disk.id, number, &[], sum));
            number += 1;
        }
        let is_needed = index == 0 || index + 1 == count;
        if is_needed || block.iter().any(|b| *b != 0) {
            members.extend(block_members(&disk.id, number, block, sum));
        }
        number += 1;
    }
    members
}

/// A block and its sum.
pub fn block_members(id: &str, number: usize, data: &[u8], sum: Sum) -> [Member; 2] {
    let name = format!("{id}/{number:08}");
    [
        (name.clone(), data.to_vec()),
        (name + sum.suffix(), sum.of(data).into_bytes()),
    ]
}
