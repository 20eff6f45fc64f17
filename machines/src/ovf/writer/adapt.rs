//! What a profile does not take is changed, and said: hardware version, controllers, adapters, names, memory.

use crate::guest_os::Family;
use crate::machine::{Bus, Disk, Machine};
use crate::placement::{self, Plan};
use crate::profiles::{Container, Profile};
use crate::text::shown;
use crate::written::Written;

/// ESXi wants memory in steps of this many bytes.
const MEMORY_STEP: u64 = 4 << 20;

/// The machine as the target of `profile` takes it, and where its drives hang.
pub(super) fn adapted(
    machine: &Machine,
    profile: &Profile,
    written: &mut Written,
) -> (Machine, Plan) {
    let mut machine = machine.clone();
    names(&mut machine, profile, written);
    memory(&mut machine, written);
    if let Some(firmware) = machine.firmware.filter(|f| !profile.firmware.contains(f)) {
        written.note(format!(
            "the target does not take {} over from a package: set it there before the first start",
            firmware.name()
        ));
    }
    buses(&mut machine, profile, written);
    let preferred = profile.buses.first().copied().unwrap_or(Bus::Scsi);
    let mut plan = placement::plan(&machine, preferred);
    plan.notes.drain(..).for_each(|note| written.note(note));
    chips(&mut plan, profile, written);
    adapters(&mut machine, profile, written);
    sections(&mut machine, written);
    hardware_version(&mut machine, &plan, profile, written);
    (machine, plan)
}

fn names(machine: &mut Machine, profile: &Profile, written: &mut Written) {
    let name = profile.machine_name(&machine.name);
    if name != machine.name {
        written.note(format!(
            "the machine is called {name}, not \"{}\"",
            shown(&machine.name)
        ));
        machine.name = name;
        machine.id = None;
    }
}

fn memory(machine: &mut Machine, written: &mut Written) {
    let Some(bytes) = machine.memory else {
        written.note("no memory is said; it gets 1 GiB");
        machine.memory = Some(1 << 30);
        return;
    };
    let rounded = bytes
        .max(1)
        .checked_next_multiple_of(MEMORY_STEP)
        .unwrap_or(bytes);
    if rounded != bytes {
        written.note(format!("memory: {bytes} bytes → {rounded}"));
        machine.memory = Some(rounded);
    }
}

/// Moves disks off buses that the target does not have.
fn buses(machine: &mut Machine, profile: &Profile, written: &mut Written) {
    let Some(preferred) = profile.buses.first().copied() else {
        return;
    };
    let family = machine.guest_os.family();
    let is_unknown = |disk: &Disk| {
        disk.controller
            .is_some_and(|c| !profile.buses.contains(&c.bus))
    };
    for (index, disk) in machine
        .disks
        .iter_mut()
        .enumerate()
        .filter(|(_, d)| is_unknown(d))
    {
        let from = disk.controller.map_or("", |c| c.bus.name());
        let mut note = format!(
            "disk {} moves from {from} to {}: the target has no {from}",
            index + 1,
            preferred.name()
        );
        // XenServer shows every disk on an IDE bus of its own, whatever the package says.
        if family == Family::Windows && profile.container != Container::Xva {
            note += "; a Windows without a driver for it stops with 0x7B";
        }
        written.note(note);
        disk.controller = None;
        disk.unit = None;
    }
    // Discs do not start the guest: they may move without a word.
    for drive in &mut machine.cd_drives {
        if drive
            .controller
            .is_some_and(|c| !profile.buses.contains(&c.bus) && c.bus != Bus::Ide)
        {
            drive.controller = None;
            drive.unit = None;
        }
    }
}

/// SCSI chips that the target does not know become its first.
fn chips(plan: &mut Plan, profile: &Profile, written: &mut Written) {
    for controller in plan
        .controllers
        .iter_mut()
        .filter(|c| c.id.bus == Bus::Scsi)
    {
        let Some(default) = profile.scsi.first() else {
            return;
        };
        match controller.model.as_deref() {
            Some(model) if profile.scsi.contains(&model) => {}
            Some(model) => {
                written.note(format!(
                    "{}: \"{}\" becomes {default}: the target does not know it",
                    controller.id,
                    shown(model)
                ));
                controller.model = Some((*default).to_owned());
            }
            None => controller.model = Some((*default).to_owned()),
        }
    }
}

fn adapters(machine: &mut Machine, profile: &Profile, written: &mut Written) {
    for (index, nic) in machine.nics.iter_mut().enumerate() {
        if nic.network.is_none() {
            nic.network = Some("VM Network".to_owned());
        }
        let Some(default) = profile.nics.first() else {
            continue;
        };
        match nic.model.as_deref() {
            Some(model) if profile.nics.contains(&model) => {}
            Some(model) => {
                written.note(format!(
                    "adapter {}: \"{}\" becomes {default}: the target does not know it",
                    index + 1,
                    shown(model)
                ));
                nic.model = Some((*default).to_owned());
            }
            None => nic.model = Some((*default).to_owned()),
        }
    }
}

/// VirtualBox's own description overrides everything else, and names disks by ids that others have now.
fn sections(machine: &mut Machine, written: &mut Written) {
    let before = machine.extra.sections.len();
    machine
        .extra
        .sections
        .retain(|s| !(s.name == "Machine" && s.xml.contains("virtualbox.org")));
    if machine.extra.sections.len() != before {
        written.note(
            "VirtualBox's own description of the machine is left out: its disks are others now",
        );
    }
}

/// The hardware version that is needed and that the target has.
fn hardware_version(machine: &mut Machine, plan: &Plan, profile: &Profile, written: &mut Written) {
    let Some(base) = number(profile.hardware) else {
        machine.hardware_version = Some(profile.hardware.to_owned());
        return;
    };
    let newest = if profile.newest == 0 {
        u32::MAX
    } else {
        profile.newest
    };
    let said = machine.hardware_version.as_deref().unwrap_or_default();
    let all = said.split([' ', ',']).filter_map(number);
    // Not above what the target opens, and not from the days before what is written here.
    let own = all.filter(|n| (7..=newest).contains(n)).max();
    let (needed, what) = needed(machine, plan);
    let version = own.unwrap_or(base).max(needed);
    if version > newest {
        written.note(format!(
            "{what} needs vmx-{needed:02}, and the target has up to vmx-{newest:02}"
        ));
    }
    let version = version.min(newest);
    if let Some(said) = number(said).filter(|said| *said > version) {
        written.note(format!(
            "virtual hardware: vmx-{said:02} → vmx-{version:02}"
        ));
    }
    machine.hardware_version = Some(format!("vmx-{version:02}"));
}

fn number(version: &str) -> Option<u32> {
    version.trim().strip_prefix("vmx-")?.parse().ok()
}

/// The oldest hardware version that has everything the machine asks for, and what asks for it.
fn needed(machine: &Machine, plan: &Plan) -> (u32, &'static str) {
    let has = |bus: Bus| plan.controllers.iter().any(|c| c.id.bus == bus);
    let has_usb3 = machine
        .usb
        .iter()
        .any(|u| u.model.as_deref() == Some("xhci"));
    [
        (has(Bus::Nvme), 13, "NVMe"),
        (machine.secure_boot == Some(true), 13, "secure boot"),
        (has(Bus::Sata), 10, "SATA"),
        (has_usb3, 8, "USB 3"),
    ]
    .into_iter()
    .find(|(is, _, _)| *is)
    .map_or((7, ""), |(_, version, what)| (version, what))
}
