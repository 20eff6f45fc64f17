//! From the keys of a VMX to a machine.

use std::collections::BTreeSet;

use formats::{Error, Result};

use super::{Dictionary, WHAT, devices};
use crate::guest_os::vmware_of_vmx;
use crate::machine::{Allocation, Firmware, GuestOs, Machine, Setting, SettingFamily};
use crate::package::{Network, Package};
use crate::text::{clean_name, shown, uuid};
use crate::units::number;

/// Keys that say how the file is written, or what a machine that runs on one host left there.
const PASSED_OVER: &[&str] = &[
    ".encoding",
    "config.version",
    "cleanshutdown",
    "softpoweroff",
    "extendedconfigfile",
    "uuid.location",
    "vc.uuid",
    "migrate.hostlog",
    "vm.createdate",
    "vmotion.checkpointfbsize",
    "checkpoint.vmstate",
];

/// Beginnings of such keys.
const PASSED_OVER_PREFIXES: &[&str] = &["sched.swap.", "hostcpuid.", "guestcpuid.", "usercpuid."];

/// Keys taken so far, in lower case.
#[derive(Debug, Default)]
pub(super) struct Taken(BTreeSet<String>);

impl Taken {
    /// Takes a key, and answers its value.
    pub fn take<'d>(&mut self, dictionary: &'d Dictionary, key: &str) -> Option<&'d str> {
        self.0.insert(key.to_ascii_lowercase());
        dictionary.filled(key)
    }

    /// Whether the key was taken.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains(&key.to_ascii_lowercase())
    }
}

/// Reads a VMX. The package has one machine.
///
/// # Errors
/// `Malformed` for lines, numbers and names that are none, `Unsupported` for encodings that are not known and encrypted
/// machines, `Limit` above 16 MiB.
pub fn read(bytes: &[u8]) -> Result<Package> {
    let dictionary = Dictionary::parse(bytes)?;
    let is_vmx = [
        "config.version",
        "virtualHW.version",
        "displayName",
        "guestOS",
    ]
    .iter()
    .any(|key| dictionary.get(key).is_some());
    if dictionary.get("encryption.keySafe").is_some() || dictionary.get("encryption.data").is_some()
    {
        return Err(Error::unsupported(WHAT, "the machine is encrypted")
            .hint("decrypt it in the product that made it"));
    }
    if !is_vmx {
        return Err(Error::malformed(WHAT, "says nothing that a VMX says"));
    }
    let mut machine = Machine::default();
    let mut taken = Taken::default();
    general(&dictionary, &mut machine, &mut taken)?;
    devices::read(&dictionary, &mut machine, &mut taken)?;
    rest(&dictionary, &mut machine, &taken);
    Ok(package(machine))
}

fn package(machine: Machine) -> Package {
    let names: BTreeSet<&String> = machine
        .nics
        .iter()
        .filter_map(|n| n.network.as_ref())
        .collect();
    let networks = names
        .into_iter()
        .map(|name| Network {
            name: name.clone(),
            description: None,
        })
        .collect();
    let files = machine.disks.iter().filter_map(|d| d.image.file.clone());
    Package {
        standard: "VMX".to_owned(),
        producer: Some("VMware".to_owned()),
        networks,
        files: files.collect(),
        machines: vec![machine],
        ..Package::default()
    }
}

fn general(dictionary: &Dictionary, machine: &mut Machine, taken: &mut Taken) -> Result<()> {
    let mut take = |key: &str| taken.take(dictionary, key);
    machine.name = clean_name(take("displayName").unwrap_or("machine"), "displayName")?;
    machine.description = take("annotation").map(str::to_owned);
    machine.uuid = take("uuid.bios").and_then(uuid);
    machine.hardware_version = match take("virtualHW.version") {
        Some(version) => Some(format!("vmx-{:02}", number(version, "virtualHW.version")?)),
        None => None,
    };
    machine.guest_os = GuestOs {
        vmware: take("guestOS").map(vmware_of_vmx),
        description: take("guestOSAltName").map(str::to_owned),
        ..GuestOs::default()
    };
    machine.firmware = match take("firmware") {
        Some(firmware) => Some(Firmware::by_name(firmware).ok_or_else(|| {
            Error::unsupported(WHAT, "a firmware that is not known").found(format!("{firmware:?}"))
        })?),
        None => Some(Firmware::Bios),
    };
    take("uefi.secureBoot.enabled");
    machine.secure_boot = dictionary.flag("uefi.secureBoot.enabled");
    machine.cpus = small(take("numvcpus"), "numvcpus")?.or(Some(1));
    machine.cores_per_socket = small(take("cpuid.coresPerSocket"), "cpuid.coresPerSocket")?;
    machine.memory = match take("memSize") {
        Some(mib) => Some(
            number(mib, "memSize")?
                .checked_mul(1 << 20)
                .filter(|bytes| *bytes <= i64::MAX as u64)
                .ok_or_else(|| Error::limit("memSize", "more than 63 bits can say").found(mib))?,
        ),
        None => None,
    };
    machine.cpu_allocation = allocation(dictionary, "sched.cpu", "min", 1, taken);
    machine.memory_allocation = allocation(dictionary, "sched.mem", "min", 1 << 20, taken);
    Ok(())
}

fn small(value: Option<&str>, key: &'static str) -> Result<Option<u32>> {
    let Some(value) = value else { return Ok(None) };
    let wide = number(value, key)?;
    Machine::cpu_count(wide)
        .map(Some)
        .ok_or_else(|| Error::malformed(key, "not a number of CPUs").found(wide))
}

/// Reservation, limit and shares; words like `normal` and `unlimited` say nothing.
fn allocation(
    dictionary: &Dictionary,
    family: &str,
    least: &str,
    unit: u64,
    taken: &mut Taken,
) -> Allocation {
    let mut value = |key: &str, unit: u64| {
        let value: u64 = taken
            .take(dictionary, &format!("{family}.{key}"))?
            .parse()
            .ok()?;
        value.checked_mul(unit).filter(|v| *v > 0)
    };
    Allocation {
        reservation: value(least, unit),
        limit: value("max", unit),
        weight: value("shares", 1),
    }
}

/// Everything that was not taken, for a round trip.
fn rest(dictionary: &Dictionary, machine: &mut Machine, taken: &Taken) {
    if let Some(file) = dictionary.filled("nvram")
        && machine.firmware == Some(Firmware::Efi)
    {
        let file = shown(file);
        machine.note(format!(
            "the firmware's variables in \"{file}\" are left out"
        ));
    }
    for (key, value) in dictionary.iter() {
        let lower = key.to_ascii_lowercase();
        let is_passed = PASSED_OVER.contains(&lower.as_str())
            || PASSED_OVER_PREFIXES.iter().any(|p| lower.starts_with(p));
        if !taken.has(key) && !is_passed {
            machine.extra.settings.push(Setting {
                family: SettingFamily::Vmx,
                key: key.to_owned(),
                value: value.to_owned(),
                required: false,
            });
        }
    }
}
