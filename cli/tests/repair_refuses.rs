//! Images that `check --repair` must leave as they are: a damaged bit makes what is in use look like leaks, or says that
//! there is more than anybody here knows of. Freeing it would lose it for good.

mod common;

use std::path::{Path, PathBuf};

use common::checks::*;
use common::damage::images::{be32, be64, patch};
use common::damage::snapshot;
use common::peers::have_qemu;
use common::{Finished, Folder, noise, patched, run, s, tool};

const LUKS: u32 = 0x0537_BE77;
const BITMAPS: u32 = 0x2385_2875;

/// Answers what repairing an image says, which must leave the image, and all that stands beside it, as it was.
fn repair_writes_nothing(image: &Path) -> Finished {
    let folder = image.parent().expect("a folder");
    let before = snapshot(folder);
    let finished = check(image, &["--repair"]);
    assert!(snapshot(folder) == before, "written: {}", finished.text());
    finished
}

/// The image is damaged; with `--repair` as well, which says why nothing is written, and `words` of what is wrong.
fn is_left_alone(image: &Path, words: &str) {
    let finished = repair_writes_nothing(image);
    let answer = finished.json();
    assert_eq!(finished.code, Some(1), "{answer}");
    assert!(answer["not_repaired"].is_string(), "{answer}");
    assert!(answer["repaired"].is_null(), "{answer}");
    says(&answer, "damage", words);
    let said = run(&["check", "-f", "qcow2", "--repair", s(image)]);
    let wanted = format!(
        "not repaired: {}",
        answer["not_repaired"].as_str().expect("text")
    );
    assert!(said.text().contains(&wanted), "{}", said.text());
}

/// An image of QEMU, and copies of it that are damaged.
struct Original {
    folder: Folder,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Original {
    fn new(folder: Folder, path: PathBuf) -> Original {
        let bytes = std::fs::read(&path).expect("read");
        Original {
            folder,
            path,
            bytes,
        }
    }

    /// With two snapshots and a bitmap.
    fn with_history() -> Original {
        let folder = Folder::new();
        let path = qemu_image(&folder, "a.qcow2", "cluster_size=4k");
        Original::new(folder, path)
    }

    /// Of noise, without anything else.
    fn plain() -> Original {
        let folder = Folder::new();
        let (raw, path) = (folder.file("disk.raw"), folder.file("a.qcow2"));
        std::fs::write(&raw, noise(1, 400_000)).expect("write");
        let convert = ["convert", "-f", "raw", "-O", "qcow2"];
        let options = ["-o", "cluster_size=4k", s(&raw), s(&path)];
        tool("qemu-img", &[&convert[..], &options].concat());
        std::fs::remove_file(raw).expect("remove");
        Original::new(folder, path)
    }

    /// Encrypted; the passphrase does not matter.
    fn encrypted() -> Original {
        let folder = Folder::new();
        let path = folder.file("a.qcow2");
        let luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
        let create = ["create", "-f", "qcow2", "--object", "secret,id=s,data=pw"];
        tool(
            "qemu-img",
            &[&create[..], &["-o", luks, s(&path), "10M"]].concat(),
        );
        Original::new(folder, path)
    }

    /// A copy with these changes.
    fn but(&self, patches: &[(u64, &[u8])]) -> PathBuf {
        let copy = self.folder.file("copy.qcow2");
        patched(&self.path, &copy, patches);
        copy
    }

    /// A copy with this content.
    fn as_bytes(&self, bytes: &[u8]) -> PathBuf {
        let copy = self.folder.file("copy.qcow2");
        std::fs::write(&copy, bytes).expect("write");
        copy
    }

    fn get64(&self, at: u64) -> u64 {
        be64(&self.bytes, at as usize)
    }

    /// Where the content of a header extension stands.
    fn extension(&self, kind: u32) -> u64 {
        let kind = kind.to_be_bytes();
        let at = self.bytes.windows(4).position(|window| window == kind);
        at.expect("the extension") as u64 + 8
    }

    fn l1(&self) -> u64 {
        self.get64(40)
    }

    fn snapshots(&self) -> u64 {
        self.get64(64)
    }

    /// Takes the COPIED flag off the first L1 entry, which can be repaired.
    fn loosen(&self, bytes: &mut [u8]) {
        let first = self.get64(self.l1());
        assert!(first & COPIED != 0);
        patch(bytes, self.l1() as usize, &(first & !COPIED).to_be_bytes());
    }
}

#[test]
fn what_is_loose_is_repaired_where_nothing_else_is_wrong() {
    if !have_qemu() {
        return;
    }
    let original = Original::with_history();
    let mut bytes = original.bytes.clone();
    original.loosen(&mut bytes);
    let image = original.as_bytes(&bytes);
    let finished = check(&image, &["--repair"]);
    assert_eq!(finished.code, Some(0), "{}", finished.text());
    assert!(std::fs::read(&image).expect("read") == original.bytes);
}

#[test]
fn a_luks_header_that_is_not_found_is_not_freed() {
    if !have_qemu() {
        return;
    }
    let original = Original::encrypted();
    let extension = original.extension(LUKS);
    let kind = (extension - 8, &[0x25][..]);
    is_left_alone(&original.but(&[kind]), "names no LUKS header");
    // As version 2 the image has no extensions where they are.
    is_left_alone(&original.but(&[(7, &[2])]), "names no LUKS header");
    let header = original.get64(extension);
    // Magic and version; what others may support is no damage.
    for (at, byte, code) in [(0, b'l', 1), (5, 0xFF, 1), (7, 9, 3)] {
        let image = original.but(&[(header + at, &[byte])]);
        let said = repair_writes_nothing(&image);
        assert_eq!(said.code, Some(code), "{at}: {}", said.text());
    }
    // It leads to a place where no header is, or nothing.
    for place in [header + 4096, 0, 1 << 40] {
        let image = original.but(&[(extension, &u64::to_be_bytes(place))]);
        let said = repair_writes_nothing(&image);
        assert_eq!(said.code, Some(1), "{place}: {}", said.text());
    }
    let undamaged = check(&original.path, &[]);
    assert_eq!(undamaged.code, Some(0), "{}", undamaged.text());
    assert_eq!(counts(&undamaged.json()).leaks, 0);
}

#[test]
fn snapshots_whose_entries_are_misread_are_not_freed() {
    if !have_qemu() {
        return;
    }
    let original = Original::with_history();
    let entry = original.snapshots();
    // 513 bytes of id, in which the second entry is.
    is_left_alone(&original.but(&[(entry + 12, &[2])]), "snapshot table");
    // No snapshots, but a place where they are.
    let image = original.but(&[(60, &[0; 4])]);
    let finished = repair_writes_nothing(&image);
    assert_eq!(finished.code, Some(5), "{}", finished.text());
    assert!(finished.stderr.contains("of no snapshots"));
    // Lengths of id, name and extra data, and the number of entries of the L1 table: off by any bit.
    let mut refused = 0;
    for at in (8..16).chain(36..40) {
        for bit in 0..8 {
            let byte = original.bytes[(entry + at) as usize] ^ 1 << bit;
            let finished = repair_writes_nothing(&original.but(&[(entry + at, &[byte])]));
            refused += u32::from(finished.code == Some(1));
        }
    }
    assert!(refused > 80, "{refused} of 96");
}

#[test]
fn a_snapshot_that_does_not_say_the_size_of_its_disk_stops_repair() {
    if !have_qemu() {
        return;
    }
    let original = Original::with_history();
    let at = original.snapshots() as usize;
    let mut bytes = original.bytes.clone();
    original.loosen(&mut bytes);
    let [extra, id, name] = [
        be32(&bytes, at + 36) as usize,
        be32(&bytes, at + 12) as usize >> 16,
        be32(&bytes, at + 12) as usize & 0xFFFF,
    ];
    // The first entry without its extra data, and the second one closer to it.
    let names = at + 40 + extra..at + 40 + extra + id + name;
    let second = names.end.next_multiple_of(8);
    let mut entries = bytes[at..at + 36].to_vec();
    entries.extend([0; 4]);
    entries.extend(&bytes[names]);
    entries.resize(entries.len().next_multiple_of(8), 0);
    entries.extend(&bytes[second..at + 4096]);
    patch(&mut bytes, at, &entries);
    is_left_alone(&original.as_bytes(&bytes), "the size of its disk");
}

#[test]
fn an_l1_entry_that_leads_nowhere_but_says_copied_is_not_taken_for_none() {
    if !have_qemu() {
        return;
    }
    let original = Original::plain();
    let image = original.but(&[(original.l1(), &COPIED.to_be_bytes())]);
    is_left_alone(&image, "leads nowhere");
    // Its clusters are what would have been freed.
    assert!(counts(&check(&image, &[]).json()).leaks > 90);
}

#[test]
fn bitmaps_that_are_not_found_are_not_freed() {
    if !have_qemu() {
        return;
    }
    let original = Original::with_history();
    let extension = original.extension(BITMAPS);
    let directory = original.get64(extension + 16);
    let image = original.but(&[(extension - 8, &[0x27])]);
    is_left_alone(&image, "but names none");
    // It ends before the extensions, or behind them.
    for header_length in [104u32, 368, 2160] {
        let image = original.but(&[(100, &header_length.to_be_bytes())]);
        is_left_alone(&image, "but names none");
    }
    let (count, reserved, entries) = (extension, extension + 4, directory + 8);
    for (at, value, words) in [
        (entries, 0, "a bitmap's table is empty"),
        (count, 0, "lists no bitmaps"),
        (reserved, 1, "what is reserved"),
    ] {
        let mut bytes = original.bytes.clone();
        original.loosen(&mut bytes);
        patch(&mut bytes, at as usize, &u32::to_be_bytes(value));
        is_left_alone(&original.as_bytes(&bytes), words);
    }
}

#[test]
fn a_data_file_with_a_cluster_out_of_its_place_stops_repair() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let path = folder.file("a.qcow2");
    let options = "cluster_size=64k,data_file=a.data";
    // QEMU looks for the data file in the folder that it was started in.
    let made = format!(
        "cd {} && qemu-img create -f qcow2 -o {options} a.qcow2 1M && qemu-io -c 'write -P 7 0 128k' a.qcow2",
        s(folder.path())
    );
    tool("sh", &["-c", &made]);
    let original = Original::new(folder, path);
    let l2 = original.get64(original.l1()) & !COPIED;
    // Guest cluster 5 is in cluster 2 of the file, and has no COPIED flag.
    let image = original.but(&[(l2 + 5 * 8, &0x2_0000u64.to_be_bytes())]);
    let finished = repair_writes_nothing(&image);
    let answer = finished.json();
    assert_eq!(finished.code, Some(1), "{answer}");
    assert!(answer["not_repaired"].is_string(), "{answer}");
}

#[test]
fn clusters_of_a_feature_that_is_not_known_are_not_freed() {
    if !have_qemu() {
        return;
    }
    let original = Original::plain();
    let mut bytes = original.bytes.clone();
    let cluster = bytes.len() / 4096;
    bytes.resize((cluster + 1) * 4096, b'!');
    let block = be64(&bytes, be64(&bytes, 48) as usize) as usize;
    patch(&mut bytes, block + cluster * 2, &1u16.to_be_bytes());
    // Without the bit it is a leak.
    let image = original.as_bytes(&bytes);
    assert_eq!(counts(&check(&image, &[]).json()).leaks, 1);
    patch(&mut bytes, 88, &(1u64 << 7).to_be_bytes());
    let image = original.as_bytes(&bytes);
    let finished = repair_writes_nothing(&image);
    assert_eq!(finished.code, Some(5), "{}", finished.text());
    assert_eq!(finished.error_kind(), "refused");
    assert!(
        finished.stderr.contains("features that are not known"),
        "{}",
        finished.stderr
    );
}
