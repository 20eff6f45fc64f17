//! What exports say, what they must not say, and back.

use formats::ErrorKind;

use super::*;
use crate::machine::{CdDrive, Disk, DiskImage, Firmware, Machine, Nic};

fn disk(capacity: u64) -> Disk {
    Disk {
        controller: Some("scsi0".parse().unwrap()),
        unit: Some(0),
        image: DiskImage {
            capacity: Some(capacity),
            ..DiskImage::default()
        },
        ..Disk::default()
    }
}

fn machine() -> Machine {
    Machine {
        name: "web & <db>".to_owned(),
        description: Some("two\nlines".to_owned()),
        firmware: Some(Firmware::Efi),
        secure_boot: Some(true),
        cpus: Some(4),
        cores_per_socket: Some(2),
        memory: Some(4 << 30),
        disks: vec![disk(10 << 20)],
        cd_drives: vec![CdDrive::default()],
        nics: vec![Nic {
            network: Some("VM Network".to_owned()),
            model: Some("vmxnet3".to_owned()),
            mac: Some("00:0c:29:12:34:56".to_owned()),
            ..Nic::default()
        }],
        ..Machine::default()
    }
}

#[test]
fn facts_come_back() {
    let exported = write(&[machine()], b"seed").unwrap();
    assert!(
        exported.written.notes.is_empty(),
        "{:?}",
        exported.written.notes
    );
    let appliance = read(exported.written.text.as_bytes()).unwrap();
    assert_eq!(appliance.version.xapi, (1, 20));
    assert_eq!(appliance.version.export, 2);
    assert!(appliance.package.violations.is_empty());
    let back = &appliance.package.machines[0];
    let original = machine();
    assert_eq!(back.name, original.name);
    assert_eq!(back.description, original.description);
    assert_eq!(back.firmware, original.firmware);
    assert_eq!(back.secure_boot, original.secure_boot);
    assert_eq!((back.cpus, back.cores_per_socket), (Some(4), Some(2)));
    assert_eq!(back.memory, original.memory);
    assert_eq!(back.nics[0].network, original.nics[0].network);
    assert_eq!(back.nics[0].mac, original.nics[0].mac);
    assert_eq!(back.nics[0].model, original.nics[0].model);
    assert_eq!(back.disks[0].controller, original.disks[0].controller);
    assert_eq!(back.disks[0].unit, original.disks[0].unit);
    assert_eq!(back.disks[0].image.capacity, Some(10 << 20));
    assert_eq!(back.cd_drives.len(), 1);
    assert_eq!(appliance.streamed.len(), 1);
    assert_eq!(appliance.streamed[0].reference, exported.vdis[0].reference);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let write = |seed: &[u8]| write(&[machine()], seed).unwrap().written.text;
    assert_eq!(write(b"a"), write(b"a"));
    assert_ne!(write(b"a"), write(b"b"));
}

#[test]
fn sizes_are_whole_mib_and_told() {
    let mut odd = machine();
    odd.disks = vec![disk((1 << 20) + 1), disk(0)];
    let exported = write(&[odd], b"").unwrap();
    let sizes: Vec<u64> = exported.vdis.iter().map(|v| v.virtual_size).collect();
    assert_eq!(sizes, [2 << 20, 1 << 20]);
    assert_eq!(exported.written.notes.len(), 2);
    let mut unknown = machine();
    unknown.disks[0].image.capacity = None;
    assert_eq!(
        write(&[unknown], b"").unwrap_err().kind(),
        ErrorKind::Malformed
    );
}

#[test]
fn the_order_of_disks_is_that_of_the_stream() {
    let mut many = machine();
    many.disks = (0..30).map(|n| disk((n + 1) << 20)).collect();
    let exported = write(&[many.clone(), many], b"").unwrap();
    let appliance = read(exported.written.text.as_bytes()).unwrap();
    let written: Vec<&str> = exported.vdis.iter().map(|v| v.reference.as_str()).collect();
    let read: Vec<&str> = appliance
        .streamed
        .iter()
        .map(|s| s.reference.as_str())
        .collect();
    assert_eq!(written, read);
    assert_eq!(appliance.package.machines.len(), 2);
    let sizes = appliance.package.machines[0].disks.iter();
    let sizes: Vec<u64> = sizes.filter_map(|d| d.image.capacity).collect();
    assert_eq!(sizes, (1..=30).map(|n| n << 20).collect::<Vec<u64>>());
}

/// An export with these fields in its VDI.
fn export(vdi: &str) -> String {
    let member = |name: &str, value: &str| {
        format!("<member><name>{name}</name><value>{value}</value></member>")
    };
    let object = |class: &str, id: &str, fields: &str| {
        format!(
            "<value><struct>{}{}{}</struct></value>",
            member("class", class),
            member("id", id),
            member("snapshot", &format!("<struct>{fields}</struct>"))
        )
    };
    let vbd = member("VM", "Ref:0") + &member("VDI", "Ref:2") + &member("type", "Disk");
    let objects = [
        object("VM", "Ref:0", &member("name_label", "vm")),
        object("VBD", "Ref:1", &vbd),
        object("VDI", "Ref:2", vdi),
    ];
    format!(
        "<value><struct>{}{}</struct></value>",
        member("version", "<struct></struct>"),
        member(
            "objects",
            &format!("<array><data>{}</data></array>", objects.concat())
        )
    )
}

fn sized(size: &str) -> String {
    format!("<member><name>virtual_size</name><value>{size}</value></member>")
}

#[test]
fn numbers_may_be_typed_or_plain() {
    for size in [
        "1048576",
        "<string>1048576</string>",
        "<i4>1048576</i4>",
        "<int> 1048576 </int>",
    ] {
        let appliance = read(export(&sized(size)).as_bytes()).unwrap();
        assert_eq!(appliance.streamed[0].virtual_size, 1 << 20, "{size}");
    }
}

#[test]
fn hostile_texts_are_refused() {
    let good = export(&sized("1048576"));
    for (text, kind) in [
        (export(""), ErrorKind::Malformed),
        (export(&sized("-1")), ErrorKind::Malformed),
        (export(&sized("18446744073709551615")), ErrorKind::Limit),
        (export(&(sized("1") + &sized("2"))), ErrorKind::Malformed),
        (export(&sized("<boolean>7</boolean>")), ErrorKind::Malformed),
        (export(&sized("<object/>")), ErrorKind::Malformed),
        (good.replace("Ref:1<", "Ref:0<"), ErrorKind::Malformed),
        (
            good.replace(">VM</value>", "></value>"),
            ErrorKind::Malformed,
        ),
        (
            good.replace("<name>objects</name>", "<name>o</name>"),
            ErrorKind::Malformed,
        ),
        (
            good.replace("<name>version</name>", "<name>v</name>"),
            ErrorKind::Malformed,
        ),
        (good.replace(">vm<", ">v&#27;m<"), ErrorKind::Malformed),
        (good.replace(">vm<", ">v&#127;m<"), ErrorKind::Malformed),
        (
            format!("<!DOCTYPE value [<!ENTITY a 'b'>]>{good}"),
            ErrorKind::Refused,
        ),
        (
            "<appliance version=\"0.1\"/>".to_owned(),
            ErrorKind::Unsupported,
        ),
        ("<html/>".to_owned(), ErrorKind::Malformed),
        ("<value><array>".repeat(100), ErrorKind::Limit),
    ] {
        let error = read(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
    }
    assert!(read(good.as_bytes()).is_ok());
}
