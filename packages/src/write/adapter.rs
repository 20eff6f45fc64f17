//! What a disk hangs on, as VMDK descriptors say it: importers want it to agree with the description around it.

use machines::Machine;
use machines::machine::Bus;
use machines::profiles::Profile;

/// The adapter of disk `index` of `machine`, as a package for `profile` will have it.
pub fn adapter(machine: &Machine, index: usize, profile: &Profile) -> Option<&'static str> {
    let disk = machine.disks.get(index)?;
    let controller = disk.controller.filter(|c| profile.buses.contains(&c.bus));
    let bus = match controller {
        Some(controller) => controller.bus,
        None => *profile.buses.first()?,
    };
    let model = controller.and_then(|id| machine.controller(id)?.model.as_deref());
    Some(match (bus, model) {
        (Bus::Ide, _) => "ide",
        (Bus::Scsi, Some("buslogic")) if profile.scsi.contains(&"buslogic") => "buslogic",
        _ => "lsilogic",
    })
}
