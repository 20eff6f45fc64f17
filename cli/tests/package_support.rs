//! The builders, readers and checkers of packages that the other tests stand on, held against each other and against other
//! programs. Nothing of diskferry is run here.

mod common;

use common::packages::descriptor::STREAM_URI;
use common::packages::{
    Algorithm, Bus, Dialect, Grammar, Member, Members, Package, Sum, Tar, Xva, contents, disks,
    gzip, sha256, tar_of, xva,
};
use common::peers::have_qemu;
use common::tools::{Ganeti, cot, gnu_tar_list, python_tar_list, schema, schema_errors, virt_v2v};
use common::{Folder, have, s, sha256sum, tools, vsphere_checker, xapi_reader};

/// Dialects that virt-v2v, cot and Ganeti understand.
const READABLE: [Dialect; 3] = [Dialect::Vmware, Dialect::VirtualBox, Dialect::XenOrchestra];

#[test]
fn streams_by_hand_hold_their_content() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let (stream, raw) = (folder.file("disk.vmdk"), folder.file("disk.raw"));
    for content in contents() {
        std::fs::write(&stream, disks::stream(&content)).expect("write");
        common::peers::qemu_raw("vmdk", &stream, &raw);
        assert_eq!(sha256sum(&raw), sha256(&content));
    }
}

#[test]
fn virt_v2v_reads_packages_by_hand() {
    if !have("virt-v2v") {
        return;
    }
    let folder = Folder::new();
    let ova = folder.file("web.ova");
    for dialect in READABLE {
        let package = Package::of(dialect, &contents()).bus(Bus::Sata);
        package.write_ova(&ova);
        let told = virt_v2v(&ova).expect("virt-v2v");
        let firmware = if dialect.says_firmware() {
            "efi"
        } else {
            "bios"
        };
        assert_eq!(told.name, "web", "{dialect:?}");
        assert_eq!((told.cpus, told.memory), (2, 512 << 20), "{dialect:?}");
        assert_eq!(told.disks, ["sata", "sata"], "{dialect:?}");
        assert_eq!(told.nics.len(), 1, "{dialect:?}");
        assert_eq!(told.complaints, Vec::<String>::new(), "{dialect:?}");
        assert_eq!(told.firmware, firmware, "{dialect:?}");
    }
    let broken = Package::of(Dialect::Vmware, &contents());
    let members = broken.members();
    let digest = Algorithm::Sha256.hex(&members[2].1);
    let mut bytes = broken.ova();
    let at = bytes
        .windows(64)
        .position(|w| w == digest.as_bytes())
        .expect("a digest");
    bytes[at] ^= 1;
    std::fs::write(&ova, bytes).expect("write");
    virt_v2v(&ova).expect_err("a wrong digest");
}

#[test]
fn cot_reads_packages_by_hand() {
    if !have("cot") {
        return;
    }
    let folder = Folder::new();
    let ova = folder.file("web.ova");
    for dialect in READABLE {
        // The one algorithm that it verifies.
        let package = Package::of(dialect, &contents());
        let package = package.manifest(Some((Algorithm::Sha1, Grammar::Canonical)));
        package.write_ova(&ova);
        let told = cot(&ova);
        assert_eq!((told.cpus, told.memory), (2, 512 << 20), "{dialect:?}");
        assert_eq!((told.disks.len(), told.nics.len()), (2, 1), "{dialect:?}");
        assert_eq!(told.complaints, Vec::<String>::new(), "{dialect:?}");
    }
}

#[test]
fn ganeti_reads_packages_by_hand() {
    if !(have("ovfconverter") && have_qemu()) {
        return;
    }
    let folder = Folder::new();
    let ova = folder.file("web.ova");
    for dialect in READABLE.into_iter().chain([Dialect::Ganeti]) {
        Package::of(dialect, &contents()).write_ova(&ova);
        let imported = Ganeti::import(&ova).expect("Ganeti");
        assert_eq!(imported.get("vcpus"), "2", "{dialect:?}");
        assert_eq!(imported.get("memory"), "512", "{dialect:?}");
        assert_eq!(imported.get("nic_count"), "1", "{dialect:?}");
        let found: Vec<String> = imported.disks.iter().map(|d| sha256sum(d)).collect();
        let expected: Vec<String> = contents().iter().map(|c| sha256(c)).collect();
        assert_eq!(found, expected, "{dialect:?}");
    }
}

#[test]
fn descriptors_by_hand_are_valid_for_the_schema() {
    let Some(schema) = schema() else {
        return;
    };
    let folder = Folder::new();
    let ovf = folder.file("web.ovf");
    // VirtualBox's own element has no place in it.
    for dialect in [Dialect::Vmware, Dialect::XenOrchestra, Dialect::Microsoft] {
        let text = Package::of(dialect, &contents()).ovf();
        std::fs::write(&ovf, &text).expect("write");
        let found = schema_errors(&schema, &ovf);
        assert_eq!(found, Vec::<String>::new(), "{dialect:?}: {text}");
    }
    let text = Package::of(Dialect::Vmware, &contents()).ovf();
    std::fs::write(&ovf, text.replace("<Info>DiskSection</Info>", "")).expect("write");
    assert!(!schema_errors(&schema, &ovf).is_empty());
}

#[test]
fn every_dialect_is_wellformed() {
    if !have_qemu() {
        return;
    }
    for dialect in Dialect::ALL {
        let text = Package::of(dialect, &contents()).ovf();
        if let Err(error) = roxmltree::Document::parse(&text) {
            panic!("{dialect:?}: {error}: {text}");
        }
    }
}

#[test]
fn archives_by_hand_are_read_by_tar_and_python() {
    let folder = Folder::new();
    let path = folder.file("odd.tar");
    let long = "n".repeat(150);
    let tar = Tar::new()
        .file("plain", b"1")
        .gnu_long(&long, b"22")
        .pax_file("by-pax", 0, b"333")
        .member(
            &common::packages::Header::new("binary", 4).base256(),
            b"4444",
        )
        .gnu_sparse("sparse", 1 << 20, 1 << 19, &[5; 1024]);
    std::fs::write(&path, tar.end()).expect("write");
    let listed = [
        ("plain", 1),
        (long.as_str(), 2),
        ("by-pax", 3),
        ("binary", 4),
        ("sparse", 1 << 20),
    ];
    let listed: Vec<(String, u64)> = listed.map(|(n, size)| (n.to_owned(), size)).to_vec();
    assert_eq!(gnu_tar_list(&path), listed);
    let ova = folder.file("web.ova");
    let package = Package::raw(&contents());
    package.write_ova(&ova);
    let lengths = package.members().into_iter();
    let lengths: Vec<(String, u64)> = lengths.map(|(n, b)| (n, b.len() as u64)).collect();
    assert_eq!(gnu_tar_list(&ova), lengths);
    assert_eq!(python_tar_list(&ova), lengths);
    std::fs::write(folder.file("web.ova.gz"), gzip(&package.ova())).expect("write");
    common::tool("gzip", &["-t", s(&folder.file("web.ova.gz"))]);
}

#[test]
fn xapis_reader_takes_exports_built_by_hand() {
    let folder = Folder::new();
    let path = folder.file("web.xva");
    for sum in [Sum::Sha1, Sum::Xxhash] {
        let mut xva = Xva::of(&contents()).sum(sum);
        xva.disk(0).keep_alive = vec![2, 5];
        std::fs::write(&path, xva.bytes()).expect("write");
        let imported = xapi_reader::import(&path);
        let machine = &imported.machines[0];
        assert_eq!((machine.cpus, machine.memory), (2, 512 << 20));
        assert_eq!(machine.firmware.as_deref(), Some("uefi"));
        assert_eq!(machine.macs, ["00:50:56:aa:bb:cc"]);
        for (disk, content) in imported.disks_of(0).iter().zip(&contents()) {
            assert_eq!(disk.sha256, sha256(content), "{}", disk.id);
        }
        assert_eq!(imported.sums, Some(sum.suffix()));
    }
}

#[test]
fn xva_img_reads_exports_built_by_hand() {
    if !have("xva-img") {
        return;
    }
    let folder = Folder::new();
    let path = folder.file("web.xva");
    let mut xva = Xva::of(&contents());
    xva.disk(0).keep_alive = vec![2];
    std::fs::write(&path, xva.bytes()).expect("write");
    for (disk, content) in xva.disks().zip(contents()) {
        let raw = tools::xva_img_export(&path, &disk.id, &folder).expect("xva-img");
        assert_eq!(sha256sum(&raw), sha256(&content), "{}", disk.id);
    }
}

type Damage = fn(&mut Members, usize);

/// Whether the reader refuses the archive of these members.
fn refused(members: &[Member]) -> bool {
    let folder = Folder::new();
    let path = folder.file("web.xva");
    std::fs::write(&path, common::packages::tar_of(members)).expect("write");
    std::panic::catch_unwind(|| xapi_reader::import(&path)).is_err()
}

#[test]
fn xapis_reader_refuses_what_xapi_refuses() {
    let good = Xva::of(&contents()).members();
    assert!(!refused(&good));
    let last = good.len() - 1;
    let wrong: [(&str, Damage); 8] = [
        ("ova.xml is not first", |m, _| m.rotate_left(1)),
        ("./ova.xml", |m, _| m[0].0.insert_str(0, "./")),
        ("last block missing", |m, last| m.truncate(last - 1)),
        ("sum missing", |m, last| m.truncate(last)),
        ("wrong sum", |m, last| m[last].1[0] ^= 1),
        ("sum in upper case", |m, last| {
            m[last].1.make_ascii_uppercase()
        }),
        ("blocks out of order", |m, _| {
            m.swap(3, 5);
            m.swap(4, 6);
        }),
        ("a stranger at the end", |m, _| {
            m.push(("stranger".to_owned(), vec![1]))
        }),
    ];
    for (what, change) in wrong {
        let mut members = good.clone();
        change(&mut members, last);
        assert!(refused(&members), "{what}");
    }
    let mut behind = Xva::of(&contents());
    behind.disk(0).virtual_size -= xva::MIB as u64;
    assert!(refused(&behind.members()), "a block behind the end");
    let mut without = Xva::of(&contents());
    without.with_storage = false;
    assert!(refused(&without.members()), "no storage");
    let newer = Xva {
        version: (1, 21),
        ..Xva::of(&contents())
    };
    assert!(refused(&newer.members()), "a newer xapi");
    let field = Xva::of(&contents()).replace("<name>affinity</name>", "<name>afinity</name>");
    assert!(refused(&field.members()), "a field is missing");
}

/// Whether the checker finds fault with a package.
fn faulty(package: &[u8]) -> Option<String> {
    let folder = Folder::new();
    let path = folder.file("web.ova");
    std::fs::write(&path, package).expect("write");
    let found = std::panic::catch_unwind(|| vsphere_checker::check(&path)).err()?;
    let text = found.downcast_ref::<String>().cloned();
    Some(text.unwrap_or_else(|| "a fault".to_owned()))
}

/// What the text of the descriptor is changed from and to.
const FAULTS: &[(&str, &str)] = &[
    ("<Info>NetworkSection</Info>", ""),
    ("<Description>A network</Description>", ""),
    ("vmx-10", "virtualbox-2.2"),
    ("vmx-10", "vmx-07 vmx-08"),
    (
        "<rasd:ResourceSubType>lsilogic<",
        "<rasd:ResourceSubType>PIIX4<",
    ),
    ("<rasd:ResourceType>6<", "<rasd:ResourceType>5<"),
    ("<rasd:InstanceID>4<", "<rasd:InstanceID>3<"),
    ("<rasd:AddressOnParent>1<", "<rasd:AddressOnParent>7<"),
    ("<rasd:AddressOnParent>1<", "<rasd:AddressOnParent>0<"),
    ("<rasd:Parent>3<", "<rasd:Parent>1<"),
    ("ovf:/disk/vmdisk1", "ovf:/disk/vmdisk2"),
    ("ovf:/disk/vmdisk1", "/disk/vmdisk1"),
    ("byte * 2^20</rasd:", "MegaBytes</rasd:"),
    (
        "capacityAllocationUnits=\"byte * 2^20\"",
        "capacityAllocationUnits=\"MegaBytes\"",
    ),
    ("ovf:capacity=\"9\"", "ovf:capacity=\"10\""),
    ("ovf:fileRef=\"file1\"", "ovf:fileRef=\"file2\""),
    ("ovf:fileRef=\"file1\"", "ovf:fileRef=\"file3\""),
    ("#streamOptimized", "#"),
    (
        "<rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>",
        "",
    ),
    ("<rasd:Connection>VM Network<", "<rasd:Connection>Other<"),
    ("ovf:required=\"false\" vmw:key", "vmw:key"),
    ("Hard Disk 1", "Disk-1"),
    (" ovf:size=\"", " ovf:size=\"1"),
    ("<Name>web</Name>", ""),
    ("<vssd:InstanceID>0</vssd:InstanceID>", ""),
    ("ovf:href=\"web-disk1", "ovf:href=\"./web-disk1"),
];

#[test]
fn the_checker_takes_what_vsphere_takes_and_nothing_else() {
    let good = Package::of(Dialect::Vmware, &contents());
    assert_eq!(faulty(&good.ova()), None);
    for algorithm in Algorithm::ALL {
        let package = good.clone().manifest(Some((algorithm, Grammar::Canonical)));
        assert_eq!(faulty(&package.ova()), None);
    }
    for bus in [Bus::Ide, Bus::Sata] {
        assert_eq!(
            faulty(&good.clone().bus(bus).ova()).is_some(),
            bus == Bus::Ide
        );
    }
    for (from, to) in FAULTS {
        let package = good.clone().replace(from, to);
        assert!(faulty(&package.ova()).is_some(), "{from:?} → {to:?}");
    }
    for grammar in Grammar::ALL {
        let package = good.clone().manifest(Some((Algorithm::Sha256, grammar)));
        let is_faulty = faulty(&package.ova()).is_some();
        assert_eq!(is_faulty, grammar != Grammar::Canonical, "{grammar:?}");
    }
}

#[test]
fn the_checker_looks_at_every_sector_of_a_disk() {
    let content = disks::content(1, 9);
    let stream = disks::stream(&content);
    let package = |bytes: Vec<u8>| {
        let package = Package::new(Dialect::Vmware);
        package.disk("web-disk1.vmdk", bytes, content.len() as u64, STREAM_URI)
    };
    assert_eq!(faulty(&package(stream.clone()).ova()), None);
    let changed = |at: usize, byte: u8| {
        let mut stream = stream.clone();
        stream[at] = byte;
        stream
    };
    let len = stream.len();
    let first = 64 << 10;
    for (what, bytes) in [
        ("version 1", changed(4, 1)),
        ("a capacity that is not the disk's", changed(12, 1)),
        ("unclean", changed(72, 1)),
        ("behind the descriptor", changed(20 * 512, 1)),
        ("not ended", stream[..len - 512].to_vec()),
        ("ended twice", [&stream[..], &[0; 512]].concat()),
        ("a grain at another place", changed(first, 0x80)),
        (
            "a grain that does not inflate",
            changed(first + 500, !stream[first + 500]),
        ),
        (
            "a footer that is not the header",
            changed(len - 1024 + 12, 1),
        ),
        ("nothing at all", Vec::new()),
    ] {
        assert!(faulty(&package(bytes).ova()).is_some(), "{what}");
    }
    if have_qemu() {
        let by_qemu = disks::by_qemu(&content, "vmdk", "subformat=streamOptimized");
        assert!(
            faulty(&package(by_qemu).ova()).is_some(),
            "qemu-img ends no stream"
        );
    }
}

#[test]
fn the_checker_looks_at_the_archive() {
    let good = Package::of(Dialect::Vmware, &contents());
    let members = good.members();
    let wrong: [(&str, Damage); 6] = [
        ("late descriptor", |m, _| m.rotate_left(1)),
        ("manifest at the end", |m, _| m[1..].rotate_left(1)),
        ("disks out of order", |m, last| m.swap(last, last - 1)),
        ("a stranger", |m, _| {
            m.push(("stranger.txt".to_owned(), vec![1]))
        }),
        ("a missing file", |m, last| m.truncate(last)),
        ("./ names", |m, _| {
            m.iter_mut().for_each(|(name, _)| name.insert_str(0, "./"))
        }),
    ];
    for (what, change) in wrong {
        let mut members = members.clone();
        change(&mut members, 3);
        assert!(faulty(&tar_of(&members)).is_some(), "{what}");
    }
    let folder = Folder::new();
    good.write_folder(&folder.file("web"));
    let checked = vsphere_checker::check(&folder.file("web"));
    assert_eq!((checked.cpus, checked.memory), (2, 512 << 20));
    assert_eq!(checked.disks.len(), 2);
}

/// What Xen Orchestra writes is taken in by hosts, so that xapi's reader here has to take it.
#[test]
fn xapis_reader_takes_what_xen_orchestra_writes() {
    let Some(corpus) = common::skip::named_by("DISKFERRY_CORPUS") else {
        return;
    };
    let folder = corpus.join("generated-thirdparty/xen-orchestra");
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
        let imported = xapi_reader::import_leniently(&folder.join(name));
        assert_eq!(imported.machines[0].name, "corpus-vm", "{name}");
        assert_eq!(imported.disks_of(0)[0].sha256, digest, "{name}");
    }
}
