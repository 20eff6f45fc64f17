//! Descriptors that are written, judged by DMTF's schema.
//!
//! `DISKFERRY_OVF_SCHEMA` names `dsp8023_1.1.1.xsd` with its imports beside it; `xmllint` does the judging.

mod common;

use std::process::Command;

use machines::machine::{Disk, DiskFormat, Nic, SerialPort, Sound, UsbController};
use machines::profiles::{PROFILES, WIDEST};
use machines::{Machine, ovf};

use common::full_machine;
use common::skip::named_by;

fn contents(count: usize) -> Vec<Option<ovf::Member>> {
    (0..count)
        .map(|n| {
            Some(ovf::Member {
                name: format!("member{n}.bin"),
                size: 4096,
                populated: Some(1),
            })
        })
        .collect()
}

#[test]
fn what_is_written_is_valid_for_the_schema_of_ovf() {
    let Some(schema) = named_by("DISKFERRY_OVF_SCHEMA") else {
        return;
    };
    let mut everything = full_machine();
    everything.serial_ports.push(SerialPort::default());
    everything.usb.push(UsbController {
        model: Some("ehci".to_owned()),
    });
    everything.sound = Some(Sound::default());
    let bare = Machine {
        name: "bare".to_owned(),
        disks: vec![Disk::default()],
        nics: vec![Nic::default()],
        ..Machine::default()
    };
    for machine in [&everything, &bare] {
        let mut machine = machine.clone();
        for disk in &mut machine.disks {
            disk.image.capacity.get_or_insert(1 << 20);
        }
        for profile in PROFILES.iter().chain([&WIDEST]) {
            let disks = contents(machine.disks.len());
            let discs: Vec<_> = machine.cd_drives.iter().map(|_| None).collect();
            let contents = ovf::Contents {
                disks: &disks,
                discs: &discs,
                networks: &[],
                format: DiskFormat::VmdkStream,
            };
            let text = ovf::write(&machine, &contents, profile)
                .expect("a descriptor")
                .text;
            let file = std::env::temp_dir().join(format!("diskferry-{}.ovf", std::process::id()));
            std::fs::write(&file, &text).expect("write");
            let output = Command::new("xmllint")
                .args(["--nonet", "--noout", "--schema"])
                .arg(&schema)
                .arg(&file)
                .output()
                .expect("xmllint");
            std::fs::remove_file(&file).expect("remove");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {said}\n{text}", profile.name);
        }
    }
}
