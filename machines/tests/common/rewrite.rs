//! What was read is written again, in every way there is.

use machines::machine::DiskFormat;
use machines::profiles::{PROFILES, Profile};
use machines::{Machine, ovf, toml_file, vmx, xva};

/// The OVF descriptor of a machine for a target, unless that cannot have it.
pub fn descriptor(machine: &Machine, profile: &Profile) -> Option<String> {
    let disks: Vec<_> = (0..machine.disks.len())
        .map(|n| {
            Some(ovf::Member {
                name: format!("disk{n}.vmdk"),
                ..ovf::Member::default()
            })
        })
        .collect();
    let discs: Vec<_> = machine.cd_drives.iter().map(|_| None).collect();
    let contents = ovf::Contents {
        disks: &disks,
        discs: &discs,
        networks: &[],
        format: DiskFormat::VmdkStream,
    };
    ovf::write(machine, &contents, profile).ok().map(|w| w.text)
}

/// Writes a machine in every way; what comes out must be read by the reader of the same kind.
pub fn write_all(machine: &Machine) {
    for profile in PROFILES.iter().take(2) {
        if let Some(text) = descriptor(machine, profile) {
            ovf::read(text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
        }
    }
    if let Ok(exported) = xva::write(std::slice::from_ref(machine), b"") {
        let text = exported.written.text;
        xva::read(text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
    if let Ok(written) = vmx::write(machine) {
        let text = written.text;
        vmx::read(text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
    if let Ok(text) = toml_file::write(machine) {
        toml_file::read(text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
}
