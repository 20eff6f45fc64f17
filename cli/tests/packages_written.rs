//! Packages that diskferry writes, judged by those who would take them.

mod common;

use std::fs;
use std::path::PathBuf;

use common::machines::holds;
use common::packages::{Archive, Bus, Dialect, Package, Sum, Xva, contents, disks, sha256};
use common::peers::{have_qemu, qemu_check, qemu_raw, seven_zip_agrees};
use common::tools::{
    Ganeti, cot, gnu_tar_list, python_tar_list, schema, schema_errors, unpack, virt_v2v,
    xva_img_export,
};
use common::vsphere_checker::{self};
use common::{Folder, convert, have, sha256sum, xapi_reader};

/// Profiles whose packages vSphere could take as well.
const VMWARE_LIKE: [&str; 8] = [
    "esxi-5", "esxi-6.7", "esxi-7", "esxi-8", "vsphere", "proxmox", "ganeti", "nutanix",
];

/// Packages of several kinds, all of the same two disks.
fn sources(folder: &Folder) -> Vec<PathBuf> {
    let streams = Package::of(Dialect::Vmware, &contents());
    let virtualbox = Package::of(Dialect::VirtualBox, &contents()).bus(Bus::Sata);
    let raw = Package::raw(&contents()).bus(Bus::Sata);
    let xva = Xva::of(&contents()).sum(Sum::Xxhash);
    [
        ("streams.ova", streams.ova()),
        ("virtualbox.ova", virtualbox.ova()),
        ("raw.ova", raw.ova()),
        ("xen.xva", xva.bytes()),
    ]
    .map(|(name, bytes)| {
        let path = folder.file(name);
        fs::write(&path, bytes).expect("write");
        path
    })
    .to_vec()
}

/// A package with two disks, as diskferry writes it from one of VMware's.
fn written(folder: &Folder, name: &str, options: &[&str]) -> PathBuf {
    let (source, target) = (folder.file("source.ova"), folder.file(name));
    Package::of(Dialect::Vmware, &contents())
        .bus(Bus::Sata)
        .write_ova(&source);
    convert(&source, &target, options);
    target
}

#[test]
fn ovas_are_what_vsphere_takes() {
    let folder = Folder::new();
    for source in sources(&folder) {
        let target = folder.file("target.ova");
        convert(&source, &target, &["--force"]);
        let checked = vsphere_checker::check(&target);
        assert_eq!(
            (checked.cpus, checked.memory),
            (2, 512 << 20),
            "{}",
            source.display()
        );
        assert_eq!(checked.algorithm.as_deref(), Some("SHA256"));
        assert_eq!(checked.disks.len(), 2);
        holds(&target, &contents());
    }
}

#[test]
fn every_profile_is_what_vsphere_takes() {
    let folder = Folder::new();
    let newest = [
        ("esxi-5", 10),
        ("esxi-6.7", 14),
        ("vsphere", 14),
        ("nutanix", 13),
    ];
    for profile in VMWARE_LIKE {
        for bus in [Bus::Ide, Bus::Scsi] {
            let (source, target) = (folder.file("source.ova"), folder.file("target.ova"));
            Package::of(Dialect::VirtualBox, &contents())
                .bus(bus)
                .write_ova(&source);
            convert(&source, &target, &["--for", profile, "--force"]);
            let checked = vsphere_checker::check(&target);
            let version: u32 = checked.hardware["vmx-".len()..].parse().expect("a number");
            let limit = newest.iter().find(|(name, _)| *name == profile);
            assert!(
                version <= limit.map_or(21, |(_, v)| *v),
                "{profile}: vmx-{version}"
            );
            let expected = if ["esxi-5", "ganeti"].contains(&profile) {
                "SHA1"
            } else {
                "SHA256"
            };
            assert_eq!(checked.algorithm.as_deref(), Some(expected), "{profile}");
            // Nutanix takes none on IDE; the others keep it where it was.
            let kept = if bus == Bus::Ide && profile != "nutanix" {
                "ide"
            } else {
                "scsi"
            };
            assert_eq!(checked.disks[0].bus, kept, "{profile}");
            holds(&target, &contents());
        }
    }
}

#[test]
fn descriptors_are_valid_for_the_schema() {
    let Some(schema) = schema() else {
        return;
    };
    let folder = Folder::new();
    for source in sources(&folder) {
        for profile in VMWARE_LIKE.into_iter().chain(["virtualbox", "xenserver"]) {
            let target = folder.file("target");
            convert(&source, &target, &["-O", "ovf", "--for", profile]);
            let ovf = fs::read_dir(&target).expect("list").find_map(|entry| {
                let path = entry.expect("an entry").path();
                path.extension().is_some_and(|e| e == "ovf").then_some(path)
            });
            let found = schema_errors(&schema, &ovf.expect("a descriptor"));
            assert_eq!(
                found,
                Vec::<String>::new(),
                "{} {profile}",
                source.display()
            );
            fs::remove_dir_all(&target).expect("remove");
        }
    }
}

#[test]
fn virt_v2v_takes_them() {
    if !have("virt-v2v") {
        return;
    }
    let folder = Folder::new();
    for source in sources(&folder) {
        let target = folder.file("target.ova");
        convert(&source, &target, &["--force"]);
        let told = virt_v2v(&target).expect("virt-v2v");
        assert_eq!(
            (told.cpus, told.memory),
            (2, 512 << 20),
            "{}",
            source.display()
        );
        assert_eq!(told.name, "web");
        assert_eq!((told.disks.len(), told.nics.len()), (2, 1), "{told:?}");
        assert_eq!(told.nics[0].0, "00:50:56:aa:bb:cc", "{}", source.display());
        assert_eq!(told.complaints, Vec::<String>::new());
        let efi = source.ends_with("streams.ova") || source.ends_with("xen.xva");
        assert!(!efi || told.firmware == "efi", "{}", source.display());
    }
}

#[test]
fn cot_takes_them() {
    if !have("cot") {
        return;
    }
    let folder = Folder::new();
    for source in sources(&folder) {
        let target = folder.file("target.ova");
        // The one algorithm that it verifies.
        convert(&source, &target, &["--force", "--manifest", "sha1"]);
        let told = cot(&target);
        assert_eq!(
            (told.cpus, told.memory),
            (2, 512 << 20),
            "{}",
            source.display()
        );
        assert_eq!((told.disks.len(), told.nics.len()), (2, 1), "{told:?}");
        assert_eq!(
            told.complaints,
            Vec::<String>::new(),
            "{}",
            source.display()
        );
    }
}

#[test]
fn ganeti_takes_them() {
    if !(have("ovfconverter") && have_qemu()) {
        return;
    }
    let folder = Folder::new();
    for source in sources(&folder) {
        for profile in ["ganeti", "vsphere"] {
            let target = folder.file("target.ova");
            convert(&source, &target, &["--force", "--for", profile]);
            let imported = Ganeti::import(&target).expect("Ganeti");
            assert_eq!(imported.get("vcpus"), "2", "{}", source.display());
            assert_eq!(imported.get("memory"), "512", "{}", source.display());
            assert_eq!(imported.get("nic0_mac"), "00:50:56:aa:bb:cc");
            let found: Vec<String> = imported.disks.iter().map(|d| sha256sum(d)).collect();
            let expected: Vec<String> = contents().iter().map(|c| sha256(c)).collect();
            assert_eq!(found, expected, "{}", source.display());
        }
    }
}

#[test]
fn qemu_and_seven_zip_read_the_disks_inside() {
    if !(have_qemu() && have("7zz")) {
        return;
    }
    let folder = Folder::new();
    let target = written(&folder, "target.ova", &[]);
    let unpacked = unpack(&target);
    let raw = folder.file("disk.raw");
    for (number, content) in contents().iter().enumerate() {
        let disk = unpacked.file(&format!("target-disk{}.vmdk", number + 1));
        qemu_raw("vmdk", &disk, &raw);
        assert_eq!(sha256sum(&raw), sha256(content));
        qemu_check("vmdk", &disk);
        seven_zip_agrees("vmdk", &disk, &raw, content.len() as u64);
    }
}

#[test]
fn tars_are_listed_as_they_are() {
    let folder = Folder::new();
    for name in ["target.ova", "target.xva"] {
        let target = written(&folder, name, &[]);
        let archive = Archive::open(&target);
        let found: Vec<(String, u64)> = archive
            .members
            .iter()
            .map(|m| (m.name.clone(), m.size))
            .collect();
        assert_eq!(gnu_tar_list(&target), found);
        assert_eq!(python_tar_list(&target), found);
    }
}

#[test]
fn xvas_are_what_xapi_takes() {
    let folder = Folder::new();
    for source in sources(&folder) {
        for (option, sums) in [("sha1", ".checksum"), ("xxhash", ".xxhash")] {
            let target = folder.file("target.xva");
            convert(&source, &target, &["--force", "--checksum", option]);
            let imported = xapi_reader::import(&target);
            assert_eq!(imported.sums, Some(sums));
            let machine = &imported.machines[0];
            assert_eq!(
                (machine.cpus, machine.memory),
                (2, 512 << 20),
                "{}",
                source.display()
            );
            assert_eq!(machine.macs, ["00:50:56:aa:bb:cc"], "{}", source.display());
            let found: Vec<&str> = imported
                .disks_of(0)
                .iter()
                .map(|d| d.sha256.as_str())
                .collect();
            let expected: Vec<String> = contents().iter().map(|c| sha256(c)).collect();
            assert_eq!(found, expected, "{}", source.display());
        }
    }
}

#[test]
fn xva_img_takes_them() {
    if !have("xva-img") {
        return;
    }
    let folder = Folder::new();
    let target = written(&folder, "target.xva", &[]);
    for (disk, content) in xapi_reader::import(&target)
        .disks_of(0)
        .iter()
        .zip(contents())
    {
        let raw = xva_img_export(&target, &disk.id, &folder).expect("xva-img");
        assert_eq!(sha256sum(&raw), sha256(&content), "{}", disk.id);
    }
}

#[test]
fn xvas_leave_out_zeros_but_for_the_ends() {
    let folder = Folder::new();
    for (content, blocks) in [
        (vec![0; 9 << 20], 2),
        (vec![0; 1 << 20], 1),
        (disks::content(1, 9), 6),
    ] {
        let (raw, xva) = (folder.file("disk.raw"), folder.file("disk.xva"));
        fs::write(&raw, &content).expect("write");
        convert(&raw, &xva, &["--force", "--name", "web"]);
        let imported = xapi_reader::import(&xva);
        assert_eq!(imported.disks[0].sha256, sha256(&content));
        // Of the last disk, blocks 0, 1, 3, 5, 6 and 8 hold data.
        assert!(
            imported.disks[0].blocks <= blocks,
            "{:?}",
            imported.disks[0]
        );
    }
}

#[test]
fn many_disks_have_ids_that_do_not_begin_each_other() {
    let folder = Folder::new();
    let contents: Vec<Vec<u8>> = (0..12).map(|seed| disks::content(seed, 1)).collect();
    let (source, ova, xva) = (
        folder.file("many.ova"),
        folder.file("out.ova"),
        folder.file("out.xva"),
    );
    Package::raw(&contents).bus(Bus::Sata).write_ova(&source);
    convert(&source, &ova, &[]);
    assert_eq!(vsphere_checker::check(&ova).disks.len(), 12);
    convert(&ova, &xva, &[]);
    let imported = xapi_reader::import(&xva);
    for (disk, content) in imported.disks_of(0).iter().zip(&contents) {
        assert_eq!(disk.sha256, sha256(content));
    }
}
