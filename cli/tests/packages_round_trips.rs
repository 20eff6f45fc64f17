//! From one package into the next and back: the content of the disks and the facts of the machine are kept.

mod common;

use std::path::{Path, PathBuf};

use common::machines::disk_digest;
use common::packages::descriptor::{Machine, Nic};
use common::packages::{Bus, Dialect, Package, Sum, Xva, disks, sha256};
use common::peers::have_qemu;
use common::vsphere_checker::{self, Checked};
use common::xapi_reader::{self, Imported};
use common::{Folder, convert, guest_digest, make_disk, s, sha256sum};

fn contents() -> Vec<Vec<u8>> {
    vec![
        disks::content(1, 9),
        disks::content(5, 3),
        disks::content(9, 1),
    ]
}

fn digests(contents: &[Vec<u8>]) -> Vec<String> {
    contents.iter().map(|content| sha256(content)).collect()
}

/// SHA-256 of every disk of a package.
fn disks_in(package: &Path, count: usize) -> Vec<String> {
    (1..=count).map(|n| disk_digest(package, n)).collect()
}

/// The package goes to XVA and back to OVA; what the two judges say of them.
fn there_and_back(ova: &Path, folder: &Folder) -> (Imported, Checked, PathBuf) {
    let (xva, back) = (folder.file("there.xva"), folder.file("back.ova"));
    convert(ova, &xva, &["--verify"]);
    let imported = xapi_reader::import(&xva);
    convert(&xva, &back, &["--verify"]);
    (imported, vsphere_checker::check(&back), back)
}

/// A package of VMware's with these disks, and the machine changed.
fn package(contents: &[Vec<u8>], change: impl FnOnce(&mut Machine)) -> Package {
    let mut package = Package::of(Dialect::Vmware, contents);
    change(package.machine());
    package
}

#[test]
fn ova_to_xva_and_back_keeps_disks_and_machine() {
    for firmware in ["bios", "efi"] {
        let folder = Folder::new();
        let nics = [
            ("VM Network", "00:50:56:aa:bb:cc"),
            ("Backup", "00:50:56:01:02:03"),
        ];
        let package = package(&contents(), |machine| {
            machine.name = "web &amp; shop".to_owned();
            machine.cpus = 3;
            machine.memory = 1500;
            machine.firmware = Some(firmware);
            machine.nics = nics
                .map(|(network, mac)| Nic {
                    network: network.to_owned(),
                    mac: mac.to_owned(),
                    model: "VmxNet3".to_owned(),
                })
                .to_vec();
        });
        let ova = folder.file("web.ova");
        package.write_ova(&ova);
        let (imported, checked, back) = there_and_back(&ova, &folder);
        let machine = &imported.machines[0];
        assert_eq!(machine.name, "web & shop");
        assert_eq!((machine.cpus, machine.memory), (3, 1500 << 20));
        let word = if firmware == "efi" { "uefi" } else { "bios" };
        assert_eq!(machine.firmware.as_deref(), Some(word));
        assert_eq!(machine.networks, ["VM Network", "Backup"]);
        let found: Vec<&str> = imported
            .disks_of(0)
            .iter()
            .map(|d| d.sha256.as_str())
            .collect();
        assert_eq!(found, digests(&contents()));

        assert_eq!(checked.name, "web & shop");
        assert_eq!((checked.cpus, checked.memory), (3, 1500 << 20));
        assert_eq!(checked.firmware.as_deref(), Some(firmware));
        let found: Vec<_> = checked
            .nics
            .iter()
            .map(|nic| (nic.network.as_str(), nic.mac.as_deref()))
            .collect();
        assert_eq!(found, nics.map(|(network, mac)| (network, Some(mac))));
        let models = checked.nics.iter().map(|nic| nic.model.as_deref());
        assert!(models.clone().all(|m| m == Some("VmxNet3")), "{checked:?}");
        assert_eq!(disks_in(&back, 3), digests(&contents()));
    }
}

/// A Windows from the days of IDE does not start from another controller.
#[test]
fn disks_stay_on_their_bus() {
    for (bus, name) in [(Bus::Ide, "ide"), (Bus::Scsi, "scsi"), (Bus::Sata, "sata")] {
        let folder = Folder::new();
        let ova = folder.file("web.ova");
        Package::of(Dialect::Vmware, &contents())
            .bus(bus)
            .write_ova(&ova);
        let (_, checked, _) = there_and_back(&ova, &folder);
        let buses: Vec<&str> = checked.disks.iter().map(|d| d.bus.as_str()).collect();
        assert_eq!(buses, [name; 3]);
        let places: Vec<_> = checked
            .disks
            .iter()
            .map(|d| (d.controller, d.unit))
            .collect();
        let expected = if bus == Bus::Ide {
            [(0, 0), (0, 1), (1, 0)]
        } else {
            [(0, 0), (0, 1), (0, 2)]
        };
        assert_eq!(places, expected, "{name}");
    }
}

#[test]
fn every_dialect_goes_to_xva_and_back() {
    if !have_qemu() {
        return;
    }
    for dialect in Dialect::ALL {
        let folder = Folder::new();
        let ova = folder.file("web.ova");
        Package::of(dialect, &contents()).write_ova(&ova);
        let (imported, checked, back) = there_and_back(&ova, &folder);
        assert_eq!(imported.machines[0].cpus, 2, "{dialect:?}");
        assert_eq!(
            imported.machines[0].macs,
            ["00:50:56:aa:bb:cc"],
            "{dialect:?}"
        );
        assert_eq!(
            (checked.cpus, checked.memory),
            (2, 512 << 20),
            "{dialect:?}"
        );
        assert_eq!(checked.name, "web", "{dialect:?}");
        if dialect.says_firmware() {
            assert_eq!(checked.firmware.as_deref(), Some("efi"), "{dialect:?}");
        }
        assert_eq!(
            checked.nics[0].mac.as_deref(),
            Some("00:50:56:aa:bb:cc"),
            "{dialect:?}"
        );
        assert_eq!(checked.nics[0].network, "VM Network", "{dialect:?}");
        assert_eq!(disks_in(&back, 3), digests(&contents()), "{dialect:?}");
    }
}

#[test]
fn xva_to_ova_and_back_keeps_disks_and_machine() {
    for sum in [Sum::Sha1, Sum::Xxhash] {
        let folder = Folder::new();
        let (xva, ova, back) = (
            folder.file("web.xva"),
            folder.file("there.ova"),
            folder.file("back.xva"),
        );
        let mut export = Xva::of(&contents()).sum(sum);
        export.vms[0].cpus = 5;
        export.vms[0].memory = 3000;
        export.disk(0).keep_alive = vec![3];
        std::fs::write(&xva, export.bytes()).expect("write");
        convert(&xva, &ova, &["--verify"]);
        let checked = vsphere_checker::check(&ova);
        assert_eq!((checked.cpus, checked.memory), (5, 3000 << 20));
        convert(&ova, &back, &["--verify"]);
        let imported = xapi_reader::import(&back);
        let machine = &imported.machines[0];
        let expected = xapi_reader::import(&xva);
        let expected = &expected.machines[0];
        assert_eq!(
            (machine.cpus, machine.memory),
            (expected.cpus, expected.memory)
        );
        assert_eq!(
            (&machine.name, &machine.firmware),
            (&expected.name, &expected.firmware)
        );
        assert_eq!(
            (&machine.macs, &machine.networks),
            (&expected.macs, &expected.networks)
        );
        assert_eq!(machine.cd_drives, expected.cd_drives);
        let found: Vec<&str> = imported
            .disks_of(0)
            .iter()
            .map(|d| d.sha256.as_str())
            .collect();
        assert_eq!(found, digests(&contents()));
    }
}

#[test]
fn folders_and_archives_hold_the_same() {
    let folder = Folder::new();
    let ova = folder.file("web.ova");
    package(&contents(), |machine| machine.cpus = 7).write_ova(&ova);
    let made = folder.file("made");
    convert(&ova, &made, &["-O", "ovf", "--verify"]);
    let from_folder = vsphere_checker::check(&made);
    let again = folder.file("again.ova");
    convert(&made.join("web.ovf"), &again, &["--verify"]);
    let mut from_archive = vsphere_checker::check(&again);
    assert_eq!(from_folder.cpus, 7);
    for (disk, other) in from_archive.disks.iter_mut().zip(&from_folder.disks) {
        // Files are called after the package.
        disk.href.clone_from(&other.href);
    }
    assert_eq!(from_archive, from_folder);
    assert_eq!(disks_in(&again, 3), digests(&contents()));
}

/// An odd disk is padded once, and what is added is zeros.
#[test]
fn odd_sizes_are_rounded_up_once_and_said() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, (10 << 20) + 512);
    let ova = folder.file("web.ova");
    let made = common::run_ok(&["convert", s(&raw), s(&ova), "--name", "web"]);
    assert!(made.stderr.contains("10486272"), "{}", made.stderr);
    let (_, checked, back) = there_and_back(&ova, &folder);
    assert_eq!(checked.disks[0].capacity, 11 << 20);
    let mut content = std::fs::read(&raw).expect("read");
    content.resize(11 << 20, 0);
    assert_eq!(guest_digest(&back, &[]).0, sha256(&content));
}

#[test]
fn the_boot_image_boots_after_ova_and_xva() {
    let Some(raw) = common::skip::named_by("DISKFERRY_BOOT_IMAGE") else {
        return;
    };
    let folder = Folder::new();
    let (ova, xva) = (folder.file("boot.ova"), folder.file("boot.xva"));
    convert(&raw, &ova, &["-f", "raw", "--name", "boot", "--verify"]);
    convert(&ova, &xva, &["--verify"]);
    let qcow2 = folder.file("boot.qcow2");
    convert(&xva, &qcow2, &["--verify"]);
    let back = folder.file("back.raw");
    convert(&qcow2, &back, &[]);
    let (found, expected) = (
        std::fs::read(&back).expect("read"),
        std::fs::read(&raw).expect("read"),
    );
    assert!(found.starts_with(&expected), "another disk");
    assert!(found[expected.len()..].iter().all(|b| *b == 0));
    let told = common::boot::boot("qcow2", &qcow2);
    assert!(common::boot::is_up(&told), "does not boot:\n{told}");
    assert_eq!(guest_digest(&qcow2, &[]).0, sha256sum(&back));
}
