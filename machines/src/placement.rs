//! Where each disk and drive hangs, when a description has to say it for all of them.
//!
//! What the machine says is kept wherever it can be: a guest whose disks move to another kind of controller may not start
//! any more. Disks without a controller get one of the bus that the target prefers, and two on one unit are parted.

use std::collections::{BTreeSet, HashMap};

use crate::machine::{Bus, Controller, ControllerId, Machine};

/// A place for everything.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The controllers that are needed, in order.
    pub controllers: Vec<Controller>,
    /// Controller and unit of each disk, in the order of the machine.
    pub disks: Vec<(ControllerId, u32)>,
    /// Controller and unit of each CD drive, in the order of the machine.
    pub cd_drives: Vec<(ControllerId, u32)>,
    /// What had to be changed, one sentence each.
    pub notes: Vec<String>,
}

/// Finds a place for all disks and drives of `machine`; those without a controller go to `preferred`.
pub fn plan(machine: &Machine, preferred: Bus) -> Plan {
    let mut plan = Plan::default();
    let mut places = Places::default();
    // What is said for sure comes first, so that nothing that moves takes its place.
    let said: Vec<Option<(ControllerId, u32)>> = machine
        .disks
        .iter()
        .map(|disk| {
            let place = (disk.controller?, disk.unit?);
            (is_possible(place) && places.used.insert(place)).then_some(place)
        })
        .collect();
    for (index, (disk, said)) in machine.disks.iter().zip(said).enumerate() {
        let place = said.unwrap_or_else(|| {
            let bus = disk.controller.map_or(preferred, |c| c.bus);
            let bus = if is_placed_by_unit(bus) {
                bus
            } else {
                preferred
            };
            let first = disk
                .controller
                .filter(|c| c.bus == bus)
                .map_or(0, |c| c.number);
            let place = places.free(bus, first);
            if disk.controller.is_some() && disk.unit.is_some() {
                plan.notes.push(format!(
                    "disk {} moves to {}:{}: its own place is not free there",
                    index + 1,
                    place.0,
                    place.1
                ));
            }
            place
        });
        plan.disks.push(place);
    }
    for drive in &machine.cd_drives {
        let said = drive.controller.zip(drive.unit);
        let said = said.filter(|place| is_possible(*place) && places.used.insert(*place));
        let place = said.unwrap_or_else(|| {
            let bus = drive.controller.map_or(Bus::Ide, |c| c.bus);
            let bus = if is_placed_by_unit(bus) {
                bus
            } else {
                Bus::Ide
            };
            places.free(bus, u32::from(bus == Bus::Ide))
        });
        plan.cd_drives.push(place);
    }
    plan.controllers = controllers(machine, &plan);
    plan
}

/// Whether disks of this bus hang on controllers that other products know.
fn is_placed_by_unit(bus: Bus) -> bool {
    matches!(bus, Bus::Ide | Bus::Scsi | Bus::Sata | Bus::Nvme)
}

/// Whether there can be a disk at this place. Unit 7 of a SCSI controller is the controller.
fn is_possible((id, unit): (ControllerId, u32)) -> bool {
    let units = if id.bus == Bus::Scsi {
        64
    } else {
        id.bus.units()
    };
    is_placed_by_unit(id.bus) && unit < units && !(id.bus == Bus::Scsi && unit == 7)
}

/// Places that are taken.
#[derive(Default)]
struct Places {
    used: BTreeSet<(ControllerId, u32)>,
    /// For each bus and first controller a number of slots that are all used.
    passed: HashMap<(Bus, u32), u32>,
}

impl Places {
    /// The first place of `bus` that is not used, from controller `first` on.
    fn free(&mut self, bus: Bus, first: u32) -> (ControllerId, u32) {
        let n = self.passed.entry((bus, first)).or_default();
        loop {
            let (number, unit) = bus.slot(*n);
            // Behind the last number there is comes the first one.
            let place = (ControllerId::new(bus, first.wrapping_add(number)), unit);
            *n += 1;
            if self.used.insert(place) {
                return place;
            }
        }
    }
}

/// The controllers in use, as the machine describes them, in the order of their first disk.
fn controllers(machine: &Machine, plan: &Plan) -> Vec<Controller> {
    let mut found: Vec<Controller> = Vec::new();
    for (id, _) in plan.disks.iter().chain(&plan.cd_drives) {
        if found.iter().any(|c| c.id == *id) {
            continue;
        }
        let like = machine.controllers.iter().find(|c| c.id.bus == id.bus);
        found.push(match machine.controller(*id) {
            Some(own) => own.clone(),
            // A second controller is like the first of its kind.
            None => Controller::new(*id, like.and_then(|c| c.model.as_deref())),
        });
    }
    found.sort_by_key(|c| c.id);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{CdDrive, Disk};

    fn disk(controller: Option<&str>, unit: Option<u32>) -> Disk {
        Disk {
            controller: controller.map(|c| c.parse().unwrap()),
            unit,
            ..Disk::default()
        }
    }

    fn places(machine: &Machine, preferred: Bus) -> Vec<String> {
        let plan = plan(machine, preferred);
        let all = plan.disks.iter().chain(&plan.cd_drives);
        all.map(|(id, unit)| format!("{id}:{unit}")).collect()
    }

    #[test]
    fn what_is_said_is_kept() {
        let machine = Machine {
            disks: vec![
                disk(Some("ide0"), Some(1)),
                disk(Some("scsi2"), Some(3)),
                disk(None, None),
            ],
            cd_drives: vec![CdDrive::default()],
            ..Machine::default()
        };
        assert_eq!(
            places(&machine, Bus::Scsi),
            ["ide0:1", "scsi2:3", "scsi0:0", "ide1:0"]
        );
    }

    #[test]
    fn two_on_one_unit_are_parted_on_the_same_bus() {
        let machine = Machine {
            disks: vec![disk(Some("ide1"), Some(0)), disk(Some("ide1"), Some(0))],
            ..Machine::default()
        };
        let plan = plan(&machine, Bus::Scsi);
        assert_eq!(plan.disks[1].0.bus, Bus::Ide);
        assert_ne!(plan.disks[0], plan.disks[1]);
        assert_eq!(plan.notes.len(), 1);
    }

    #[test]
    fn a_controller_with_the_largest_number_has_others_beside_it() {
        let machine = Machine {
            disks: (0..40)
                .map(|_| disk(Some("scsi4294967295"), Some(0)))
                .collect(),
            ..Machine::default()
        };
        let places = places(&machine, Bus::Sata);
        assert_eq!(places[14..17], ["scsi4294967295:15", "scsi0:0", "scsi0:1"]);
    }

    #[test]
    fn many_disks_are_placed_soon() {
        let machine = Machine {
            disks: (0..100_000).map(|_| disk(None, None)).collect(),
            ..Machine::default()
        };
        let places = plan(&machine, Bus::Scsi).disks;
        assert_eq!(places[99_999].0.number, 6666);
    }

    #[test]
    fn no_disk_is_put_where_the_controller_is() {
        let machine = Machine {
            disks: (0..20).map(|_| disk(None, None)).collect(),
            ..Machine::default()
        };
        let places = places(&machine, Bus::Scsi);
        assert_eq!(places[7], "scsi0:8");
        assert_eq!(places[15], "scsi1:0");
        assert!(!places.iter().any(|p| p.ends_with(":7")));
    }
}
