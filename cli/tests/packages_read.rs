//! Packages as others write them, read to the content of their disks.

mod common;

use std::fs;
use std::path::PathBuf;

use common::damage::{fails_to, snapshot};
use common::machines::{digest, disk_digest, told};
use common::packages::descriptor::{QCOW2_URI, RAW_URI, STREAM_URI, VHD_URI};
use common::packages::{
    Algorithm, Dialect, Grammar, Header, Member, Members, Package, Sum, Tar, Xva, disks, gzip,
    sha256, tar_of, zstd,
};
use common::peers::have_qemu;
use common::skip::named_by;
use common::{Folder, convert, guest_digest, run, run_ok, s};

fn contents() -> Vec<Vec<u8>> {
    vec![disks::content(1, 9), disks::content(5, 3)]
}

fn small() -> Vec<Vec<u8>> {
    vec![disks::content(1, 3)]
}

/// A file of these bytes, in a folder.
fn file(folder: &Folder, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.file(name);
    fs::write(&path, bytes).expect("write");
    path
}

/// The package holds these disks, in this order.
fn holds(package: &std::path::Path, contents: &[Vec<u8>]) {
    for (index, content) in contents.iter().enumerate() {
        let found = disk_digest(package, index + 1);
        assert_eq!(found, sha256(content), "{} {index}", package.display());
    }
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
fn every_grammar_of_a_manifest_is_verified() {
    for algorithm in Algorithm::ALL {
        for grammar in Grammar::ALL {
            let folder = Folder::new();
            let package = Package::raw(&small()).manifest(Some((algorithm, grammar)));
            let ova = file(&folder, "web.ova", &package.ova());
            assert_eq!(disk_digest(&ova, 1), sha256(&small()[0]));
            let mut members = package.members();
            members[2].1[200_000] ^= 1;
            let ova = file(&folder, "web.ova", &tar_of(&members));
            let error = fails_to(&ova, &folder.file("new.raw"), &[], 3, "malformed");
            assert!(error.to_string().contains("web-disk1.raw"), "{error}");
            // The descriptor is held against it as well.
            let mut members = package.members();
            let text = String::from_utf8(members[0].1.clone()).expect("text");
            members[0].1 = text.replace("<Name>web<", "<Name>wob<").into_bytes();
            let ova = file(&folder, "web.ova", &tar_of(&members));
            let error = fails_to(&ova, &folder.file("new.raw"), &[], 3, "malformed");
            assert!(error.to_string().contains("web.ovf"), "{error}");
        }
    }
}

#[test]
fn a_manifest_that_says_too_little_is_warned_of() {
    let folder = Folder::new();
    let lines = |keep: fn(&str) -> bool| {
        let mut members = Package::raw(&small()).members();
        let text = String::from_utf8(members[1].1.clone()).expect("text");
        let kept: Vec<String> = text
            .lines()
            .filter(|l| keep(l))
            .map(|l| l.to_owned() + "\n")
            .collect();
        members[1].1 = kept.concat().into_bytes();
        members
    };
    let unknown = || {
        let mut members = Package::raw(&small()).members();
        let text = String::from_utf8(members[1].1.clone()).expect("text");
        members[1].1 = text.replace("SHA256", "WHIRLPOOL").into_bytes();
        members
    };
    for (what, members) in [
        (
            "the disk is not listed",
            lines(|line| !line.contains("disk1")),
        ),
        (
            "the descriptor is not listed",
            lines(|line| line.contains("disk1")),
        ),
        ("an unknown algorithm", unknown()),
    ] {
        let ova = file(&folder, "web.ova", &tar_of(&members));
        let finished = digest(&ova, &[]);
        assert_eq!(finished.code, Some(0), "{what}: {}", finished.stderr);
        assert!(
            finished.stderr.contains("warning"),
            "{what}: {}",
            finished.stderr
        );
    }
    let without = Package::raw(&small()).manifest(None);
    let ova = file(&folder, "web.ova", &without.ova());
    assert_eq!(disk_digest(&ova, 1), sha256(&small()[0]));
}

#[test]
fn odd_archives_are_read() {
    let members = Package::raw(&small()).members();
    let [ovf, mf, disk] = &members[..] else {
        panic!("three members");
    };
    let binary = |(name, bytes): &Member| Header::new(name, bytes.len() as u64).base256();
    let plain = |tar: Tar, (name, bytes): &Member| tar.file(name, bytes);
    let start = || plain(plain(Tar::new(), ovf), mf);
    let header = |change: fn(Header) -> Header| {
        let add = |tar: Tar, (name, bytes): &Member| {
            tar.member(&change(Header::new(name, bytes.len() as u64)), bytes)
        };
        members.iter().fold(Tar::new(), add).end()
    };
    let mut late = members.clone();
    late.rotate_left(1);
    let archives = [
        ("late descriptor", tar_of(&late)),
        ("binary size", start().member(&binary(disk), &disk.1).end()),
        ("pax", start().pax_file(&disk.0, 0, &disk.1).end()),
        (
            "pax for all",
            plain(start().pax(b'g', &[("comment", "x")]), disk).end(),
        ),
        ("long name of GNU", start().gnu_long(&disk.0, &disk.1).end()),
        ("GNU", header(Header::gnu)),
        ("no magic", header(Header::v7)),
        ("VMware's magic", header(Header::hybrid)),
        ("contiguous files", header(|h| h.kind(b'7'))),
        ("type of old tars", header(|h| h.kind(0))),
        ("no end", plain(start(), disk).cut()),
        (
            "much behind the end",
            [plain(start(), disk).end(), vec![0; 100 * 512]].concat(),
        ),
    ];
    for (what, bytes) in archives {
        let folder = Folder::new();
        let ova = file(&folder, "web.ova", &bytes);
        let finished = digest(&ova, &[]);
        assert_eq!(finished.code, Some(0), "{what}: {}", finished.stderr);
        assert_eq!(
            finished.json()["digest"],
            sha256(&small()[0]).as_str(),
            "{what}"
        );
    }
}

#[test]
fn long_names_are_read() {
    let name = format!("{}.raw", "n".repeat(150));
    let package = Package::new(Dialect::Vmware);
    let content = small().remove(0);
    let package = package.disk(&name, content.clone(), content.len() as u64, RAW_URI);
    let members = package.members();
    let add = |tar: Tar, (name, bytes): &Member| match name.len() {
        0..=100 => tar.file(name, bytes),
        _ => tar.gnu_long(name, bytes),
    };
    let by_gnu = members.iter().fold(Tar::new(), add).end();
    let add = |tar: Tar, (name, bytes): &Member| match name.len() {
        0..=100 => tar.file(name, bytes),
        _ => tar.pax_file(name, bytes.len() as u64, bytes),
    };
    let by_pax = members.iter().fold(Tar::new(), add).end();
    for bytes in [by_gnu, by_pax] {
        let folder = Folder::new();
        let ova = file(&folder, "web.ova", &bytes);
        assert_eq!(disk_digest(&ova, 1), sha256(&content));
    }
}

#[test]
fn packed_packages_are_read() {
    let package = Package::raw(&contents());
    let xva = Xva::of(&contents());
    let folder = Folder::new();
    for (name, bytes) in [
        ("web.ova.gz", gzip(&package.ova())),
        // The name says nothing of it.
        ("packed.ova", gzip(&package.ova())),
        ("web.xva.gz", gzip(&xva.bytes())),
        ("gzipped.xva", gzip(&xva.bytes())),
        ("zstandard.xva", zstd(&xva.bytes())),
    ] {
        holds(&file(&folder, name, &bytes), &contents());
    }
}

#[test]
fn packed_and_chunked_files_are_read() {
    for package in [
        Package::raw(&contents()).gzip_file("web-disk2.raw"),
        Package::raw(&contents()).chunk_file("web-disk1.raw", 1 << 20),
        Package::raw(&contents()).chunk_file("web-disk1.raw", 1_000_000),
        Package::raw(&contents())
            .gzip_file("web-disk1.raw")
            .chunk_file("web-disk1.raw", 70_000),
    ] {
        let folder = Folder::new();
        holds(&file(&folder, "web.ova", &package.ova()), &contents());
        package.write_folder(&folder.file("web"));
        holds(&folder.file("web/web.ovf"), &contents());
    }
}

#[test]
fn a_missing_chunk_is_an_error() {
    let folder = Folder::new();
    let package = Package::raw(&contents()).chunk_file("web-disk1.raw", 1 << 20);
    let mut members = package.manifest(None).members();
    for (what, index) in [("the last", 9), ("one in between", 4)] {
        let mut fewer = members.clone();
        fewer.remove(index);
        let ova = file(&folder, "web.ova", &tar_of(&fewer));
        let finished = digest(&ova, &["--disk", "1"]);
        assert!(
            matches!(finished.code, Some(3 | 5)),
            "{what}: {}",
            finished.stderr
        );
    }
    members.swap(4, 5);
    // Chunks are found by their names, wherever they stand.
    holds(&file(&folder, "web.ova", &tar_of(&members)), &contents());
}

#[test]
fn deltas_are_read_over_their_parents() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let parent = disks::content(1, 3);
    let mut child = parent.clone();
    child[100_000..300_000].fill(0x77);
    child[2_000_000..2_000_100].fill(0);
    let [base, delta] = disks::delta_by_qemu(&parent, &child, "web-base.vmdk");
    let size = parent.len() as u64;
    let mut package = Package::new(Dialect::Vmware)
        .disk("web-base.vmdk", base, size, STREAM_URI)
        .disk("web-delta.vmdk", delta, size, STREAM_URI);
    package.descriptor.disks[1].parent = Some("vmdisk1".to_owned());
    // The machine has the delta; its parent is no disk of its own.
    package.machine().disks.remove(0);
    let ova = file(&folder, "web.ova", &package.ova());
    assert_eq!(guest_digest(&ova, &[]).0, sha256(&child));
    package.write_folder(&folder.file("web"));
    assert_eq!(
        guest_digest(&folder.file("web/web.ovf"), &[]).0,
        sha256(&child)
    );
}

#[test]
fn the_file_says_what_it_is_whatever_the_descriptor_says() {
    if !have_qemu() {
        return;
    }
    let content = small().remove(0);
    for format in ["qcow2", "vpc", "vhdx", "vmdk", "vdi"] {
        let options = if format == "vpc" { "force_size=on" } else { "" };
        let image = disks::by_qemu(&content, format, options);
        for uri in [STREAM_URI, VHD_URI, QCOW2_URI, "", "urn:nobody-knows"] {
            let folder = Folder::new();
            let package = Package::new(Dialect::Vmware);
            let size = content.len() as u64;
            let package = package.disk("web-disk1.vmdk", image.clone(), size, uri);
            let ova = file(&folder, "web.ova", &package.ova());
            assert_eq!(
                guest_digest(&ova, &[]).0,
                sha256(&content),
                "{format} {uri}"
            );
        }
    }
}

#[test]
fn the_size_is_that_of_the_image_and_a_difference_is_said() {
    let content = small().remove(0);
    for capacity in [1, 2 << 20, 4 << 20] {
        let folder = Folder::new();
        let stream = disks::stream(&content);
        let package = Package::new(Dialect::Vmware);
        let package = package.disk("web-disk1.vmdk", stream, capacity, STREAM_URI);
        let ova = file(&folder, "web.ova", &package.ova());
        let finished = digest(&ova, &[]);
        assert_eq!(finished.code, Some(0), "{capacity}: {}", finished.stderr);
        assert_eq!(finished.json()["size"], 3 << 20, "{capacity}");
        assert!(
            finished.stderr.contains("3145728"),
            "{capacity}: {}",
            finished.stderr
        );
    }
}

#[test]
fn a_disk_without_a_file_is_zeros() {
    let mut package = Package::raw(&contents());
    package.descriptor.disks[0].file = None;
    let folder = Folder::new();
    let ova = file(&folder, "web.ova", &package.ova());
    let (found, size) = guest_digest(&ova, &["--disk", "1"]);
    assert_eq!((found, size), (sha256(&vec![0; 9 << 20]), 9 << 20));
    assert_eq!(disk_digest(&ova, 2), sha256(&contents()[1]));
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
