//! From one description to the next and back: every fact that both can say is there again.

mod common;

use machines::href::Href;
use machines::machine::{DiskFormat, FileReference};
use machines::profiles::by_name;
use machines::{Machine, ovf, toml_file, vmx, xva};

use common::full_machine;

/// The facts that all descriptions share, a line each.
fn facts(machine: &Machine) -> Vec<String> {
    let mut lines = vec![
        format!("name {:?}", machine.name),
        format!("description {:?}", machine.description),
        format!("uuid {:?}", machine.uuid),
        format!("firmware {:?} {:?}", machine.firmware, machine.secure_boot),
        format!("cpus {:?} {:?}", machine.cpus, machine.cores_per_socket),
        format!("memory {:?}", machine.memory),
        format!(
            "os {:?} {:?}",
            machine.guest_os.vmware, machine.guest_os.description
        ),
        format!("CD drives {}", machine.cd_drives.len()),
    ];
    for disk in &machine.disks {
        let model = disk
            .controller
            .and_then(|c| machine.controller(c))
            .map(|c| &c.model);
        lines.push(format!(
            "disk {:?} {:?} {model:?}",
            disk.controller, disk.unit
        ));
    }
    for nic in &machine.nics {
        lines.push(format!(
            "nic {:?} {:?} {:?}",
            nic.network, nic.model, nic.mac
        ));
    }
    lines
}

fn sizes(machine: &Machine) -> Vec<Option<u64>> {
    machine.disks.iter().map(|d| d.image.capacity).collect()
}

fn through_ovf(machine: &Machine) -> Machine {
    let member = |n: usize| {
        Some(ovf::Member {
            name: format!("disk{n}.vmdk"),
            ..ovf::Member::default()
        })
    };
    let disks: Vec<_> = (0..machine.disks.len()).map(member).collect();
    let discs: Vec<_> = machine.cd_drives.iter().map(|_| None).collect();
    let contents = ovf::Contents {
        disks: &disks,
        discs: &discs,
        networks: &[],
        format: DiskFormat::VmdkStream,
    };
    let written =
        ovf::write(machine, &contents, by_name("esxi-7").expect("a profile")).expect("OVF");
    assert_eq!(written.notes, Vec::<String>::new());
    let package = ovf::read(written.text.as_bytes()).expect("OVF");
    assert_eq!(package.violations, Vec::<String>::new());
    package.machines[0].clone()
}

fn through_xva(machine: &Machine) -> Machine {
    let exported = xva::write(std::slice::from_ref(machine), b"seed").expect("XVA");
    xva::read(exported.written.text.as_bytes())
        .expect("XVA")
        .package
        .machines[0]
        .clone()
}

fn through_vmx(machine: &Machine) -> Machine {
    let written = vmx::write(machine).expect("VMX");
    vmx::read(written.text.as_bytes()).expect("VMX").machines[0].clone()
}

fn through_toml(machine: &Machine) -> Machine {
    let text = toml_file::write(machine).expect("TOML");
    toml_file::read(text.as_bytes()).expect("TOML")
}

#[test]
fn ovf_keeps_every_fact() {
    let back = through_ovf(&full_machine());
    assert_eq!(facts(&back), facts(&full_machine()));
    assert_eq!(sizes(&back), sizes(&full_machine()));
}

#[test]
fn vmx_keeps_every_fact_but_the_sizes_of_disks() {
    let back = through_vmx(&full_machine());
    assert_eq!(facts(&back), facts(&full_machine()));
}

#[test]
fn xva_keeps_every_fact() {
    let back = through_xva(&full_machine());
    assert_eq!(facts(&back), facts(&full_machine()));
    assert_eq!(sizes(&back), sizes(&full_machine()));
}

#[test]
fn toml_keeps_everything() {
    let mut machine = through_ovf(&full_machine());
    machine.notes.clear();
    assert_eq!(through_toml(&machine), machine);
    let json = serde_json::to_string(&machine).expect("JSON");
    let back: Machine = serde_json::from_str(&json).expect("JSON");
    assert_eq!(back, machine);
}

#[test]
fn from_ova_to_xva_and_back_nothing_is_lost() {
    let ova = through_ovf(&full_machine());
    let back = through_ovf(&through_xva(&ova));
    assert_eq!(facts(&back), facts(&ova));
    assert_eq!(sizes(&back), sizes(&ova));
}

#[test]
fn around_the_world_nothing_is_lost() {
    let mut machine = through_xva(&through_ovf(&full_machine()));
    // A VMX names the file of each disk; an XVA has none.
    for disk in &mut machine.disks {
        disk.image.file = Some(FileReference {
            href: Href::new("disk.vmdk"),
            ..FileReference::default()
        });
    }
    let sizes = sizes(&machine);
    let mut machine = through_vmx(&machine);
    for (disk, size) in machine.disks.iter_mut().zip(sizes) {
        disk.image.capacity = size;
    }
    let back = through_toml(&through_ovf(&machine));
    assert_eq!(facts(&back), facts(&full_machine()));
}
