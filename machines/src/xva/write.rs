//! From machines to an `ova.xml` that xapi takes in.

use std::collections::BTreeMap;

use formats::{Error, Result};
use sha2::{Digest as _, Sha256};

use super::fields::{self, object};
use super::vm::{CD_PLACE, attachment, boot, device, kept, other_config, places, platform};
use super::{NULL, Value, WHAT};
use crate::machine::{Machine, Nic, SettingFamily};
use crate::written::{Written, listed};

/// Blocks of an export; disks are whole blocks, so that no reader has to think about the last one.
const BLOCK: u64 = 1 << 20;

/// An `ova.xml`, and the disks whose blocks have to follow it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// The text, and what it could not say.
    pub written: Written,
    /// The disks, in the order in which their blocks follow.
    pub vdis: Vec<Vdi>,
}

/// A disk of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vdi {
    /// Its reference: the folder of its blocks.
    pub reference: String,
    /// Which machine it belongs to.
    pub machine: usize,
    /// Which disk of that machine it is.
    pub disk: usize,
    /// Size in bytes: whole MiB, not less than one.
    pub virtual_size: u64,
}

/// Writes an `ova.xml`. Sizes of disks are their capacities, which must be known; ids are made from `seed`, so that the same seed
/// gives the same text.
///
/// # Errors
/// `Malformed` for a disk whose size is not known, `Limit` for one that is too large.
pub fn write(machines: &[Machine], seed: &[u8]) -> Result<Exported> {
    let mut writer = Writer {
        seed,
        next: 0,
        objects: Vec::new(),
        networks: BTreeMap::new(),
        storage: String::new(),
        exported: Exported::default(),
    };
    let total: usize = machines.iter().map(|m| m.disks.len()).sum();
    writer.storage = writer.reference();
    // References of disks come in a row, so that their order is that of the stream.
    let vdis: Vec<String> = (0..total).map(|_| writer.reference()).collect();
    let mut vdis = vdis.into_iter();
    for (index, machine) in machines.iter().enumerate() {
        writer.machine(index, machine, &mut vdis)?;
    }
    writer.storage_object();
    Ok(writer.finish())
}

struct Writer<'s> {
    seed: &'s [u8],
    next: u32,
    objects: Vec<Value>,
    /// References of networks by name, with their VIFs.
    networks: BTreeMap<String, (String, Vec<Value>)>,
    storage: String,
    exported: Exported,
}

impl Writer<'_> {
    /// The next reference. Of fixed width: `Ref:10` would sort before `Ref:2`.
    fn reference(&mut self) -> String {
        let reference = format!("Ref:{:06}", self.next);
        self.next += 1;
        reference
    }

    /// A UUID of version 8 that follows from the seed and `reference`.
    fn uuid(&self, reference: &str) -> Value {
        let digest = Sha256::new()
            .chain_update(self.seed)
            .chain_update(reference)
            .finalize();
        let mut bytes: Vec<u8> = digest.iter().take(16).copied().collect();
        if let Some(version) = bytes.get_mut(6) {
            *version = *version & 0x0f | 0x80;
        }
        if let Some(variant) = bytes.get_mut(8) {
            *variant = *variant & 0x3f | 0x80;
        }
        let hex = crate::manifest::hex(&bytes);
        crate::text::uuid(&hex).unwrap_or(hex).into()
    }

    fn note(&mut self, note: impl Into<String>) {
        self.exported.written.note(note);
    }

    fn machine(
        &mut self,
        index: usize,
        machine: &Machine,
        vdis: &mut impl Iterator<Item = String>,
    ) -> Result<()> {
        let vm = self.reference();
        let mut vbds = Vec::new();
        let places = places(machine);
        for (number, place) in places.iter().enumerate() {
            let vdi = vdis.next().unwrap_or_default();
            vbds.push(self.disk(index, number, *place, machine, &vm, &vdi)?);
        }
        for (number, _) in machine.cd_drives.iter().enumerate() {
            vbds.push(self.cd(number, machine, &places, &vm));
        }
        let mut vifs = Vec::new();
        for (number, nic) in machine.nics.iter().enumerate() {
            vifs.push(self.nic(number, nic, &vm));
        }
        let fields = self.vm_fields(machine, &vm, vbds, vifs);
        self.objects.push(object("VM", &vm, fields::VM, fields));
        self.lost(machine);
        Ok(())
    }

    fn vm_fields(
        &mut self,
        machine: &Machine,
        vm: &str,
        vbds: Vec<Value>,
        vifs: Vec<Value>,
    ) -> Vec<(&'static str, Value)> {
        let memory = machine.memory.unwrap_or_else(|| {
            self.note(format!(
                "{}: no memory is said; it gets 1 GiB",
                machine.name
            ));
            1 << 30
        });
        let memory = memory.div_ceil(BLOCK).saturating_mul(BLOCK);
        let cpus = u64::from(machine.cpus.unwrap_or(1));
        let uuid = match &machine.uuid {
            Some(uuid) => uuid.clone().into(),
            None => self.uuid(vm),
        };
        let mut said = vec![
            ("uuid", uuid),
            ("name_label", machine.name.clone().into()),
            (
                "name_description",
                machine.description.clone().unwrap_or_default().into(),
            ),
            ("memory_static_max", memory.into()),
            ("memory_dynamic_max", memory.into()),
            ("memory_dynamic_min", memory.into()),
            ("memory_static_min", memory.into()),
            ("VCPUs_max", cpus.into()),
            ("VCPUs_at_startup", cpus.into()),
            ("VBDs", Value::Array(vbds)),
            ("VIFs", Value::Array(vifs)),
            ("platform", platform(machine)),
            ("other_config", other_config(machine)),
        ];
        said.extend(boot(machine));
        said.extend(kept(machine));
        said
    }

    fn disk(
        &mut self,
        index: usize,
        number: usize,
        place: u32,
        machine: &Machine,
        vm: &str,
        vdi: &str,
    ) -> Result<Value> {
        let Some(disk) = machine.disks.get(number) else {
            return Ok(NULL.into());
        };
        let what = || format!("{WHAT}: disk {} of {:?}", number + 1, machine.name);
        let capacity = disk
            .image
            .capacity
            .ok_or_else(|| Error::malformed(what(), "its size is not known"))?;
        let size = capacity
            .max(1)
            .checked_next_multiple_of(BLOCK)
            .ok_or_else(|| Error::limit(what(), "too large").found(capacity))?;
        if size != capacity {
            self.note(format!(
                "{capacity} bytes → {size}: disk {} is whole MiB in an XVA",
                number + 1
            ));
        }
        let vbd = self.reference();
        let name = disk
            .name
            .clone()
            .unwrap_or_else(|| format!("{} {number}", machine.name));
        let is_boot = disk.bootable.unwrap_or(number == 0);
        let fields = vec![
            ("uuid", self.uuid(&vbd)),
            ("VM", vm.into()),
            ("VDI", vdi.into()),
            ("device", device(place).into()),
            ("userdevice", u64::from(place).into()),
            ("bootable", is_boot.into()),
            ("mode", if disk.read_only { "RO" } else { "RW" }.into()),
            ("other_config", attachment(machine, number)),
        ];
        self.objects.push(object("VBD", &vbd, fields::VBD, fields));
        self.image(vdi, &vbd, name, size);
        self.exported.vdis.push(Vdi {
            reference: vdi.to_owned(),
            machine: index,
            disk: number,
            virtual_size: size,
        });
        Ok(vbd.into())
    }

    fn image(&mut self, vdi: &str, vbd: &str, name: String, size: u64) {
        let fields = vec![
            ("uuid", self.uuid(vdi)),
            ("name_label", name.into()),
            ("SR", self.storage.as_str().into()),
            ("VBDs", Value::Array(vec![vbd.into()])),
            ("virtual_size", size.into()),
            ("physical_utilisation", size.into()),
            ("location", self.uuid(vdi)),
        ];
        self.objects.push(object("VDI", vdi, fields::VDI, fields));
    }

    fn cd(&mut self, number: usize, machine: &Machine, places: &[u32], vm: &str) -> Value {
        let taken = |place: &u32| places.contains(place);
        let place = (CD_PLACE..)
            .chain(0..CD_PLACE)
            .filter(|p| !taken(p))
            .nth(number)
            .unwrap_or(CD_PLACE);
        if machine
            .cd_drives
            .get(number)
            .is_some_and(|d| d.medium.is_some())
        {
            self.note("the disc in a CD drive is left out: an XVA has only disks");
        }
        let vbd = self.reference();
        let fields = vec![
            ("uuid", self.uuid(&vbd)),
            ("VM", vm.into()),
            ("device", device(place).into()),
            ("userdevice", u64::from(place).into()),
            ("mode", "RO".into()),
            ("type", "CD".into()),
            ("empty", true.into()),
        ];
        self.objects.push(object("VBD", &vbd, fields::VBD, fields));
        vbd.into()
    }

    fn nic(&mut self, number: usize, nic: &Nic, vm: &str) -> Value {
        let vif = self.reference();
        let name = nic
            .network
            .clone()
            .unwrap_or_else(|| "VM Network".to_owned());
        let network = match self.networks.get(&name) {
            Some((network, _)) => network.clone(),
            None => {
                let network = self.reference();
                self.networks
                    .insert(name.clone(), (network.clone(), Vec::new()));
                network
            }
        };
        if let Some((_, vifs)) = self.networks.get_mut(&name) {
            vifs.push(vif.as_str().into());
        }
        let mac = nic.mac.clone().unwrap_or_else(|| self.mac(&vif));
        let model = nic
            .model
            .iter()
            .map(|m| ("diskferry-model".to_owned(), m.clone().into()));
        let fields = vec![
            ("uuid", self.uuid(&vif)),
            ("device", (number as u64).into()),
            ("network", network.into()),
            ("VM", vm.into()),
            ("MAC", mac.into()),
            ("MAC_autogenerated", nic.mac.is_none().into()),
            ("other_config", Value::Struct(model.collect())),
        ];
        self.objects.push(object("VIF", &vif, fields::VIF, fields));
        vif.into()
    }

    /// A MAC of nobody's: locally administered, made from the seed.
    fn mac(&self, vif: &str) -> String {
        let uuid = self.uuid(vif);
        let digits: Vec<char> = uuid
            .text()
            .chars()
            .filter(char::is_ascii_hexdigit)
            .collect();
        let pairs: Vec<String> = digits
            .chunks(2)
            .take(5)
            .map(|p| p.iter().collect())
            .collect();
        format!("02:{}", pairs.join(":"))
    }

    fn storage_object(&mut self) {
        let storage = self.storage.clone();
        let vdis = self
            .exported
            .vdis
            .iter()
            .map(|v| v.reference.as_str().into());
        let fields = vec![
            ("uuid", self.uuid(&storage)),
            ("VDIs", Value::Array(vdis.collect())),
        ];
        self.objects
            .push(object("SR", &storage, fields::SR, fields));
    }

    fn finish(mut self) -> Exported {
        for (name, (reference, vifs)) in std::mem::take(&mut self.networks) {
            let fields = vec![
                ("uuid", self.uuid(&reference)),
                ("name_label", name.into()),
                ("VIFs", Value::Array(vifs)),
            ];
            self.objects
                .push(object("network", &reference, fields::NETWORK, fields));
        }
        let version = [
            ("hostname", "localhost"),
            ("date", "1970-01-01"),
            ("product_version", "6.5.0"),
            ("product_brand", "XenServer"),
            ("build_number", "0"),
            ("xapi_major", "1"),
            ("xapi_minor", "20"),
            ("export_vsn", "2"),
        ];
        let version = version.map(|(name, text)| (name.to_owned(), text.into()));
        let root = Value::Struct(vec![
            ("version".to_owned(), Value::Struct(version.to_vec())),
            ("objects".to_owned(), Value::Array(self.objects)),
        ]);
        let mut text = "<?xml version=\"1.0\"?>\n".to_owned();
        root.write(&mut text);
        self.exported.written.text = text;
        self.exported
    }

    /// What an XVA has no words for.
    fn lost(&mut self, machine: &Machine) {
        let extra = &machine.extra;
        let left_out = [
            (!machine.floppies.is_empty(), "floppy drives"),
            (!machine.serial_ports.is_empty(), "serial ports"),
            (!machine.parallel_ports.is_empty(), "parallel ports"),
            (machine.sound.is_some(), "the sound card"),
            (!machine.usb.is_empty(), "USB controllers"),
            (
                !extra.products.is_empty(),
                "product sections and their properties",
            ),
            (!extra.eulas.is_empty(), "licence texts"),
        ];
        for (is, what) in left_out {
            if is {
                self.note(format!(
                    "{}: {what} are left out: an XVA has none",
                    machine.name
                ));
            }
        }
        for (number, nic) in (1..).zip(&machine.nics) {
            if nic.connected == Some(false) {
                self.note(format!(
                    "{}: network adapter {number} will be connected: an XVA cannot say that it is not",
                    machine.name
                ));
            }
        }
        let settings = extra
            .settings
            .iter()
            .filter(|s| s.family != SettingFamily::Xen && !s.is_fact());
        let settings: Vec<&str> = settings.map(|s| s.key.as_str()).collect();
        if !settings.is_empty() {
            self.note(format!(
                "{}: settings are left out: {}",
                machine.name,
                listed(settings)
            ));
        }
        let sections = extra.sections.iter().chain(&extra.hardware_sections);
        let sections: Vec<&str> = sections.map(|s| s.name.as_str()).collect();
        if !sections.is_empty() {
            self.note(format!(
                "{}: sections are left out: {}",
                machine.name,
                listed(sections)
            ));
        }
        let devices: Vec<&str> = extra
            .devices
            .iter()
            .filter_map(|d| d.name.as_deref())
            .collect();
        if !devices.is_empty() {
            self.note(format!(
                "{}: devices are left out: {}",
                machine.name,
                listed(devices)
            ));
        }
    }
}
