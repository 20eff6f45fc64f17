//! What is written: shapes that importers need, and the way back.

use formats::ErrorKind;

use super::*;
use crate::machine::{
    Allocation, CdDrive, Controller, Disk, DiskImage, FileReference, Firmware, GuestOs, Nic,
    Setting, SettingFamily,
};
use crate::profiles::{PROFILES, WIDEST, by_name};
use crate::{Package, ovf};

fn machine() -> Machine {
    Machine {
        name: "web & <db> \"1\"".to_owned(),
        description: Some("first\nsecond & third".to_owned()),
        firmware: Some(Firmware::Efi),
        secure_boot: Some(false),
        uuid: Some("564d96af-e646-bd86-5c4d-654e7736ef31".to_owned()),
        cpus: Some(4),
        cores_per_socket: Some(2),
        memory: Some(4 << 30),
        guest_os: GuestOs {
            vmware: Some("rhel8_64Guest".to_owned()),
            cim: Some(80),
            description: Some("Red Hat".to_owned()),
            version: Some("8".to_owned()),
        },
        memory_allocation: Allocation {
            reservation: Some(512 << 20),
            ..Allocation::default()
        },
        controllers: vec![
            Controller::new("ide1".parse().unwrap(), None),
            Controller::new("scsi0".parse().unwrap(), Some("pvscsi")),
        ],
        disks: vec![disk(0, 64 << 20), disk(1, (1 << 20) + 512)],
        cd_drives: vec![CdDrive {
            controller: Some("ide1".parse().unwrap()),
            unit: Some(0),
            medium: Some(FileReference::default()),
            ..CdDrive::default()
        }],
        nics: vec![Nic {
            network: Some("VM Network".to_owned()),
            model: Some("vmxnet3".to_owned()),
            mac: Some("00:0c:29:12:34:56".to_owned()),
            connected: Some(true),
            settings: Vec::new(),
        }],
        extra: crate::machine::Extra {
            settings: vec![Setting {
                family: SettingFamily::Vmx,
                key: "disk.EnableUUID".to_owned(),
                value: "TRUE".to_owned(),
                required: true,
            }],
            ..crate::machine::Extra::default()
        },
        ..Machine::default()
    }
}

fn disk(unit: u32, capacity: u64) -> Disk {
    Disk {
        controller: Some("scsi0".parse().unwrap()),
        unit: Some(unit),
        image: DiskImage {
            capacity: Some(capacity),
            ..DiskImage::default()
        },
        ..Disk::default()
    }
}

fn member(name: &str) -> Option<Member> {
    Some(Member {
        name: name.to_owned(),
        size: 4096,
        populated: Some(100),
    })
}

fn written(machine: &Machine, profile: &Profile) -> Written {
    let disks: Vec<_> = (0..machine.disks.len())
        .map(|n| member(&format!("web-disk{n}.vmdk")))
        .collect();
    let discs: Vec<_> = machine
        .cd_drives
        .iter()
        .map(|_| member("tools.iso"))
        .collect();
    let contents = Contents {
        disks: &disks,
        discs: &discs,
        networks: &[],
        format: DiskFormat::VmdkStream,
    };
    write(machine, &contents, profile).unwrap()
}

fn read_back(written: &Written) -> Package {
    let package = ovf::read(written.text.as_bytes()).unwrap();
    assert!(
        package.violations.is_empty(),
        "{:?}\n{}",
        package.violations,
        written.text
    );
    package
}

#[test]
fn every_fact_comes_back() {
    let original = machine();
    let esxi = by_name("esxi-7").unwrap();
    let package = read_back(&written(&original, esxi));
    let back = &package.machines[0];
    assert_eq!(back.name, original.name);
    assert_eq!(back.description, original.description);
    assert_eq!(back.firmware, original.firmware);
    assert_eq!(back.secure_boot, original.secure_boot);
    assert_eq!(back.uuid, original.uuid);
    assert_eq!(
        (back.cpus, back.cores_per_socket, back.memory),
        (Some(4), Some(2), Some(4 << 30))
    );
    assert_eq!(back.memory_allocation, original.memory_allocation);
    assert_eq!(back.guest_os, original.guest_os);
    assert_eq!(back.controllers, original.controllers);
    assert_eq!(back.nics, original.nics);
    let places = |m: &Machine| {
        let disks = m.disks.iter();
        disks
            .map(|d| (d.controller, d.unit, d.image.capacity))
            .collect::<Vec<_>>()
    };
    assert_eq!(places(back), places(&original));
    assert_eq!(
        back.cd_drives[0].medium.as_ref().unwrap().href.as_str(),
        "tools.iso"
    );
    assert_eq!(
        back.setting(SettingFamily::Vmx, "disk.EnableUUID"),
        Some("TRUE")
    );
    assert_eq!(package.files.len(), 3);
    assert_eq!(back.hardware_version.as_deref(), Some("vmx-13"));
}

#[test]
fn every_profile_writes_what_reads_without_a_violation() {
    for profile in PROFILES.iter().chain([&WIDEST]) {
        let package = read_back(&written(&machine(), profile));
        assert_eq!(package.machines[0].disks.len(), 2, "{}", profile.name);
    }
}

#[test]
fn ide_controllers_have_no_subtype_for_vsphere() {
    let mut ide = machine();
    for (unit, disk) in ide.disks.iter_mut().enumerate() {
        disk.controller = Some("ide0".parse().unwrap());
        disk.unit = Some(unit as u32);
    }
    ide.controllers = vec![Controller::new("ide0".parse().unwrap(), Some("piix4"))];
    assert!(!written(&ide, &WIDEST).text.contains("PIIX4"));
    assert!(
        written(&ide, by_name("virtualbox").unwrap())
            .text
            .contains("PIIX4")
    );
}

#[test]
fn the_controller_stays_unless_the_profile_forbids_it() {
    let mut sata = machine();
    sata.guest_os.vmware = Some("winNetStandardGuest".to_owned());
    sata.guest_os.cim = None;
    for disk in &mut sata.disks {
        disk.controller = disk.controller.map(|_| "sata0".parse().unwrap());
    }
    sata.controllers = vec![Controller::new("sata0".parse().unwrap(), Some("ahci"))];
    let kept = written(&sata, &WIDEST);
    assert_eq!(
        read_back(&kept).machines[0].disks[1]
            .controller
            .unwrap()
            .to_string(),
        "sata0"
    );
    assert_eq!(kept.notes, Vec::<String>::new());
    let moved = written(&sata, by_name("esxi-5").unwrap());
    assert_eq!(
        read_back(&moved).machines[0].disks[1]
            .controller
            .unwrap()
            .to_string(),
        "scsi0"
    );
    let told = moved.notes.iter().filter(|n| n.contains("0x7B")).count();
    assert_eq!(told, 2, "{:?}", moved.notes);
}

#[test]
fn hardware_is_not_newer_than_the_target() {
    let version = |said: &str, profile: &str| {
        let mut machine = machine();
        machine.hardware_version = Some(said.to_owned());
        let written = written(&machine, by_name(profile).unwrap());
        let package = read_back(&written);
        package.machines[0].hardware_version.clone().unwrap()
    };
    assert_eq!(version("vmx-21", "esxi-6.7"), "vmx-10");
    assert_eq!(version("vmx-11", "esxi-6.7"), "vmx-11");
    assert_eq!(version("vmx-08 vmx-09", "esxi-5"), "vmx-09");
    assert_eq!(version("virtualbox-2.2", "esxi-7"), "vmx-13");
    assert_eq!(version("vmx-13", "virtualbox"), "virtualbox-2.2");
}

#[test]
fn settings_are_never_required() {
    let text = written(&machine(), &WIDEST).text;
    assert!(text.contains("<vmw:ExtraConfig ovf:required=\"false\" vmw:key=\"disk.EnableUUID\""));
    assert!(!text.contains("ovf:required=\"true\""));
}

#[test]
fn ids_have_one_width() {
    let mut many = machine();
    many.disks = (0..12).map(|_| disk(0, 1 << 20)).collect();
    many.disks.iter_mut().for_each(|d| d.unit = None);
    let text = written(&many, &WIDEST).text;
    assert!(text.contains("ovf:diskId=\"vmdisk01\"") && text.contains("ovf:diskId=\"vmdisk12\""));
    assert!(text.contains("ovf:id=\"file01\""));
}

#[test]
fn properties_of_items_are_in_the_order_of_the_alphabet() {
    let text = written(&machine(), &WIDEST).text;
    for item in text.split("<Item").skip(1) {
        let item = item.split("</Item>").next().unwrap();
        let names = item.lines().filter_map(|l| l.trim().strip_prefix("<rasd:"));
        let names: Vec<&str> = names.filter_map(|l| l.split('>').next()).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}

#[test]
fn sections_of_others_are_kept_and_those_of_other_versions_are_not() {
    let text = r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:acme="urn:acme">
        <References/><VirtualSystem ovf:id="a"><Info>x</Info>
        <ProductSection ovf:class="c"><Info>x</Info><Product>Web</Product><Property ovf:key="k" ovf:type="string" ovf:value="v"/></ProductSection>
        <acme:Section ovf:required="false"><acme:x y="1"/></acme:Section>
        <VirtualHardwareSection><Info>x</Info></VirtualHardwareSection></VirtualSystem></Envelope>"#;
    let first = ovf::read(text.as_bytes()).unwrap();
    let out = written(&first.machines[0], &WIDEST);
    let back = &read_back(&out).machines[0];
    assert_eq!(back.extra.products, first.machines[0].extra.products);
    assert_eq!(back.extra.sections[0].name, "Section");
    assert!(back.extra.sections[0].xml.contains("urn:acme"));
    let mut older = first.machines[0].clone();
    older.extra.sections[0].xml =
        "<Section xmlns=\"http://www.vmware.com/schema/ovf/1/envelope\"/>".to_owned();
    assert!(
        written(&older, &WIDEST)
            .notes
            .iter()
            .any(|n| n.contains("not of OVF 1.x"))
    );
}

#[test]
fn unsafe_names_and_unknown_sizes_are_refused() {
    let original = machine();
    let kind = |name: &str| {
        let disks = [member(name), member("other.vmdk")];
        let contents = Contents {
            disks: &disks,
            discs: &[None],
            networks: &[],
            format: DiskFormat::VmdkStream,
        };
        write(&original, &contents, &WIDEST).unwrap_err().kind()
    };
    for name in ["../a", "a b", "", ".a", "a/b", "other.vmdk", "ü", "a(1)"] {
        assert_eq!(kind(name), ErrorKind::Malformed, "{name}");
    }
    let contents = Contents {
        disks: &[],
        discs: &[],
        networks: &[],
        format: DiskFormat::VmdkStream,
    };
    let error = write(&original, &contents, &WIDEST).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}
