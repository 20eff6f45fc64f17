//! Chips of controllers and network adapters: one name here, and how OVF and VMX spell it.

use crate::machine::Bus;

/// One chip.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// The name in a [`crate::machine::Machine`].
    pub name: &'static str,
    /// `ResourceSubType` of an OVF, in the spelling to write.
    pub ovf: &'static str,
    /// Value of `virtualDev` in a VMX; empty where VMX cannot say it.
    pub vmx: &'static str,
}

const fn model(name: &'static str, ovf: &'static str, vmx: &'static str) -> Model {
    Model { name, ovf, vmx }
}

const SCSI: &[Model] = &[
    model("lsilogic", "lsilogic", "lsilogic"),
    model("lsilogicsas", "lsilogicsas", "lsisas1068"),
    model("buslogic", "buslogic", "buslogic"),
    model("pvscsi", "VirtualSCSI", "pvscsi"),
    model("virtio", "virtio", ""),
];

const IDE: &[Model] = &[
    model("piix3", "PIIX3", ""),
    model("piix4", "PIIX4", ""),
    model("ich6", "ICH6", ""),
];

const SATA: &[Model] = &[model("ahci", "vmware.sata.ahci", "ahci")];

const NVME: &[Model] = &[model("nvme", "vmware.nvme.controller", "nvme")];

/// Network adapters.
pub const NICS: &[Model] = &[
    model("e1000", "E1000", "e1000"),
    model("e1000e", "E1000e", "e1000e"),
    model("vmxnet3", "VmxNet3", "vmxnet3"),
    model("vmxnet2", "VmxNet2", "vmxnet2"),
    model("vmxnet", "Vmxnet", "vmxnet"),
    model("pcnet32", "PCNet32", "vlance"),
    model("sriov", "SriovEthernetCard", "sriov"),
    model("virtio", "virtio", ""),
    model("rtl8139", "rtl8139", ""),
];

/// Other spellings in use: what is written, what is meant.
const ALIASES: &[(&str, &str)] = &[
    ("virtualscsi", "pvscsi"),
    ("pvscsi", "pvscsi"),
    ("lsilogic sas", "lsilogicsas"),
    ("lsisas1068", "lsilogicsas"),
    ("virtio-scsi", "virtio"),
    ("vmware.sata.ahci", "ahci"),
    ("vmware.nvme.controller", "nvme"),
    ("vlance", "pcnet32"),
    ("pcnet", "pcnet32"),
    ("flexible", "pcnet32"),
    ("sriovethernetcard", "sriov"),
];

/// The chips of controllers of `bus`.
pub fn controllers(bus: Bus) -> &'static [Model] {
    match bus {
        Bus::Ide => IDE,
        Bus::Scsi => SCSI,
        Bus::Sata => SATA,
        Bus::Nvme => NVME,
        Bus::Virtio | Bus::Xen => &[],
    }
}

/// The name of the chip that `list` means, an OVF list with blanks or commas: the first that VMware knows, else the first
/// that is known, else the first as it is written.
pub fn first_known(models: &[Model], list: &str) -> Option<String> {
    let words = || list.split([',', ' ', '\t', '\n']).filter(|w| !w.is_empty());
    let known = |word: &str| {
        let lower = word.to_ascii_lowercase();
        let meant = ALIASES
            .iter()
            .find(|(spelling, _)| *spelling == lower)
            .map_or(lower.as_str(), |(_, meant)| meant);
        models.iter().find(|m| m.name == meant)
    };
    words()
        .filter_map(known)
        .find(|m| !m.vmx.is_empty())
        .or_else(|| words().find_map(known))
        .map(|m| m.name.to_owned())
        .or_else(|| words().next().map(str::to_owned))
}

/// The row of `name` in `models`.
pub fn by_name(models: &'static [Model], name: &str) -> Option<&'static Model> {
    models.iter().find(|m| m.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_of_a_list_counts() {
        let scsi = controllers(Bus::Scsi);
        for (list, name) in [
            ("someother, lsilogic", "lsilogic"),
            ("VirtualSCSI", "pvscsi"),
            ("buslogic lsilogic", "buslogic"),
            ("LsiLogicSAS", "lsilogicsas"),
            ("virtio lsilogic", "lsilogic"),
            ("virtio", "virtio"),
            ("whatever", "whatever"),
        ] {
            assert_eq!(first_known(scsi, list).as_deref(), Some(name), "{list}");
        }
        assert_eq!(
            first_known(NICS, "VMXNET3 virtio").as_deref(),
            Some("vmxnet3")
        );
        assert_eq!(first_known(NICS, " "), None);
    }
}
