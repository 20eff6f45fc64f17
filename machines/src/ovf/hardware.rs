//! From Items to a machine: CPUs, memory, controllers, network adapters, ports.

use std::collections::{BTreeSet, HashMap};

use formats::{Error, Result};

use super::drives;
use super::envelope::Context;
use super::item::Item;
use crate::machine::{
    Allocation, Bus, Controller, ControllerId, MAX_CPUS, Machine, Nic, OtherDevice, ParallelPort,
    SerialPort, Sound, UsbController,
};
use crate::models;
use crate::text::{clean_name, mac, shown};
use crate::units;

/// Numbers of CIM_ResourceAllocationSettingData.ResourceType.
pub(super) mod resource {
    pub const OTHER: u16 = 1;
    pub const CPU: u16 = 3;
    pub const MEMORY: u16 = 4;
    pub const IDE: u16 = 5;
    pub const SCSI: u16 = 6;
    pub const ETHERNET: u16 = 10;
    pub const FLOPPY: u16 = 14;
    pub const CD: u16 = 15;
    pub const DVD: u16 = 16;
    pub const DISK: u16 = 17;
    pub const STORAGE_EXTENT: u16 = 19;
    pub const OTHER_STORAGE: u16 = 20;
    pub const SERIAL: u16 = 21;
    pub const PARALLEL: u16 = 22;
    pub const USB: u16 = 23;
    pub const SOUND: u16 = 35;
}

/// Controllers by the InstanceID of their Item.
pub(super) type Controllers = HashMap<String, ControllerId>;

/// Puts what the Items say into `machine`.
pub(super) fn read(items: &[Item], machine: &mut Machine, context: &mut Context) -> Result<()> {
    let controllers = controllers(items, machine);
    // Microsoft's flavour has disk images under 21 and the drives they are put into under 22.
    let is_microsoft = machine
        .hardware_version
        .as_deref()
        .is_some_and(|v| v.trim() == "301");
    for item in items {
        if drives::read(item, &controllers, machine, context)? {
            continue;
        }
        match item.resource_type {
            resource::CPU => cpu(item, machine, context)?,
            resource::MEMORY => memory(item, machine, context)?,
            resource::ETHERNET => nic(item, machine, context)?,
            resource::SERIAL if !is_microsoft => machine.serial_ports.push(SerialPort {
                backing: item.subtype.clone(),
                target: None,
            }),
            resource::PARALLEL if !is_microsoft => machine.parallel_ports.push(ParallelPort {
                backing: item.subtype.clone(),
            }),
            resource::USB => machine.usb.push(UsbController {
                model: item.subtype.as_deref().map(usb_model),
            }),
            resource::SOUND => sound(item, machine),
            _ if item
                .instance
                .as_ref()
                .is_some_and(|i| controllers.contains_key(i)) => {}
            _ => other(item, machine),
        }
    }
    Ok(())
}

/// Numbers the controllers, by what they say or in order.
fn controllers(items: &[Item], machine: &mut Machine) -> Controllers {
    let parents: BTreeSet<&str> = items
        .iter()
        .filter(|i| i.resource_type == resource::DISK)
        .filter_map(|i| i.parent.as_deref())
        .collect();
    let mut found = Controllers::new();
    let mut ids = Ids::default();
    for item in items {
        let Some(instance) = &item.instance else {
            continue;
        };
        let Some(bus) = bus(item, parents.contains(instance.as_str())) else {
            continue;
        };
        let wanted = item
            .address
            .as_deref()
            .and_then(|a| a.trim().parse().ok())
            .map(|number| ControllerId::new(bus, number))
            .filter(|id| id.number < 64 && ids.used.insert(*id));
        let id = wanted.unwrap_or_else(|| ids.free(bus));
        let subtype = item.subtype.as_deref().unwrap_or_default();
        machine.controllers.push(Controller {
            id,
            model: models::first_known(models::controllers(bus), subtype),
            settings: item.settings.clone(),
        });
        found.insert(instance.clone(), id);
    }
    found
}

/// Ids that controllers have.
#[derive(Default)]
struct Ids {
    used: BTreeSet<ControllerId>,
    /// For each bus a number below which all are used.
    first: HashMap<Bus, u32>,
}

impl Ids {
    /// The first number of `bus` that no controller has.
    fn free(&mut self, bus: Bus) -> ControllerId {
        let first = self.first.entry(bus).or_default();
        let mut id = ControllerId::new(bus, *first);
        while !self.used.insert(id) {
            id.number += 1;
        }
        *first = id.number;
        id
    }
}

/// The bus of a controller's Item; `None` if it is none.
fn bus(item: &Item, has_disks: bool) -> Option<Bus> {
    let subtype = item
        .subtype
        .as_deref()
        .unwrap_or_default()
        .to_ascii_lowercase();
    match item.resource_type {
        resource::IDE => Some(Bus::Ide),
        resource::SCSI => Some(Bus::Scsi),
        resource::OTHER_STORAGE if subtype.contains("nvme") => Some(Bus::Nvme),
        resource::OTHER_STORAGE if subtype.contains("ahci") || subtype.contains("sata") => {
            Some(Bus::Sata)
        }
        resource::OTHER_STORAGE if subtype.contains("virtio-scsi") => Some(Bus::Scsi),
        resource::OTHER_STORAGE if has_disks => Some(Bus::Sata),
        // Fibre Channel, iSCSI and InfiniBand adapters show SCSI disks.
        7..=9 if has_disks => Some(Bus::Scsi),
        _ => None,
    }
}

fn at(item: &Item, error: Error) -> Error {
    error.hint(format!("it is in line {}", item.line))
}

fn allocation(item: &Item, unit: u64) -> Result<Allocation> {
    let scaled = |value: Option<u64>| match value {
        None => Ok(None),
        Some(value) => value
            .checked_mul(unit)
            .map(Some)
            .ok_or_else(|| Error::limit(item.label(), "more than 64 bits can say").found(value)),
    };
    Ok(Allocation {
        reservation: scaled(item.reservation)?.filter(|r| *r > 0),
        limit: scaled(item.limit)?,
        weight: item.weight.filter(|w| *w > 0),
    })
}

fn cpu(item: &Item, machine: &mut Machine, context: &mut Context) -> Result<()> {
    // XenCenter adds several up; oVirt says sockets and cores instead.
    let quantity = match (item.quantity, item.sockets, item.cores_per_socket) {
        (Some(quantity), ..) => quantity,
        (None, sockets, cores) if sockets.or(cores).is_some() => {
            let all = [sockets, cores, item.threads].into_iter().flatten();
            all.fold(1, u64::saturating_mul)
        }
        _ => {
            context.violation(format!("{} does not say how many", item.label()));
            return Ok(());
        }
    };
    if quantity == 0 {
        context.violation(format!("{} is no CPU at all", item.label()));
        return Ok(());
    }
    let too_many = |count: u64| {
        Error::malformed(item.label(), "too many CPUs")
            .found(count)
            .expected(format!("at most {MAX_CPUS}"))
    };
    let sum = u64::from(machine.cpus.unwrap_or(0)).saturating_add(quantity);
    machine.cpus = Some(Machine::cpu_count(sum).ok_or_else(|| too_many(sum))?);
    if let Some(cores) = item.cores_per_socket.filter(|c| *c > 0) {
        let count = Machine::cpu_count(cores).ok_or_else(|| too_many(cores))?;
        machine.cores_per_socket = Some(count);
    }
    machine.cpu_allocation = allocation(item, 1)?;
    Ok(())
}

fn memory(item: &Item, machine: &mut Machine, context: &mut Context) -> Result<()> {
    let Some(quantity) = item.quantity else {
        context.violation(format!("{} does not say how much", item.label()));
        return Ok(());
    };
    let unit = match item.units.as_deref() {
        Some(unit) => units::byte_unit(unit).map_err(|e| at(item, e))?,
        // The standard says bytes; who leaves the unit out means MiB.
        None if quantity < 1 << 20 => {
            machine.note(format!("{} has no unit: it is taken for MiB", item.label()));
            1 << 20
        }
        None => 1,
    };
    let bytes = quantity
        .checked_mul(unit)
        .and_then(|b| b.checked_add(machine.memory.unwrap_or(0)))
        .filter(|b| *b <= i64::MAX as u64)
        .ok_or_else(|| {
            Error::limit(item.label(), "more memory than 63 bits can say")
                .found(format!("{quantity} * {unit}"))
        })?;
    if machine.memory.is_some() {
        context.violation(format!("{} is memory once more", item.label()));
    }
    machine.memory = Some(bytes).filter(|b| *b > 0);
    machine.memory_allocation = allocation(item, unit)?;
    Ok(())
}

fn nic(item: &Item, machine: &mut Machine, context: &mut Context) -> Result<()> {
    let mut connections = item.connections.iter();
    let network = match connections.next() {
        Some(name) => Some(clean_name(name, "network name").map_err(|e| at(item, e))?),
        None => None,
    };
    for more in connections {
        machine.notes.push(format!(
            "{}: of several networks only the first is taken, not \"{}\"",
            item.label(),
            shown(more)
        ));
    }
    if let Some(name) = &network {
        context.used_networks.insert(name.clone());
    }
    let subtype = item.subtype.as_deref().unwrap_or_default();
    let model = match subtype {
        // Numbers are oVirt's.
        "1" => Some("rtl8139".to_owned()),
        "2" => Some("e1000".to_owned()),
        "3" => Some("virtio".to_owned()),
        "4" => Some("sriov".to_owned()),
        list => models::first_known(models::NICS, list),
    };
    machine.nics.push(Nic {
        network,
        model,
        mac: item
            .mac
            .as_deref()
            .or(item.address.as_deref())
            .and_then(mac),
        connected: item.automatic,
        settings: item.settings.clone(),
    });
    Ok(())
}

fn usb_model(subtype: &str) -> String {
    let lower = subtype.to_ascii_lowercase();
    lower
        .strip_prefix("vmware.usb.")
        .unwrap_or(&lower)
        .to_owned()
}

fn sound(item: &Item, machine: &mut Machine) {
    if machine.sound.is_some() {
        let note = format!("{}: a second sound card is left out", item.label());
        machine.note(note);
    }
    let model = item.subtype.as_deref().map(sound_model);
    machine.sound.get_or_insert(Sound { model });
}

fn sound_model(subtype: &str) -> String {
    let lower = subtype.to_ascii_lowercase();
    lower
        .strip_prefix("vmware.soundcard.")
        .unwrap_or(&lower)
        .to_owned()
}

/// Everything else, kept for a round trip.
fn other(item: &Item, machine: &mut Machine) {
    let subtype = item
        .subtype
        .as_deref()
        .unwrap_or_default()
        .to_ascii_lowercase();
    if item.resource_type == resource::OTHER && subtype.starts_with("vmware.soundcard.") {
        return sound(item, machine);
    }
    machine.extra.devices.push(OtherDevice {
        resource_type: item.resource_type,
        subtype: item.subtype.clone(),
        name: item.name.clone(),
        required: item.required,
        settings: item.settings.clone(),
    });
}
