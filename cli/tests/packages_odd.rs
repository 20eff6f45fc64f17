//! Packages as others write them when they write them oddly: packed, in parts, with manifests and archives of every kind.

mod common;

use std::fs;
use std::path::PathBuf;

use common::damage::fails_to;
use common::machines::{digest, disk_digest, holds, told};
use common::packages::descriptor::{QCOW2_URI, RAW_URI, STREAM_URI, VHD_URI};
use common::packages::{
    Algorithm, Dialect, Grammar, Header, Member, Members, Package, Tar, Xva, contents, disks, gzip,
    sha256, tar_of, zstd,
};
use common::peers::{have_qemu, qemu_raw};
use common::skip::named_by;
use common::tools::{unpack, virt_v2v};
use common::{Folder, guest_digest, have, run, s, tool};

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
    let dotted: Members = members
        .iter()
        .map(|(n, b)| (format!("./{n}"), b.clone()))
        .collect();
    let archives = [
        ("./", tar_of(&dotted)),
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

/// As `tar -cf web.ova web/` makes them: the files are where their descriptor is.
#[test]
fn a_package_in_a_folder_of_its_archive_is_read_with_a_warning() {
    let folder = Folder::new();
    let members = Package::raw(&small()).members();
    let below = |(name, bytes): &Member| (format!("web/{name}"), bytes.clone());
    let members: Members = members.iter().map(below).collect();
    let ova = file(&folder, "web.ova", &tar_of(&members));
    let finished = digest(&ova, &[]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.json()["digest"], sha256(&small()[0]).as_str());
    assert!(
        finished.stderr.contains("in the folder web"),
        "{}",
        finished.stderr
    );
    // A file that would come twice then is none that anybody can mean.
    let twice = [members, vec![("web-disk1.raw".to_owned(), vec![0; 512])]].concat();
    let ova = file(&folder, "twice.ova", &tar_of(&twice));
    fails_to(&ova, &folder.file("new.raw"), &[], 3, "malformed");
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
    // Without a size, the capacity of the disk tells.
    let mut package = Package::raw(&contents()).chunk_file("web-disk1.raw", 1 << 20);
    package.descriptor.files[0].size = None;
    let mut fewer = package.manifest(None).members();
    fewer.remove(9);
    let finished = digest(&file(&folder, "web.ova", &tar_of(&fewer)), &["--disk", "1"]);
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    members.swap(4, 5);
    // Chunks are found by their names, wherever they stand.
    holds(&file(&folder, "web.ova", &tar_of(&members)), &contents());
}

#[test]
fn manifests_of_others_are_not_passed_over_in_silence() {
    let folder = Folder::new();
    let mut members = Package::raw(&contents()).manifest(None).members();
    for name in ["a.mf", "b.mf"] {
        members.push((name.to_owned(), b"SHA256(web.ovf)= 00\n".to_vec()));
    }
    let finished = digest(
        &file(&folder, "web.ova", &tar_of(&members)),
        &["--disk", "1"],
    );
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("a.mf, b.mf"),
        "{}",
        finished.stderr
    );
}

#[test]
fn extents_of_an_image_are_found_whichever_way_they_are_called() {
    let folder = Folder::new();
    let content = contents().remove(0);
    for (name, sectors) in [
        ("./flat.vmdk", content.len() / 512),
        ("flat.vmdk", content.len() / 512),
    ] {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\n\
             createType=\"monolithicFlat\"\nRW {sectors} FLAT \"{name}\" 0\n"
        );
        let mut package = Package::raw(&[]).disk(
            "disk.vmdk",
            text.into_bytes(),
            content.len() as u64,
            "http://www.vmware.com/interfaces/specifications/vmdk.html",
        );
        package
            .files
            .push(("flat.vmdk".to_owned(), content.clone()));
        holds(
            &file(&folder, "web.ova", &package.ova()),
            std::slice::from_ref(&content),
        );
    }
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

/// Packages of the corpus whose disk can be read, or who would have to read it.
#[test]
fn ovas_of_others_are_read_as_others_read_them() {
    let Some(corpus) = named_by("DISKFERRY_CORPUS") else {
        return;
    };
    if !(have_qemu() && have("virt-v2v")) {
        return;
    }
    let virtualbox = "pop-os+virtualbox/src/VBox/ValidationKit/tests/api/tdAppliance1-";
    for name in ["t2", "t2-ovftool-4.1.0", "t3", "t3-ovftool-4.1.0"] {
        let ova = corpus.join(format!("{virtualbox}{name}.ova"));
        let machine = &told(&ova).0[0];
        let seen = virt_v2v(&ova).expect("virt-v2v");
        assert_eq!(
            (machine.cpus, machine.memory),
            (Some(seen.cpus), Some(seen.memory)),
            "{name}"
        );
        assert_eq!(
            (machine.disks, machine.nics.len()),
            (seen.disks.len(), seen.nics.len()),
            "{name}"
        );
        let unpacked = unpack(&ova);
        let mut disk = unpacked.file(&format!("tdAppliance1-{name}-disk1.vmdk"));
        let packed = unpacked.file(&format!("tdAppliance1-{name}-disk1.vmdk.gz"));
        if packed.exists() {
            tool("gunzip", &[s(&packed)]);
            disk = packed.with_extension("");
        }
        let raw = unpacked.file("disk.raw");
        qemu_raw("vmdk", &disk, &raw);
        let compared = run(&["compare", s(&ova), s(&raw)]);
        assert_eq!(compared.code, Some(0), "{name}: {}", compared.text());
    }
    for name in [
        "openstack+glance/glance/tests/var/testserver-no-disk.ova",
        "openstack+glance/glance/tests/var/testserver-bad-ovf.ova",
        "openstack+glance/glance/tests/var/testserver-no-ovf.ova",
        "openstack+glance/glance/tests/var/testserver-not-tar.ova",
        // Its disk is a text.
        "openstack+glance/glance/tests/var/testserver.ova",
        // Its disk is the first MiB of one.
        "vmware+govmomi/vapi/library/testdata/ttylinux-pc_i486-16.1.ova",
        // An archive in an archive.
        "ganeti+ganeti/test/data/ovfdata/no_ovf.ova",
    ] {
        let folder = Folder::new();
        let target = folder.file("new.raw");
        let finished = run(&["convert", s(&corpus.join(name)), s(&target)]);
        assert_eq!(finished.code, Some(3), "{name}: {}", finished.stderr);
        assert!(folder.names().is_empty(), "{name}");
    }
}
