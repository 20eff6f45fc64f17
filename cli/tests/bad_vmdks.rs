//! Damaged and hostile VMDKs: exit code 3 or 5, the right kind of error, no target, no litter, the source untouched.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::damage::images::vmdk::delta::{Cowd, SeSparse};
use common::damage::images::vmdk::stream::{Layout, Stream};
use common::damage::images::vmdk::{Sparse, kinds, sector};
use common::damage::{Damaged, fails};
use common::vmdk::{SECTOR, descriptor, grains};
use common::{Folder, convert, folder_of, make_disk, noise, run_ok, s, tool};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A folder with `a.vmdk` of these extents, and `a-flat.vmdk` of 16 sectors.
fn of(extents: &[&str]) -> Folder {
    folder_of(&[
        ("a.vmdk", descriptor("custom", 1, None, extents)),
        ("a-flat.vmdk", noise(1, 16 * SECTOR)),
    ])
}

/// As [`of`], with an extent `a-s001.vmdk` besides, the line for which stands where `{}` is.
fn with_extent(kind: &str, extent: Vec<u8>) -> Folder {
    let folder = of(&[&format!("RW 4096 {kind} \"a-s001.vmdk\"")]);
    fs::write(folder.file("a-s001.vmdk"), extent).expect("write");
    folder
}

/// Converting `a.vmdk` fails so.
#[track_caller]
fn bad(folder: &Folder, kind: &str) -> Value {
    let code = if kind == "refused" { 5 } else { 3 };
    fails(&folder.file("a.vmdk"), &[], code, kind)
}

#[test]
fn the_undamaged_ones_are_read() {
    for (name, image) in kinds()
        .into_iter()
        .filter(|(name, _)| *name != "split.vmdk")
    {
        run_ok(&["digest", s(&Damaged::new(name, &image).path)]);
    }
    let folder = of(&["RW 8 FLAT \"a-flat.vmdk\" 8", "RW 16 FLAT \"a-flat.vmdk\""]);
    run_ok(&["digest", s(&folder.file("a.vmdk"))]);
    let folder = with_extent("SPARSE", Sparse::piece().build().bytes);
    run_ok(&["digest", s(&folder.file("a.vmdk"))]);
}

#[test]
fn extents_shorter_than_they_say_are_errors() {
    bad(&of(&["RW 17 FLAT \"a-flat.vmdk\" 0"]), "truncated");
    bad(&of(&["RW 16 FLAT \"a-flat.vmdk\" 1"]), "truncated");
    bad(&of(&["RW 1 VMFS \"a-flat.vmdk\" 16"]), "truncated");
    let small = || {
        let mut extent = Sparse::piece();
        extent.disk.capacity = 4095;
        extent.disk.grains.retain(|(index, _)| *index < 500);
        extent.build().bytes
    };
    bad(&with_extent("SPARSE", small()), "malformed");
    // In one file, header and line contradict each other.
    let text = "version=1\nRW 999999 SPARSE \"a.vmdk\"\n";
    let one = Sparse {
        descriptor: Some(text.to_owned()),
        ..Sparse::default()
    };
    Damaged::new("a.vmdk", &one.build().bytes).is("malformed");
}

/// A descriptor of `a-s001.vmdk`, in which `from` stands in for `to`.
fn told(from: &str, to: &str, kind: &str, extent: Vec<u8>) -> Folder {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\nRW 4096 {kind} \"a-s001.vmdk\"\n"
    );
    assert!(text.contains(from));
    folder_of(&[
        ("a.vmdk", text.replace(from, to).into_bytes()),
        ("a-s001.vmdk", extent),
    ])
}

#[test]
fn a_delta_is_not_read_without_its_parent() {
    let piece = || Sparse::piece().build().bytes;
    let hint = "parentFileNameHint=\"parent.vmdk\"\n";
    let none = "parentCID=ffffffff\n";
    bad(&told(none, hint, "SPARSE", piece()), "malformed");
    bad(
        &told(none, &format!("{none}{hint}"), "SPARSE", piece()),
        "malformed",
    );
    let delta = Cowd {
        flags: 2,
        ..Cowd::default()
    };
    let capacity = format!("RW {} ", delta.disk.capacity);
    let folder = told("RW 4096 ", &capacity, "VMFSSPARSE", delta.build().bytes);
    bad(&folder, "malformed");
}

#[test]
fn a_single_extent_is_read_whole_whatever_its_line_says() {
    let folder = told(
        "RW 4096",
        "RW 2048",
        "SPARSE",
        Sparse::piece().build().bytes,
    );
    let finished = run_ok(&["digest", s(&folder.file("a.vmdk")), "--json"]);
    assert!(finished.json()["size"].as_u64() > Some(4096 * 512));
    assert!(
        finished.stderr.contains("all of it is read"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_text_that_goes_on_behind_a_nul_is_malformed() {
    let folder = of(&[
        "RW 8 FLAT \"a-flat.vmdk\" 8\n\0",
        "RW 16 FLAT \"a-flat.vmdk\"",
    ]);
    bad(&folder, "malformed");
}

#[test]
fn a_hole_in_a_stream_costs_no_time() {
    let folder = Folder::new();
    let (raw, stream) = (folder.file("disk.raw"), folder.file("disk.vmdk"));
    make_disk(&raw, MIB);
    convert(&raw, &stream, &["-o", "subformat=streamOptimized"]);
    // The grains end at 8 TiB of nothing; footer and tables are gone.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&stream)
        .expect("open");
    let len = file.metadata().expect("metadata").len();
    file.set_len(len - 9 * SECTOR as u64).expect("cut");
    file.set_len(8 << 40).expect("a hole");
    let target = folder.file("target.raw");
    run_ok(&["convert", s(&stream), s(&target), "--salvage"]);
    run_ok(&["compare", s(&target), s(&raw)]);
}

#[test]
fn offsets_and_sums_that_cannot_be_are_errors() {
    bad(
        &of(&["RW 1 FLAT \"a-flat.vmdk\" 9007199254740992"]),
        "truncated",
    );
    for offset in ["9007199254740993", "18446744073709551615", "-1", "1e3"] {
        bad(
            &of(&[&format!("RW 1 FLAT \"a-flat.vmdk\" {offset}")]),
            "malformed",
        );
    }
    bad(&of(&["RW 9007199254740993 ZERO"]), "limit");
    bad(&of(&["RW 9007199254740992 ZERO"; 4]), "limit");
    bad(&of(&["RW 18446744073709551616 ZERO"]), "malformed");
    bad(&of(&[]), "malformed");
}

#[test]
fn a_descriptor_of_more_than_1_mib_is_over_the_limit() {
    let mut text = descriptor("custom", 1, None, &["RW 16 FLAT \"a-flat.vmdk\" 0"]);
    text.resize(1 << 20, b'\n');
    let folder = of(&[]);
    fs::write(folder.file("a.vmdk"), &text).expect("write");
    run_ok(&["digest", s(&folder.file("a.vmdk"))]);
    text.push(b'\n');
    fs::write(folder.file("a.vmdk"), &text).expect("write");
    bad(&folder, "limit");
    // One inside a sparse file.
    let image = Sparse::default().build().with(36, &2049u64.to_le_bytes());
    Damaged::new("a.vmdk", &image.bytes).is("limit");
}

#[test]
fn files_elsewhere_that_a_descriptor_names_are_not_read() {
    let elsewhere = folder_of(&[("secret", noise(3, 16 * SECTOR))]);
    let secret = elsewhere.file("secret");
    let absolute = s(&secret).to_owned();
    let above = format!("../{}/secret", name_of(elsewhere.path()));
    let names = [
        &absolute,
        &above,
        "/etc/hostname",
        "/dev/zero",
        "http://localhost/secret",
        "nbd:localhost:10809",
        "json:{\"driver\":\"null-co\"}",
        "link",
        "device",
        "below/secret",
        "pipe",
        "folder",
    ];
    for kind in ["FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE"] {
        for name in names {
            // A name between quotes holds none.
            let name = name.replace('"', "'");
            let folder = of(&[&format!("RW 1 {kind} \"{name}\"")]);
            symlink(&secret, folder.file("link")).expect("link");
            symlink("/dev/zero", folder.file("device")).expect("link");
            symlink(elsewhere.path(), folder.file("below")).expect("link");
            fs::create_dir(folder.file("folder")).expect("a folder");
            tool("mkfifo", &[s(&folder.file("pipe"))]);
            bad(&folder, "refused");
        }
    }
    // Whoever trusts it says so.
    let folder = of(&[&format!("RW 16 FLAT \"{absolute}\" 0")]);
    let raw = folder.file("allowed.raw");
    let options = ["--allow-references", s(elsewhere.path())];
    convert(&folder.file("a.vmdk"), &raw, &options);
    assert!(fs::read(raw).expect("read") == noise(3, 16 * SECTOR));
    // A name that stays in the folder, but leads nowhere.
    bad(&of(&["RW 16 FLAT \"gone.vmdk\" 0"]), "malformed");
}

fn name_of(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .expect("a name")
}

#[test]
fn an_extent_that_is_the_descriptor_itself_is_malformed() {
    for kind in ["FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE"] {
        let folder = of(&[&format!("RW 1 {kind} \"a.vmdk\"")]);
        bad(&folder, "malformed");
        let folder = of(&[&format!("RW 1 {kind} \"b.vmdk\"")]);
        fs::hard_link(folder.file("a.vmdk"), folder.file("b.vmdk")).expect("link");
        bad(&folder, "malformed");
    }
    // One that stands in a sparse file, and names the file as a flat extent.
    let mut one = Sparse::default();
    let sectors = one.disk.capacity;
    one.descriptor = Some(format!(
        "version=1\nRW {sectors} SPARSE \"a.vmdk\"\nRW 1 FLAT \"a.vmdk\" 0\n"
    ));
    Damaged::new("a.vmdk", &one.build().bytes).is("malformed");
    // And one that names only others.
    one.descriptor = Some("version=1\nRW 1 ZERO\nRW 1 ZERO\n".to_owned());
    Damaged::new("a.vmdk", &one.build().bytes).is("malformed");
}

#[test]
fn two_lines_that_name_one_sparse_file_are_malformed() {
    let extent = Sparse::piece().build().bytes;
    let folder = of(&["RW 8 SPARSE \"s.vmdk\"", "RW 8 SPARSE \"s.vmdk\""]);
    fs::write(folder.file("s.vmdk"), &extent).expect("write");
    bad(&folder, "malformed");
    let folder = of(&["RW 8 SPARSE \"s.vmdk\"", "RW 8 SPARSE \"t.vmdk\""]);
    fs::write(folder.file("s.vmdk"), &extent).expect("write");
    fs::hard_link(folder.file("s.vmdk"), folder.file("t.vmdk")).expect("link");
    bad(&folder, "malformed");
}

#[test]
fn an_extent_of_another_kind_is_malformed() {
    let extents = [
        ("SPARSE", Sparse::piece().build().bytes),
        ("VMFSSPARSE", Cowd::default().build().bytes),
        ("SESPARSE", SeSparse::default().build().bytes),
    ];
    for (kind, extent) in &extents {
        for (other, _) in extents.iter().filter(|(other, _)| other != kind) {
            bad(&with_extent(other, extent.clone()), "malformed");
        }
    }
}

#[test]
fn tables_and_grains_past_the_end_are_errors() {
    let sparse = Sparse::default().build();
    let stream = Stream::of(Layout::Tail).build();
    let cowd = Cowd::default().build();
    for built in [sparse, stream, cowd] {
        let past = sector(built.bytes.len()) as u32;
        for at in [built.directory, built.tables[0], built.tables[0] + 4] {
            for entry in [past, u32::MAX] {
                let image = built.clone().with(at, &entry.to_le_bytes());
                Damaged::new("a.vmdk", &image.bytes).is("truncated");
            }
        }
    }
    // Directories: of a header, and of a footer.
    for directory in [1u64 << 30, u64::MAX / 512] {
        let image = Sparse::default().build().with(56, &directory.to_le_bytes());
        let error = fails(
            &Damaged::new("a.vmdk", &image.bytes).path,
            &[],
            3,
            kind_of(directory),
        );
        assert!(error["structure"].is_string());
        let stream = Stream::of(Layout::Tail).build();
        let at = stream.footer + 56;
        let image = stream.with(at, &directory.to_le_bytes());
        // A footer that cannot be is none.
        Damaged::new("a.vmdk", &image.bytes).is("truncated");
    }
}

/// More sectors than any file has cannot be.
fn kind_of(sector: u64) -> &'static str {
    if sector > 1 << 53 {
        "malformed"
    } else {
        "truncated"
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_an_error() {
    for (name, image) in kinds()
        .into_iter()
        .filter(|(name, _)| *name != "split.vmdk")
    {
        // One stream has tables in front and behind, and does without the latter.
        let parts = [5, 20, 40, 60, 80, 95];
        let parts = if name == "both.vmdk" {
            &parts[..4]
        } else {
            &parts
        };
        for part in parts {
            let cut = Damaged::new(name, &image[..image.len() * part / 100]);
            let finished = common::run(&["digest", s(&cut.path), "--json"]);
            assert_eq!(finished.code, Some(3), "{name} at {part} %");
            let kind = finished.error_kind();
            assert!(
                matches!(&*kind, "truncated" | "malformed"),
                "{name} at {part} %: {kind}"
            );
            fails(&cut.path, &[], 3, &kind);
        }
        // Of the header a part is left.
        Damaged::new(name, &image[..300.min(image.len() / 2)]).is("truncated");
    }
}

/// A stream that diskferry made of a disk of 40 MiB, and the disk.
fn stream() -> (Vec<u8>, Vec<u8>) {
    let folder = Folder::new();
    let (raw, image) = (folder.file("disk.raw"), folder.file("a.vmdk"));
    make_disk(&raw, 40 * MIB);
    convert(&raw, &image, &["-o", "subformat=streamOptimized"]);
    (
        fs::read(&image).expect("read"),
        fs::read(&raw).expect("read"),
    )
}

#[test]
fn a_stream_without_its_footer_is_truncated_and_can_be_salvaged() {
    let (image, disk) = stream();
    // Whole but for its tail, and cut inside of the last grain.
    let (last, _) = grains(&image).pop().expect("a grain");
    let inside = (1024..image.len())
        .step_by(SECTOR)
        .find(|at| image[*at..*at + 8] == last.to_le_bytes() && image[*at + 8] != 0)
        .expect("the last grain");
    for (len, is_whole) in [(image.len() - 1024, true), (inside + 100, false)] {
        let cut = Damaged::new("a.vmdk", &image[..len]);
        let error = cut.is("truncated");
        assert!(error["message"].as_str().unwrap().contains("--salvage"));
        let raw = cut.folder.file("salvaged.raw");
        let arguments = ["convert", s(&cut.path), s(&raw), "--json", "--salvage"];
        let finished = run_ok(&arguments);
        assert!(finished.stderr.contains("markers"), "{}", finished.stderr);
        let salvaged = fs::read(&raw).expect("read");
        let there = if is_whole {
            disk.len()
        } else {
            last as usize * SECTOR
        };
        assert!(salvaged.len() == disk.len() && salvaged[..there] == disk[..there]);
        assert!(is_whole || salvaged[there..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_short_flat_extent_can_be_salvaged_up_to_its_end() {
    let folder = of(&[
        "RW 8 ZERO",
        "RW 104 FLAT \"a-flat.vmdk\" 0",
        "RW 16 FLAT \"a-flat.vmdk\" 0",
    ]);
    bad(&folder, "truncated");
    let raw = folder.file("salvaged.raw");
    let answer = convert(&folder.file("a.vmdk"), &raw, &["--salvage"]);
    let lost = answer["lost"].as_array().expect("a list");
    assert_eq!(lost.len(), 1, "what is missing is one hole: {lost:?}");
    assert_eq!(lost[0]["offset"], 24 * SECTOR);
    assert_eq!(lost[0]["length"], 88 * SECTOR);
    assert_eq!(answer["bytes"]["lost"], 88 * SECTOR);
    let flat = noise(1, 16 * SECTOR);
    let disk = [
        &vec![0; 8 * SECTOR][..],
        &flat,
        &vec![0; 88 * SECTOR],
        &flat,
    ]
    .concat();
    assert!(fs::read(&raw).expect("read") == disk);
}
