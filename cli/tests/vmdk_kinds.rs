//! VMDKs that VMware's products make and nothing else here does: descriptors and extents by hand, from the description of
//! the format.

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use common::damage::fails;
use common::damage::images::patch;
use common::damage::images::vmdk::delta::{Cowd, SeSparse};
use common::damage::images::vmdk::stream::{Layout, Stream};
use common::damage::images::vmdk::{Disk, Grain, Sparse, flat, split};
use common::peers::{diskferry_content, have_qemu, qemu_content};
use common::vmdk::{SECTOR, descriptor};
use common::{Folder, folder_of, noise, run_ok, s};

/// What the disk of `folder` in `name` holds.
fn content(folder: &Folder, name: &str) -> Vec<u8> {
    diskferry_content(&folder.file(name), folder)
}

/// What the guest sees of `disk` over `parent`.
fn over(disk: &Disk, parent: &[u8]) -> Vec<u8> {
    let len = disk.capacity as usize * SECTOR;
    let mut seen = parent.to_vec();
    seen.resize(len, 0);
    for (index, what) in &disk.grains {
        let at = *index as usize * disk.grain_bytes();
        let end = (at + disk.grain_bytes()).min(len);
        match what {
            Grain::Data => patch(&mut seen, at, &disk.data(*index)[..end - at]),
            Grain::Zero | Grain::Unmapped => seen[at..end].fill(0),
        }
    }
    seen
}

#[test]
fn a_descriptor_may_be_written_in_any_way() {
    let disk = noise(1, 16 * SECTOR);
    for text in [
        "# Disk DescriptorFile\r\nversion=1\r\nCID=1\r\nparentCID=ffffffff\r\ncreateType=\"vmfs\"\r\n\r\nRW 16 VMFS \"a-flat.vmdk\"\r\n",
        "#disk descriptorfile\n VERSION = 3 \n cid = \"00000001\"\nPARENTCID=FFFFFFFF\nCreateType = VMFS\nrw 16 vmfs \"a-flat.vmdk\"\n",
        "\n\nversion=1\n\tCreatetype\t=\tcustom\nRdOnly\t16\tFlat\ta-flat.vmdk\t0",
        "\u{feff}# Disk DescriptorFile\nversion=2\nencoding=\"windows-1252\"\nNoAccess  16  FLAT  \"a-flat.vmdk\"  0\n\0garbage",
    ] {
        let text = text.as_bytes().to_vec();
        let folder = folder_of(&[("a.vmdk", text), ("a-flat.vmdk", disk.clone())]);
        assert!(content(&folder, "a.vmdk") == disk);
    }
}

#[test]
fn extents_of_all_kinds_make_one_disk() {
    let (piece, cowd, se) = (Sparse::piece(), Cowd::default(), SeSparse::default());
    let folder = folder_of(&[
        ("a.vmdk", split().into_bytes()),
        ("a-flat.vmdk", flat()),
        ("a-s001.vmdk", piece.build().bytes),
        ("a-delta.vmdk", cowd.build().bytes),
        ("a-sesparse.vmdk", se.build().bytes),
    ]);
    let expected = [
        flat(),
        piece.disk.content(),
        vec![0; 100 * SECTOR],
        flat()[3 * SECTOR..11 * SECTOR].to_vec(),
        cowd.disk.content(),
        se.disk.content(),
    ]
    .concat();
    assert!(content(&folder, "a.vmdk") == expected);
}

#[test]
fn every_type_made_of_files_is_read() {
    let piece = Sparse::piece();
    let sectors = piece.disk.capacity;
    let flat_disk = [flat(), flat()].concat();
    let sparse_disk = [piece.disk.content(), piece.disk.content()].concat();
    for (create_type, kind, disk) in [
        ("custom", "FLAT", &flat_disk),
        ("fullDevice", "FLAT", &flat_disk),
        ("partitionedDevice", "FLAT", &flat_disk),
        ("2GbMaxExtentFlat", "FLAT", &flat_disk),
        ("vmfs", "VMFS", &flat_disk),
        ("vmfsThin", "VMFS", &flat_disk),
        ("vmfsPreallocated", "VMFS", &flat_disk),
        ("vmfsEagerZeroedThick", "VMFS", &flat_disk),
        ("vmfsThick", "VMFS", &flat_disk),
        ("2GbMaxExtentSparse", "SPARSE", &sparse_disk),
        ("custom", "SPARSE", &sparse_disk),
    ] {
        let (extent, sectors) = match kind {
            "SPARSE" => (piece.build().bytes, sectors),
            _ => (flat(), 16),
        };
        let lines = ["one", "two"].map(|name| format!("RW {sectors} {kind} \"{name}.vmdk\""));
        let text = descriptor(create_type, 1, None, &lines.each_ref().map(String::as_str));
        let folder = folder_of(&[
            ("a.vmdk", text),
            ("one.vmdk", extent.clone()),
            ("two.vmdk", extent),
        ]);
        assert!(content(&folder, "a.vmdk") == *disk, "{create_type}");
        let info = run_ok(&["info", s(&folder.file("a.vmdk")), "--json"]).json();
        assert_eq!(info["subformat"], create_type);
    }
}

#[test]
fn names_in_encodings_of_8_bits_are_found() {
    for (encoding, bytes, name) in [
        ("GBK", &b"\xb4\xc5\xc5\xcc.vmdk"[..], "磁盘.vmdk"),
        ("Big5", b"\xba\xcf.vmdk", "磁.vmdk"),
        ("Shift_JIS", b"\x83f\x83B.vmdk", "ディ.vmdk"),
        ("windows-1252", b"\xe9t\xe9.vmdk", "été.vmdk"),
        ("", b"\xe9t\xe9.vmdk", "été.vmdk"),
    ] {
        let named = format!("version=1\nencoding=\"{encoding}\"\n");
        let front = if encoding.is_empty() {
            "version=1\n"
        } else {
            &named
        };
        let text = [front.as_bytes(), b"RW 16 FLAT \"", bytes, b"\" 0\n"].concat();
        // Decoded, as a file system of today has it; or byte for byte, as tar or scp left it.
        for on_disk in [name.as_bytes(), bytes] {
            let folder = folder_of(&[("a.vmdk", text.clone())]);
            let on_disk = std::ffi::OsStr::from_bytes(on_disk);
            fs::write(folder.path().join(on_disk), flat()).expect("write");
            assert!(content(&folder, "a.vmdk") == flat(), "{encoding}");
        }
    }
}

/// The descriptor inside a sparse file becomes `text`.
fn with_text(mut image: Vec<u8>, text: &[u8]) -> Vec<u8> {
    image[SECTOR..21 * SECTOR].fill(0);
    patch(&mut image, SECTOR, text);
    image
}

/// A flat disk, and what it holds.
fn base(cid: u32) -> (Vec<u8>, Vec<u8>) {
    let disk = noise(9, 4098 * SECTOR);
    let line = "RW 4098 FLAT \"base-flat.vmdk\" 0";
    (descriptor("monolithicFlat", cid, None, &[line]), disk)
}

/// A delta of ESX on a flat disk.
fn cowd_over_flat(parent_cid: u32) -> (Folder, Vec<u8>) {
    let (text, disk) = base(0x1111_1111);
    let cowd = Cowd {
        flags: 2,
        ..Cowd::default()
    };
    let parent = Some((parent_cid, "base.vmdk"));
    let line = format!("RW {} VMFSSPARSE \"a-delta.vmdk\"", cowd.disk.capacity);
    let folder = folder_of(&[
        ("base.vmdk", text),
        ("base-flat.vmdk", disk.clone()),
        ("a.vmdk", descriptor("vmfsSparse", 2, parent, &[&line])),
        ("a-delta.vmdk", cowd.build().bytes),
    ]);
    (folder, over(&cowd.disk, &disk))
}

#[test]
fn a_delta_of_esx_is_read_over_its_parent() {
    let (folder, disk) = cowd_over_flat(0x1111_1111);
    assert!(content(&folder, "a.vmdk") == disk);
    if have_qemu() {
        assert!(qemu_content(&folder.file("a.vmdk"), "vmdk", &folder) == disk);
    }
    // The extent alone does not say on what it stands.
    fails(&folder.file("a-delta.vmdk"), &[], 3, "unsupported");
}

#[test]
fn kinds_are_mixed_in_a_chain() {
    let (text, disk) = base(1);
    let stream = Stream::of(Layout::Tail);
    let sparse = Sparse::default();
    let sectors = sparse.disk.capacity;
    let line = format!("RW {sectors} SPARSE \"any.vmdk\"");
    let middle = descriptor("streamOptimized", 2, Some((1, "base.vmdk")), &[&line]);
    // As VMware writes it: absolute, on another machine.
    let hint = "C:\\VMs\\web\\middle.vmdk";
    let tip = descriptor("monolithicSparse", 3, Some((2, hint)), &[&line]);
    let folder = folder_of(&[
        ("base.vmdk", text),
        ("base-flat.vmdk", disk.clone()),
        ("middle.vmdk", with_text(stream.build().bytes, &middle)),
        ("tip.vmdk", with_text(sparse.build().bytes, &tip)),
    ]);
    let middle = over(&stream.disk, &disk);
    assert!(content(&folder, "middle.vmdk") == middle);
    assert!(content(&folder, "tip.vmdk") == over(&sparse.disk, &middle));
    let info = run_ok(&["info", s(&folder.file("tip.vmdk")), "--json"]).json();
    assert_eq!(info["chain"].as_array().map(Vec::len), Some(3), "{info}");
    if have_qemu() {
        let middle_of_qemu = qemu_content(&folder.file("middle.vmdk"), "vmdk", &folder);
        assert!(middle_of_qemu == middle);
    }
}

#[test]
fn a_parent_with_another_content_id_is_malformed() {
    let (folder, _) = cowd_over_flat(0x2222_2222);
    let error = fails(&folder.file("a.vmdk"), &[], 3, "malformed");
    assert_eq!(error["file"].as_str(), Some(s(&folder.file("base.vmdk"))));
    let (found, expected) = (error["found"].as_str(), error["expected"].as_str());
    assert!(found.is_some_and(|cid| cid.contains("11111111")), "{error}");
    assert!(
        expected.is_some_and(|cid| cid.contains("22222222")),
        "{error}"
    );
}

#[test]
fn a_delta_without_a_usable_parent_is_malformed() {
    let (folder, _) = cowd_over_flat(0x1111_1111);
    let image = folder.file("a.vmdk");
    let text = fs::read_to_string(&image).expect("read");
    let change = |from: &str, to: &str| {
        assert!(text.contains(from));
        fs::write(&image, text.replace(from, to)).expect("write");
    };
    change("parentFileNameHint=\"base.vmdk\"\n", "");
    fails(&image, &[], 3, "malformed");
    change("\"base.vmdk\"", "\"\"");
    fails(&image, &[], 3, "malformed");
    change("\"base.vmdk\"", "\"gone.vmdk\"");
    fails(&image, &[], 3, "malformed");
    change("\"base.vmdk\"", "\"a.vmdk\"");
    fails(&image, &[], 3, "malformed");
    // Its parent is a VMDK, not the bytes of one.
    change("\"base.vmdk\"", "\"base-flat.vmdk\"");
    fails(&image, &[], 3, "malformed");
    // An id that cannot be one.
    change("parentCID=11111111", "parentCID=xyz");
    fails(&image, &[], 3, "malformed");
}

#[test]
fn mappings_of_raw_devices_are_refused_by_name() {
    let is_rdm = |text: Vec<u8>| {
        let folder = folder_of(&[("a.vmdk", text), ("a-rdm.vmdk", flat())]);
        let error = fails(&folder.file("a.vmdk"), &[], 3, "unsupported");
        assert!(
            error["message"].as_str().unwrap().contains("RDM"),
            "{error}"
        );
    };
    for create_type in [
        "vmfsRDM",
        "vmfsRDMP",
        "VMFSrdmp",
        "vmfsRaw",
        "vmfsRawDeviceMap",
        "vmfsPassthroughRawDeviceMap",
    ] {
        is_rdm(descriptor(
            create_type,
            1,
            None,
            &["RW 16 VMFSRDM \"a-rdm.vmdk\""],
        ));
        is_rdm(descriptor(
            create_type,
            1,
            None,
            &["RW 16 FLAT \"a-rdm.vmdk\" 0"],
        ));
    }
    for kind in ["VMFSRDM", "VMFSRAW"] {
        let line = format!("RW 16 {kind} \"a-rdm.vmdk\"");
        is_rdm(descriptor("custom", 1, None, &[&line]));
    }
}

fn details(image: &Path) -> serde_json::Value {
    run_ok(&["info", s(image), "--json"]).json()["details"].clone()
}

#[test]
fn info_tells_what_the_descriptor_says() {
    let (folder, _) = cowd_over_flat(0x1111_1111);
    let told = details(&folder.file("a.vmdk"));
    for (key, value) in [
        ("create_type", "vmfsSparse"),
        ("cid", "00000002"),
        ("parent_cid", "11111111"),
        ("adapter_type", "ide"),
        ("hardware_version", "4"),
    ] {
        assert_eq!(told[key], value, "{told}");
    }
    let line = format!(
        "RW {} VMFSSPARSE \"a-delta.vmdk\"",
        Cowd::default().disk.capacity
    );
    assert_eq!(told["extents"], serde_json::json!([line]));
    for (layout, words) in [(Layout::Tail, "end"), (Layout::Front, "front")] {
        let image = folder.file("stream.vmdk");
        fs::write(&image, Stream::of(layout).build().bytes).expect("write");
        let told = details(&image);
        assert!(
            told["layout"].as_str().is_some_and(|l| l.contains(words)),
            "{told}"
        );
        assert_eq!(
            (&told["compressed"], &told["sparse_version"]),
            (&true.into(), &3.into())
        );
    }
}
