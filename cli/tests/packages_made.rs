//! What is asked for when a package is made, and what comes of it.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::damage::snapshot;
use common::machines::{disk_digest, holds};
use common::packages::{Archive, Bus, Dialect, Package, contents, disks, sha256};
use common::peers::{have_qemu, qemu_raw};
use common::tools::{gnu_tar_list, python_tar_list};
use common::vsphere_checker::{self, Importer};
use common::{
    Folder, convert, diskferry, have, make_disk, run, run_ok, s, sha256sum, testdata, tool,
    xapi_reader,
};

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
fn a_machine_is_made_around_a_disk() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    fs::write(&raw, disks::content(1, 9)).expect("write");
    let said = [
        "--name",
        "shop",
        "--cpus",
        "3",
        "--memory",
        "4G",
        "--firmware",
        "efi",
        "--nic",
        "VM Network",
        "--nic",
        "Backup",
    ];
    let (ova, xva) = (folder.file("shop.ova"), folder.file("shop.xva"));
    convert(&raw, &ova, &said);
    let checked = vsphere_checker::check(&ova);
    assert_eq!(
        (checked.name.as_str(), checked.cpus, checked.memory),
        ("shop", 3, 4 << 30)
    );
    assert_eq!(checked.firmware.as_deref(), Some("efi"));
    let networks: Vec<&str> = checked
        .nics
        .iter()
        .map(|nic| nic.network.as_str())
        .collect();
    assert_eq!(networks, ["VM Network", "Backup"]);
    convert(&raw, &xva, &said);
    let imported = xapi_reader::import(&xva);
    let machine = &imported.machines[0];
    assert_eq!(
        (machine.name.as_str(), machine.cpus, machine.memory),
        ("shop", 3, 4 << 30)
    );
    assert_eq!(machine.networks, ["VM Network", "Backup"]);
    assert_eq!(imported.disks[0].sha256, sha256(&disks::content(1, 9)));
}

#[test]
fn a_machine_is_described_in_toml() {
    let folder = Folder::new();
    let (raw, toml, ova) = (
        folder.file("disk.raw"),
        folder.file("web.toml"),
        folder.file("web.ova"),
    );
    fs::write(&raw, disks::content(1, 3)).expect("write");
    let text = "name = \"shop\"\ncpus = 6\nmemory = \"3G\"\nfirmware = \"efi\"\n\n[[nics]]\nnetwork = \"DMZ\"\n\
                model = \"vmxnet3\"\nmac = \"00:50:56:00:00:01\"\n";
    fs::write(&toml, text).expect("write");
    convert(&raw, &ova, &["--machine", s(&toml)]);
    let checked = vsphere_checker::check(&ova);
    assert_eq!(
        (checked.name.as_str(), checked.cpus, checked.memory),
        ("shop", 6, 3 << 30)
    );
    assert_eq!(checked.nics[0].mac.as_deref(), Some("00:50:56:00:00:01"));
    assert_eq!(checked.nics[0].model.as_deref(), Some("VmxNet3"));
    for bad in [
        "cpus = 0",
        "memory = -1",
        "colour = \"red\"",
        "name = ",
        "firmware = \"coreboot\"",
    ] {
        fs::write(&toml, bad).expect("write");
        let finished = run(&[
            "convert",
            s(&raw),
            s(&folder.file("bad.ova")),
            "--machine",
            s(&toml),
        ]);
        assert!(
            matches!(finished.code, Some(2 | 3)),
            "{bad}: {}",
            finished.stderr
        );
    }
    assert_eq!(folder.names(), ["disk.raw", "web.ova", "web.toml"]);
}

#[test]
fn a_vmx_folder_becomes_a_package() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let vmx = folder.file("web.vmx");
    let image = disks::by_qemu(&contents()[0], "vmdk", "subformat=monolithicSparse");
    fs::write(folder.file("web.vmdk"), image).expect("write");
    let text = ".encoding = \"UTF-8\"\nconfig.version = \"8\"\nvirtualHW.version = \"13\"\ndisplayName = \"web\"\n\
                guestOS = \"debian10-64\"\nmemsize = \"2048\"\nnumvcpus = \"4\"\nfirmware = \"efi\"\n\
                scsi0.present = \"TRUE\"\nscsi0.virtualDev = \"pvscsi\"\nscsi0:0.present = \"TRUE\"\n\
                scsi0:0.fileName = \"web.vmdk\"\nethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vmxnet3\"\n\
                ethernet0.networkName = \"VM Network\"\nethernet0.addressType = \"static\"\n\
                ethernet0.address = \"00:50:56:12:34:56\"\n";
    fs::write(&vmx, text).expect("write");
    for (name, extra) in [("web.ova", 0), ("web.xva", 1)] {
        let target = folder.file(name);
        convert(&vmx, &target, &["--verify"]);
        assert_eq!(disk_digest(&target, 1), sha256(&contents()[0]));
        if extra == 0 {
            let checked = vsphere_checker::check(&target);
            assert_eq!((checked.cpus, checked.memory), (4, 2 << 30));
            assert_eq!(checked.disks[0].model.as_deref(), Some("VirtualSCSI"));
            assert_eq!(checked.nics[0].mac.as_deref(), Some("00:50:56:12:34:56"));
        } else {
            let imported = xapi_reader::import(&target);
            assert_eq!(imported.machines[0].cpus, 4);
        }
    }
}

#[test]
fn a_manifest_is_what_was_asked_for_or_none() {
    let folder = Folder::new();
    for (option, name) in [
        ("sha1", Some("SHA1")),
        ("sha256", Some("SHA256")),
        ("sha512", Some("SHA512")),
        ("none", None),
    ] {
        let target = written(&folder, "target.ova", &["--manifest", option, "--force"]);
        let checked = vsphere_checker::check(&target);
        assert_eq!(checked.algorithm.as_deref(), name);
    }
}

#[test]
fn a_signature_is_one_over_the_manifest() {
    if !have("openssl") {
        return;
    }
    let folder = Folder::new();
    let (key, cert) = (folder.file("key.pem"), folder.file("cert.pem"));
    let made = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=diskferry",
        "-keyout",
        s(&key),
        "-out",
        s(&cert),
    ];
    tool("openssl", &made);
    for manifest in ["sha1", "sha256", "sha512"] {
        let options = [
            "--sign",
            s(&key),
            "--cert",
            s(&cert),
            "--manifest",
            manifest,
            "--force",
        ];
        let target = written(&folder, "target.ova", &options);
        assert!(vsphere_checker::check(&target).signed);
        holds(&target, &contents());
    }
    for options in [
        &["--sign", s(&key)][..],
        &["--cert", s(&cert)],
        &["--sign", s(&key), "--cert", s(&cert), "--manifest", "none"],
    ] {
        let (source, target) = (folder.file("source.ova"), folder.file("bad.ova"));
        let finished = run(&[&["convert", s(&source), s(&target)], options].concat());
        assert_eq!(finished.code, Some(2), "{options:?}: {}", finished.stderr);
        assert!(!target.exists());
    }
}

#[test]
fn the_same_input_makes_the_same_bytes() {
    let folder = Folder::new();
    let source = folder.file("source.ova");
    Package::of(Dialect::Vmware, &contents()).write_ova(&source);
    for name in ["a.ova", "a.xva"] {
        let digests: Vec<String> = ["1", "2", "7"]
            .map(|jobs| {
                let target = folder.file(name);
                convert(&source, &target, &["--reproducible", "--force", "-j", jobs]);
                sha256sum(&target)
            })
            .into();
        assert_eq!(digests[0], digests[1], "{name}");
        assert_eq!(digests[0], digests[2], "{name}");
    }
}

#[test]
fn a_pipe_takes_the_same_package() {
    let folder = Folder::new();
    let source = folder.file("source.ova");
    Package::of(Dialect::Vmware, &contents())
        .bus(Bus::Sata)
        .write_ova(&source);
    for (format, name) in [("ova", "piped.ova"), ("xva", "piped.xva")] {
        let target = folder.file(name);
        let status = diskferry()
            .args(["convert", s(&source), "-", "-O", format])
            .stdout(fs::File::create(&target).expect("create"))
            .stderr(Stdio::null())
            .status()
            .expect("run");
        assert_eq!(status.code(), Some(0), "{format}");
        holds(&target, &contents());
        match format {
            "ova" => assert_eq!(vsphere_checker::check(&target).disks.len(), 2),
            _ => assert_eq!(xapi_reader::import(&target).disks.len(), 2),
        }
        // A real pipe, which cannot be sought in.
        let piped = Command::new("sh")
            .args([
                "-c",
                "\"$0\" convert \"$1\" - -O \"$2\" 2>/dev/null | cat > \"$3\"",
            ])
            .args([
                env!("CARGO_BIN_EXE_diskferry"),
                s(&source),
                format,
                s(&target),
            ])
            .status();
        assert!(piped.expect("sh").success());
        holds(&target, &contents());
    }
}

#[test]
fn a_folder_is_what_vsphere_takes_and_appears_whole() {
    let folder = Folder::new();
    let target = written(&folder, "web/", &["-O", "ovf"]);
    assert_eq!(vsphere_checker::check(&target).disks.len(), 2);
    let xen = folder.file("xen");
    convert(
        &folder.file("source.ova"),
        &xen,
        &["-O", "ovf", "--for", "xenserver"],
    );
    let checked = vsphere_checker::check_for(&xen, Importer::XenCenter);
    assert_eq!((checked.cpus, checked.disks.len()), (2, 2));
    if have_qemu() {
        let raw = folder.file("disk.raw");
        for (disk, content) in checked.disks.iter().zip(contents()) {
            qemu_raw("vpc", &xen.join(&disk.href), &raw);
            assert!(
                fs::read(&raw).expect("read").starts_with(&content),
                "{}",
                disk.href
            );
        }
    }
    // What stands there stays.
    let before = snapshot(&target);
    let finished = run(&[
        "convert",
        s(&folder.file("source.ova")),
        s(&target),
        "-O",
        "ovf",
    ]);
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    assert!(snapshot(&target) == before);
}

#[test]
fn a_package_that_is_there_is_not_replaced_unless_told() {
    let folder = Folder::new();
    let source = folder.file("source.ova");
    Package::raw(&contents()).write_ova(&source);
    for name in ["old.ova", "old.xva"] {
        fs::write(folder.file(name), "old").expect("write");
        let finished = run(&["convert", s(&source), s(&folder.file(name))]);
        assert_eq!(finished.code, Some(5), "{}", finished.stderr);
        assert_eq!(fs::read(folder.file(name)).expect("read"), b"old");
        convert(&source, &folder.file(name), &["--force"]);
        holds(&folder.file(name), &contents());
    }
    // Nor is it its own target.
    let finished = run(&["convert", s(&source), s(&source), "--force"]);
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    holds(&source, &contents());
    assert_eq!(folder.names(), ["old.ova", "old.xva", "source.ova"]);
}

#[test]
fn what_every_format_holds_can_be_packaged() {
    let folder = Folder::new();
    for name in ["small.qcow2", "small.vhd"] {
        for kind in ["ova", "xva"] {
            let (image, target) = (testdata(name), folder.file(&format!("{name}.{kind}")));
            run_ok(&[
                "convert",
                s(&image),
                s(&target),
                "--name",
                "web",
                "--verify",
            ]);
            let finished = run(&["compare", s(&image), s(&target)]);
            assert_eq!(finished.code, Some(0), "{name} {kind}: {}", finished.text());
        }
    }
}

#[test]
fn names_become_what_importers_can_read() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    fs::write(&raw, disks::content(1, 1)).expect("write");
    for (name, file) in [
        ("My VM (1) [new]", "My VM (1).ova"),
        ("Über & <web>", "über.ova"),
        ("a", ".hidden.ova"),
    ] {
        let target = folder.file(file);
        convert(&raw, &target, &["--name", name]);
        assert_eq!(vsphere_checker::check(&target).name, name);
    }
}

/// From 8 GiB on, a size is a binary number: holes make it cheap to have one.
#[test]
fn a_member_above_8_gib_is_read_by_others() {
    let folder = Folder::new();
    let (raw, ova) = (folder.file("disk.raw"), folder.file("big.ova"));
    make_disk(&raw, 9 << 30);
    let options = [
        "--name",
        "web",
        "--for",
        "xenserver",
        "-O",
        "ova",
        "-o",
        "subformat=fixed",
        "--manifest",
        "none",
    ];
    convert(&raw, &ova, &options);
    let size = (9 << 30) + 512;
    for list in [gnu_tar_list(&ova), python_tar_list(&ova)] {
        assert_eq!(list.last().expect("a disk").1, size, "{list:?}");
    }
    let archive = Archive::open(&ova);
    assert!(archive.members.last().expect("a disk").base256);
    let compared = run(&["compare", s(&raw), s(&ova)]);
    assert_eq!(compared.code, Some(0), "{}", compared.text());
}
