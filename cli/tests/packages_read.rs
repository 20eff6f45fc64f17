//! Packages as others write them, read to the content of their disks.

mod common;

use std::fs;
use std::path::PathBuf;

use common::damage::{fails_to, snapshot};
use common::machines::{digest, holds, told};
use common::packages::descriptor::RAW_URI;
use common::packages::{Dialect, Members, Package, Sum, Xva, contents, disks, sha256, tar_of};
use common::peers::have_qemu;
use common::skip::named_by;
use common::{Folder, convert, guest_digest, run, run_ok, s};

fn small() -> Vec<Vec<u8>> {
    vec![disks::content(1, 3)]
}

/// A file of these bytes, in a folder.
fn file(folder: &Folder, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.file(name);
    fs::write(&path, bytes).expect("write");
    path
}

#[test]
fn disks_of_every_dialect_are_read_in_ovas_and_folders() {
    if !have_qemu() {
        return;
    }
    for dialect in Dialect::ALL {
        let folder = Folder::new();
        let package = Package::of(dialect, &contents());
        let ova = file(&folder, "web.ova", &package.ova());
        holds(&ova, &contents());
        package.write_folder(&folder.file("web"));
        holds(&folder.file("web/web.ovf"), &contents());
    }
}

#[test]
fn machines_of_every_dialect_are_told() {
    if !have_qemu() {
        return;
    }
    for dialect in Dialect::ALL {
        let folder = Folder::new();
        let ova = file(&folder, "web.ova", &Package::of(dialect, &contents()).ova());
        let (machines, answer) = told(&ova);
        let [machine] = &machines[..] else {
            panic!("{dialect:?}: {answer}");
        };
        assert_eq!(machine.name, "web", "{dialect:?}");
        assert_eq!(machine.cpus, Some(2), "{dialect:?}");
        assert_eq!(machine.memory, Some(512 << 20), "{dialect:?}");
        assert_eq!(machine.disks, 2, "{dialect:?}");
        let firmware = dialect.says_firmware().then(|| "efi".to_owned());
        assert_eq!(machine.firmware, firmware, "{dialect:?}");
        let mac = Some("00:50:56:aa:bb:cc".to_owned());
        let network = Some("VM Network".to_owned());
        assert_eq!(machine.nics, [(network, mac)], "{dialect:?}");
    }
}

#[test]
fn a_disk_is_picked_by_its_number_name_or_file() {
    let folder = Folder::new();
    let ova = file(&folder, "web.ova", &Package::raw(&contents()).ova());
    let expected = sha256(&contents()[1]);
    for wanted in ["2", "Hard Disk 2", "web-disk2.raw"] {
        let (found, size) = guest_digest(&ova, &["--disk", wanted]);
        assert_eq!((&found, size), (&expected, 3 << 20), "{wanted}");
        let target = folder.file("picked.qcow2");
        convert(&ova, &target, &["--disk", wanted, "--force", "--verify"]);
        assert_eq!(guest_digest(&target, &[]).0, expected, "{wanted}");
    }
    let map = run_ok(&["map", s(&ova), "--disk", "2", "--json"]).json();
    assert_eq!(map["size"], 3 << 20);
    let measured = run_ok(&["measure", s(&ova), "--disk", "2", "-O", "raw", "--json"]).json();
    assert!(measured.to_string().contains("3145728"), "{measured}");
}

#[test]
fn several_disks_need_a_choice() {
    let folder = Folder::new();
    let ova = file(&folder, "web.ova", &Package::raw(&contents()).ova());
    let target = folder.file("target.qcow2");
    for options in [
        &[][..],
        &["--disk", "3"],
        &["--disk", "0"],
        &["--disk", "other.raw"],
    ] {
        let error = fails_to(&ova, &target, options, 2, "usage");
        let message = error["message"].as_str().expect("a message");
        for name in ["Hard Disk 1", "Hard Disk 2"] {
            assert!(message.contains(name), "{options:?}: {message}");
        }
        assert_eq!(digest(&ova, options).code, Some(2), "{options:?}");
    }
    // One disk needs none.
    let one = file(&folder, "one.ova", &Package::raw(&small()).ova());
    assert_eq!(guest_digest(&one, &[]).0, sha256(&small()[0]));
    convert(&one, &target, &["--verify"]);
    // What is no package has no disks to choose from.
    let finished = digest(&target, &["--disk", "1"]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
}

#[test]
fn all_disks_go_into_a_folder() {
    let folder = Folder::new();
    let ova = file(&folder, "web.ova", &Package::raw(&contents()).ova());
    fs::create_dir(folder.file("there")).expect("a folder");
    for name in ["there", "made/", "there2/"] {
        let target = folder.file(name);
        run_ok(&["convert", s(&ova), s(&target), "-O", "qcow2", "--verify"]);
        for (number, content) in contents().iter().enumerate() {
            let disk = target.join(format!("web-disk{}.qcow2", number + 1));
            assert_eq!(guest_digest(&disk, &[]).0, sha256(content), "{name}");
        }
        assert_eq!(fs::read_dir(&target).expect("list").count(), 2, "{name}");
    }
    // What is there is not replaced, and nothing new stands beside it.
    let there = folder.file("there");
    fs::remove_file(there.join("web-disk1.qcow2")).expect("remove");
    let before = snapshot(&there);
    let finished = run(&["convert", s(&ova), s(&there), "-O", "qcow2"]);
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    assert!(snapshot(&there) == before, "something changed");
}

#[test]
fn a_package_that_is_broken_leaves_nothing_in_the_folder() {
    let folder = Folder::new();
    let mut members = Package::raw(&contents()).members();
    // The second disk is not what the manifest says.
    members[3].1[70_000] ^= 1;
    let ova = file(&folder, "web.ova", &tar_of(&members));
    for name in ["there", "made/"] {
        let target = folder.file(name);
        let _ = fs::create_dir(folder.file("there"));
        let finished = run(&["convert", s(&ova), s(&target), "-O", "qcow2"]);
        assert_eq!(finished.code, Some(3), "{}", finished.stderr);
        let left = fs::read_dir(&target).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{name}");
    }
}

#[test]
fn several_machines_need_a_choice() {
    let folder = Folder::new();
    let mut package = Package::raw(&contents()[..1]);
    package
        .descriptor
        .machines
        .push(common::packages::descriptor::Machine::new("db"));
    let content = contents()[1].clone();
    let package = package.disk(
        "db-disk1.raw",
        content.clone(),
        content.len() as u64,
        RAW_URI,
    );
    let ova = file(&folder, "web.ova", &package.ova());
    let (machines, answer) = told(&ova);
    let names: Vec<&str> = machines.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["web", "db"], "{answer}");
    let target = folder.file("target.qcow2");
    for options in [&[][..], &["--vm", "other"]] {
        let error = fails_to(&ova, &target, options, 2, "usage");
        let message = error["message"].as_str().expect("a message");
        assert!(
            message.contains("web") && message.contains("db"),
            "{message}"
        );
    }
    for (name, content) in ["web", "db"].iter().zip(contents()) {
        let found = guest_digest(&ova, &["--vm", name]).0;
        assert_eq!(found, sha256(&content), "{name}");
    }
}

#[test]
fn exports_of_xapi_are_read() {
    for sum in [Sum::Sha1, Sum::Xxhash] {
        let folder = Folder::new();
        let mut xva = Xva::of(&contents()).sum(sum);
        xva.disk(0).keep_alive = vec![2, 5];
        holds(&file(&folder, "web.xva", &xva.bytes()), &contents());
        let (machines, answer) = told(&folder.file("web.xva"));
        assert_eq!(machines[0].cpus, Some(2), "{answer}");
        assert_eq!(machines[0].memory, Some(512 << 20), "{answer}");
        assert_eq!(machines[0].firmware.as_deref(), Some("efi"), "{answer}");
        assert_eq!(machines[0].disks, 2, "{answer}");
        assert_eq!(machines[0].nics[0].1.as_deref(), Some("00:50:56:aa:bb:cc"));
    }
}

#[test]
fn a_short_last_block_is_read() {
    let folder = Folder::new();
    let mut content = disks::content(1, 4);
    content.truncate((3 << 20) + 1024);
    let contents = [content, disks::content(5, 2)];
    let xva = file(&folder, "web.xva", &Xva::of(&contents).bytes());
    holds(&xva, &contents);
}

#[test]
fn exports_of_several_machines_are_read() {
    let folder = Folder::new();
    let mut xva = Xva::of(&contents()[..1]);
    xva.vms.push(common::packages::xva::Vm::new("db"));
    xva.add_disk(&contents()[1]);
    let path = file(&folder, "two.xva", &xva.bytes());
    assert_eq!(digest(&path, &[]).code, Some(2));
    for (name, content) in ["web", "db"].iter().zip(contents()) {
        assert_eq!(
            guest_digest(&path, &["--vm", name]).0,
            sha256(&content),
            "{name}"
        );
    }
}

#[test]
fn references_of_several_widths_are_sorted_as_xapi_does() {
    let folder = Folder::new();
    let mut xva = Xva::of(&contents());
    xva.disk(0).id = "Ref:10".to_owned();
    xva.disk(1).id = "Ref:2".to_owned();
    holds(&file(&folder, "web.xva", &xva.bytes()), &contents());
}

#[test]
fn packages_are_compared_disk_by_disk() {
    let folder = Folder::new();
    let ova = file(&folder, "web.ova", &Package::raw(&contents()).ova());
    let xva = file(&folder, "web.xva", &Xva::of(&contents()).bytes());
    let compare = |options: &[&str]| run(&[&["compare", s(&ova), s(&xva)], options].concat());
    assert_eq!(compare(&["--disk", "2"]).code, Some(0));
    let raw = file(&folder, "disk.raw", &contents()[1]);
    let second = |number: &str| run(&["compare", s(&ova), s(&raw), "--disk", number]).code;
    assert_eq!((second("1"), second("2")), (Some(1), Some(0)));
}

#[test]
fn check_verifies_a_whole_package() {
    let folder = Folder::new();
    let package = Package::raw(&contents());
    let ova = file(&folder, "web.ova", &package.ova());
    run_ok(&["check", s(&ova)]);
    let mut members: Members = package.members();
    members[3].1[5] ^= 1;
    let broken = file(&folder, "broken.ova", &tar_of(&members));
    let finished = run(&["check", s(&broken), "--json"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(
        finished.text().contains("web-disk2.raw"),
        "{}",
        finished.text()
    );
    let mut members = Xva::of(&contents()).members();
    run_ok(&["check", s(&file(&folder, "web.xva", &tar_of(&members)))]);
    members[1].1[5] ^= 1;
    let broken = file(&folder, "broken.xva", &tar_of(&members));
    let finished = run(&["check", s(&broken)]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
}

#[test]
fn what_xen_orchestra_writes_is_read() {
    let Some(corpus) = named_by("DISKFERRY_CORPUS") else {
        return;
    };
    let guests = [
        (
            "xo-one.xva",
            "13b465589b35d5abb444c4cde2b5c47c962e7e4197b8d76702a6b0ea42dc84f7",
        ),
        (
            "xo-empty.xva",
            "cfadd44a103cbd6d5726fa07b27d7aad2f67ed3930ff96901c486a5beaf7e723",
        ),
    ];
    for (name, digest) in guests {
        let xva = corpus.join("generated-thirdparty/xen-orchestra").join(name);
        assert_eq!(guest_digest(&xva, &[]).0, digest, "{name}");
    }
}
