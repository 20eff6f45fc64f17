//! Packages that are damaged, or want to do harm: each is refused with a word about it, and nothing is left behind or touched.

mod common;

use std::fs;

use common::damage::fails_to;
use common::packages::descriptor::{QCOW2_URI, RAW_URI, STREAM_URI};
use common::packages::refusal::{SECRET, is, refused, refused_at};
use common::packages::{
    Dialect, Header, Member, Package, Tar, Xva, disks, gzip, sha256, tar_of, zstd,
};
use common::peers::have_qemu;
use common::{Folder, guest_digest, run, s};

fn content() -> Vec<u8> {
    disks::content(1, 3)
}

fn good() -> Package {
    Package::raw(&[content()])
}

fn without_manifest() -> Package {
    good().manifest(None)
}

/// A package whose disk has another name, in the archive and in the descriptor.
fn named(name: &str) -> Vec<u8> {
    let package = Package::new(Dialect::Vmware).manifest(None);
    package.disk(name, content(), 3 << 20, RAW_URI).ova()
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in [
        "../secret",
        "../../etc/passwd",
        "/etc/passwd",
        "sub/../../secret",
        "..",
        "C:\\disk.raw",
        "..\\secret",
        "http://localhost/disk.raw",
        "https://localhost/disk.raw",
        "file:///etc/passwd",
        "ftp://localhost/x",
        "nbd://localhost/x",
        "json:{}",
        "//host/share",
    ] {
        refused(name, "web.ova", &named(name));
        // As a folder, where such a file may well be.
        let folder = Folder::new();
        let own = folder.file("own");
        fs::create_dir(&own).expect("a folder");
        fs::write(folder.file("secret"), SECRET).expect("write");
        let package = Package::new(Dialect::Vmware).manifest(None);
        let text = package.disk(name, content(), 3 << 20, RAW_URI).ovf();
        fs::write(own.join("web.ovf"), text).expect("write");
        refused_at(name, &own.join("web.ovf"), &folder);
    }
}

#[test]
fn links_out_of_the_folder_of_an_ovf_are_refused() {
    for target in ["../secret", "/etc/hostname", "/dev/zero", "nowhere"] {
        let folder = Folder::new();
        let own = folder.file("own");
        without_manifest().write_folder(&own);
        fs::write(folder.file("secret"), SECRET).expect("write");
        let disk = own.join("web-disk1.raw");
        fs::remove_file(&disk).expect("remove");
        std::os::unix::fs::symlink(target, &disk).expect("link");
        refused_at(target, &own.join("web.ovf"), &folder);
    }
    let folder = Folder::new();
    let own = folder.file("own");
    without_manifest().write_folder(&own);
    fs::remove_file(own.join("web-disk1.raw")).expect("remove");
    common::tool("mkfifo", &[s(&own.join("web-disk1.raw"))]);
    refused_at("a pipe", &own.join("web.ovf"), &folder);
}

#[test]
fn members_that_are_no_files_are_refused() {
    let members = without_manifest().members();
    let head = || Tar::new().file(&members[0].0, &members[0].1);
    let disk = |header: Header| head().member(&header, &[]).end();
    let name = "web-disk1.raw";
    for (what, header) in [
        (
            "a symbolic link",
            Header::new(name, 0).link(b'2', "/etc/passwd"),
        ),
        ("a hard link", Header::new(name, 0).link(b'1', "web.ovf")),
        ("a character device", Header::new(name, 0).kind(b'3')),
        ("a block device", Header::new(name, 0).kind(b'4')),
        ("a folder", Header::new(name, 0).kind(b'5')),
        ("a pipe", Header::new(name, 0).kind(b'6')),
        ("a type that nobody knows", Header::new(name, 0).kind(b'Z')),
    ] {
        refused(what, "web.ova", &disk(header));
    }
    let sparse = head().gnu_sparse(name, 3 << 20, 0, &[1; 512]).end();
    refused("a sparse member", "web.ova", &sparse);
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", name),
        ("GNU.sparse.realsize", "3145728"),
    ];
    let by_pax = head().pax(b'x', &records).file(name, &[0; 1024]).end();
    refused("a sparse member by pax", "web.ova", &by_pax);
    // Beside what is used, they harm nobody; but they are no package's.
    let beside = head()
        .file(name, &members[1].1)
        .member(&Header::new("x", 0).link(b'2', "/etc/passwd"), &[]);
    refused("a link beside", "web.ova", &beside.end());
}

#[test]
fn two_members_of_one_name_are_refused() {
    let mut members = without_manifest().members();
    members.push(members[1].clone());
    is(
        "the disk",
        "web.ova",
        &tar_of(&members),
        &["malformed", "refused"],
    );
    let mut members = without_manifest().members();
    members.push(members[0].clone());
    is(
        "the descriptor",
        "web.ova",
        &tar_of(&members),
        &["malformed", "refused"],
    );
    let mut members = without_manifest().members();
    members.push(("other.ovf".to_owned(), members[0].1.clone()));
    is(
        "two descriptors",
        "web.ova",
        &tar_of(&members),
        &["malformed", "refused"],
    );
}

#[test]
fn archives_that_lie_are_refused() {
    let members = without_manifest().members();
    let head = || Tar::new().file(&members[0].0, &members[0].1);
    let (name, data) = &members[1];
    let len = data.len() as u64;
    let sized = |size: u64| head().member(&Header::new(name, size), data).cut();
    let field = |field: [u8; 12]| {
        let mut header = Header::new(name, len);
        header.size_field = Some(field);
        head().member(&header, data).end()
    };
    let mut wrong_sum = Header::new(name, len);
    wrong_sum.sum_error = 1;
    let cut = |at: usize| {
        let mut bytes = good().ova();
        bytes.truncate(at);
        bytes
    };
    for (what, bytes) in [
        ("longer than the file", sized(len + (1 << 20))),
        (
            "nearly 8 EiB",
            head()
                .member(&Header::new(name, u64::MAX >> 1).base256(), data)
                .end(),
        ),
        (
            "more than 64 bits",
            head()
                .member(&Header::new(name, u64::MAX).base256(), data)
                .end(),
        ),
        ("negative", field([0xFF; 12])),
        ("no digits", field(*b"abcdefghijk\0")),
        ("a wrong sum", head().member(&wrong_sum, data).end()),
        (
            "pax says more",
            head()
                .pax(b'x', &[("size", "99999999999")])
                .file(name, data)
                .end(),
        ),
        (
            "pax says nonsense",
            head().pax(b'x', &[("size", "-1")]).file(name, data).end(),
        ),
        (
            "a pax header without an end",
            head()
                .member(&Header::new("x", 7).kind(b'x'), b"99 a=b\n")
                .end(),
        ),
        ("cut in the header", cut(300)),
        ("cut in the descriptor", cut(1000)),
        ("cut in the disk", cut(1 << 20)),
        ("nothing", Vec::new()),
        ("only zeros", vec![0; 10240]),
        ("no descriptor", tar_of(&members[1..])),
        ("no disk", tar_of(&members[..1])),
    ] {
        refused(what, "web.ova", &bytes);
    }
}

#[test]
fn a_size_that_the_descriptor_says_wrongly_is_warned_of() {
    let sized = |size: &str| {
        let said = format!("ovf:size=\"{size}\"");
        without_manifest()
            .replace("ovf:size=\"3145728\"", &said)
            .ova()
    };
    // Products write what they like there; what counts is the length of the member.
    for size in ["1", "3145729"] {
        let folder = Folder::new();
        let ova = folder.file("web.ova");
        fs::write(&ova, sized(size)).expect("write");
        let finished = run(&["digest", s(&ova), "-a", "sha256", "--json"]);
        assert_eq!(finished.code, Some(0), "{size}: {}", finished.stderr);
        assert!(
            finished.stderr.contains("warning"),
            "{size}: {}",
            finished.stderr
        );
        assert_eq!(finished.json()["digest"], sha256(&content()).as_str());
    }
    for size in ["99999999999999999999", "-1", "1e3"] {
        refused(size, "web.ova", &sized(size));
    }
}

#[test]
fn digests_that_are_wrong_fail_before_the_target_appears() {
    for index in [0, 2] {
        let mut members = good().members();
        let at = members[index].1.len() - 3;
        members[index].1[at] ^= 0x20;
        is(
            "a flipped bit",
            "web.ova",
            &tar_of(&members),
            &["malformed"],
        );
    }
    let mut members = good().members();
    members[1].1.extend_from_slice(b"SHA256(gone.raw)= 00\n");
    refused("a digest that is too short", "web.ova", &tar_of(&members));
}

#[test]
fn disks_that_name_other_files_are_refused() {
    let flat = |name: &str| {
        let extent = format!("RW 6144 FLAT \"{name}\" 0");
        common::vmdk::descriptor("monolithicFlat", 1, None, &[&extent])
    };
    for name in ["/etc/passwd", "../secret", "/dev/zero", "secret-flat.vmdk"] {
        let package = Package::new(Dialect::Vmware).manifest(None);
        let package = package.disk("web-disk1.vmdk", flat(name), 3 << 20, STREAM_URI);
        refused(name, "web.ova", &package.ova());
        if !have_qemu() {
            continue;
        }
        let [_, delta] = disks::delta_by_qemu(&content(), &content(), "base.vmdk");
        let delta = disks::with_parent_hint(&delta, name);
        let package = Package::new(Dialect::Vmware).manifest(None);
        let package = package.disk("web-disk1.vmdk", delta, 3 << 20, STREAM_URI);
        refused(name, "web.ova", &package.ova());
    }
    for name in [
        "/etc/passwd",
        "../secret",
        "/dev/zero",
        "nbd://localhost/x",
        "json:{}",
    ] {
        let builder = common::damage::images::qcow2::Builder::over("raw", name);
        let package = Package::new(Dialect::Vmware).manifest(None);
        let package = package.disk("web-disk1.qcow2", builder.build(), 3 << 20, QCOW2_URI);
        refused(name, "web.ova", &package.ova());
    }
}

#[test]
fn bombs_are_refused() {
    // A thousand to one, and behind it the archive would begin.
    let zeros = vec![0; 64 << 20];
    refused("zeros in gzip", "web.ova", &gzip(&zeros));
    refused("zeros in gzip", "web.xva", &gzip(&zeros));
    refused("zeros in zstd", "web.xva", &zstd(&zeros));
    // A stream that says 16 TiB, and has nothing of it.
    let mut stream = disks::stream(&content());
    stream[12..20].copy_from_slice(&(1u64 << 35).to_le_bytes());
    let package = Package::new(Dialect::Vmware).manifest(None);
    let package = package.disk("web-disk1.vmdk", stream, 16 << 40, STREAM_URI);
    refused("16 TiB", "web.ova", &package.ova());
    // A grain that inflates to more than a grain.
    let mut stream = disks::stream(&content());
    let grain = gzip_zlib(&vec![0x55; 1 << 20]);
    let at = 64 << 10;
    stream[at + 8..at + 12].copy_from_slice(&(grain.len() as u32).to_le_bytes());
    stream[at + 12..at + 12 + grain.len()].copy_from_slice(&grain);
    let package = Package::new(Dialect::Vmware).manifest(None);
    let package = package.disk("web-disk1.vmdk", stream, 3 << 20, STREAM_URI);
    refused("a grain", "web.ova", &package.ova());
}

/// What a packed raw disk unpacks to is what it is, and that is said; but it is not much more than the disk.
#[test]
fn a_packed_file_that_is_longer_than_its_disk_is_warned_of_or_refused() {
    let packed = |len: usize| {
        let mut package = without_manifest().gzip_file("web-disk1.raw");
        let bytes = gzip(&vec![0; len]);
        package.descriptor.files[0].size = Some(bytes.len() as u64);
        package.files[0].1 = bytes;
        package
    };
    refused("a bomb", "web.ova", &packed(64 << 20).ova());
    let folder = Folder::new();
    let (ova, target) = (folder.file("web.ova"), folder.file("new.raw"));
    packed(6 << 20).write_ova(&ova);
    fails_to(&ova, &target, &["--max-size", "5M"], 3, "limit");
    let finished = run(&["digest", s(&ova)]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for size in ["3145728", "6291456"] {
        assert!(finished.stderr.contains(size), "{}", finished.stderr);
    }
}

fn gzip_zlib(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut packed = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let len = compressor.zlib_compress(bytes, &mut packed).expect("zlib");
    packed.truncate(len);
    packed
}

#[test]
fn packed_packages_that_are_damaged_are_refused() {
    for bytes in [good().ova(), Xva::of(&[content()]).bytes()] {
        for packed in [gzip(&bytes), zstd(&bytes)] {
            let mut cut = packed.clone();
            cut.truncate(packed.len() / 2);
            refused("cut", "web.xva", &cut);
            let mut flipped = packed.clone();
            let middle = packed.len() / 2;
            flipped[middle..middle + 64].fill(0xA5);
            refused("damaged", "web.xva", &flipped);
        }
    }
}

/// Beside a package in a folder stand other files; none of them is touched.
#[test]
fn members_that_nobody_names_are_warned_of_and_not_written() {
    let folder = Folder::new();
    let mut members: Vec<Member> = without_manifest().members();
    members.push(("stranger.txt".to_owned(), b"hello".to_vec()));
    members.push(("../outside.txt".to_owned(), b"hello".to_vec()));
    let ova = folder.file("web.ova");
    fs::write(&ova, tar_of(&members[..3])).expect("write");
    assert_eq!(guest_digest(&ova, &[]).0, sha256(&content()));
    let target = folder.file("new.raw");
    fs::write(&ova, tar_of(&members)).expect("write");
    let finished = run(&["convert", s(&ova), s(&target)]);
    assert!(
        matches!(finished.code, Some(0 | 3 | 5)),
        "{}",
        finished.stderr
    );
    assert!(
        !folder
            .path()
            .parent()
            .expect("a folder")
            .join("outside.txt")
            .exists()
    );
    assert!(!folder.file("stranger.txt").exists());
}

/// What is chosen by the user is a matter of usage, whatever the package holds.
#[test]
fn a_choice_cannot_lead_out() {
    let folder = Folder::new();
    let ova = folder.file("web.ova");
    fs::write(&ova, good().ova()).expect("write");
    for choice in [
        ["--disk", "../secret"],
        ["--disk", "web.ovf"],
        ["--vm", "/etc"],
        ["--disk", ""],
    ] {
        fails_to(&ova, &folder.file("new.raw"), &choice, 2, "usage");
    }
}

/// Every bit of the head of a package may be wrong: it is read, or refused, and nothing else happens.
#[test]
fn flipped_bytes_never_panic() {
    for (name, good) in [
        ("web.ova", good().ova()),
        ("web.xva", Xva::of(&[content()]).bytes()),
    ] {
        let folder = Folder::new();
        let path = folder.file(name);
        let ends = [0..2048, 2048..6000];
        for at in ends.into_iter().flat_map(|range| range.step_by(97)) {
            for byte in [0, 0xFF, b'9'] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                fs::write(&path, &bytes).expect("write");
                let finished = run(&["digest", s(&path)]);
                let known = matches!(finished.code, Some(0 | 2 | 3 | 5));
                assert!(
                    known,
                    "{name} {at} {byte}: {:?} {}",
                    finished.code, finished.stderr
                );
            }
        }
    }
}
