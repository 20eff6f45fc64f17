//! `apply`, and what could make it write where it must not, or be believed where it was not finished.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use common::applying::{Chain, is_same, json, receipt, refused, refused_with};
use common::cost::cost_of;
use common::damage::snapshot;
use common::peers::{have_qemu, qemu_check};
use common::vhd::Vhd;
use common::{Finished, Folder, convert, noise, patched, run, run_ok, s};

const MIB: u64 = 1 << 20;

/// Applies the delta where no file may be longer than `kib`: the copy that is longer than this keeps a half of it.
fn cut_off(kib: u64, arguments: &[&str]) -> Option<i32> {
    let script = format!("ulimit -f {kib}; exec \"$0\" \"$@\"");
    let line = [&["-c", &script, env!("CARGO_BIN_EXE_diskferry")], arguments].concat();
    let output = std::process::Command::new("bash").args(line).output();
    output.expect("bash").status.code()
}

/// A raw copy that a part of the delta is in.
fn half_applied(chain: &Chain, name: &str, options: &[&str]) -> std::path::PathBuf {
    let copy = chain.folder.file(name);
    let receipt: &[&str] = if options.is_empty() {
        &["--receipt"]
    } else {
        &[]
    };
    convert(&chain.base, &copy, &[receipt, options].concat());
    let apply = [&["apply", s(&chain.child), s(&copy)], options].concat();
    assert_eq!(cut_off(10 << 10, &apply), Some(4));
    copy
}

fn in_part(finished: &Finished) {
    assert_eq!(finished.code, Some(5), "{}", finished.stderr);
    assert!(finished.stderr.contains("in part"), "{}", finished.stderr);
}

#[test]
fn a_receipt_never_takes_the_place_of_another_file() {
    let chain = Chain::new("vhdx", "block_size=1M");
    let folder = chain.folder.path().to_owned();
    let text = chain.folder.file("text");
    fs::write(&text, "not a receipt").expect("write");
    symlink(&text, chain.folder.file("link")).expect("a link");
    fs::create_dir(chain.folder.file("sub")).expect("a folder");
    let dotted = |name: &str| format!("{}/./{name}", folder.display());
    let around = |name: &str| format!("{}/sub/../{name}", folder.display());
    for place in [
        dotted("made.raw"),
        dotted("base.vhdx"),
        around("base.vhdx"),
        dotted("text"),
        dotted("link"),
        dotted("sub"),
        dotted("none/receipt"),
    ] {
        let before = snapshot(&folder);
        let option = format!("--receipt={place}");
        let target = chain.folder.file("made.raw");
        let finished = run(&["convert", s(&chain.base), s(&target), &option]);
        assert!(
            matches!(finished.code, Some(2 | 4 | 5)),
            "{option}: {}",
            finished.text()
        );
        let mut after = snapshot(&folder);
        // The target may be there, whole: what it was made from could not be written down then.
        if let Some(made) = after.remove("made.raw") {
            assert!(made.3 == fs::read(&chain.old).expect("read"), "{option}");
            fs::remove_file(&target).expect("remove");
        }
        assert!(after == before, "{option}: something changed");
    }
    let copy = chain.copy("raw", &[]);
    for place in [
        "text",
        "link",
        "old.raw",
        "base.vhdx",
        "child.vhdx",
        "copy.raw",
    ] {
        let option = format!("--receipt={}", s(&chain.folder.file(place)));
        let before = snapshot(&folder);
        let apply = ["apply", s(&chain.child), s(&copy), "--trust", &option];
        let finished = run(&apply);
        assert!(
            matches!(finished.code, Some(2 | 3 | 5)),
            "{option}: {}",
            finished.text()
        );
        assert!(snapshot(&folder) == before, "{option}: something changed");
    }
}

#[test]
fn only_whole_images_as_they_are_now_are_written_to() {
    let chain = Chain::new("qcow2", "cluster_size=64k");
    let copy = chain.copy("qcow2", &[]);
    for option in [["--snapshot", "one"], ["--layer", "0"]] {
        refused_with(2, &chain, &chain.child, &copy, &option, option[0]);
    }
    let before = snapshot(chain.folder.path());
    for option in [["--snapshot", "one"], ["--layer", "0"]] {
        let finished = run(&["merge", s(&chain.child), option[0], option[1]]);
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    }
    let target = chain.folder.file("l.raw");
    let layer = ["convert", s(&chain.child), s(&target), "--layer", "0"];
    let finished = run(&[&layer[..], &["--receipt"]].concat());
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(snapshot(chain.folder.path()) == before, "something changed");
}

#[test]
fn the_parent_itself_is_no_copy_under_any_name() {
    for (format, options) in [
        ("vhd", "block_size=2M"),
        ("vhdx", "block_size=1M"),
        ("qcow2", "cluster_size=4k"),
    ] {
        let chain = Chain::new(format, options);
        let elsewhere = Folder::new();
        let (link, hard) = (elsewhere.file("link"), elsewhere.file("hard"));
        symlink(&chain.base, &link).expect("a link");
        let linked = fs::hard_link(&chain.base, &hard).is_ok();
        let parent = s(&chain.base).to_owned();
        for name in [&chain.base, &link, &hard] {
            if name == &hard && !linked {
                continue;
            }
            for option in [&["--trust"][..], &["--parent", &parent]] {
                refused(&chain, &chain.child, name, option, "COPY");
                refused(
                    &chain,
                    &chain.child,
                    name,
                    &[option, &["-F", format]].concat(),
                    "COPY",
                );
            }
        }
    }
}

#[test]
fn half_of_a_delta_is_seen_under_every_name_of_the_copy() {
    let chain = Chain::new("vhdx", "block_size=1M");
    let elsewhere = Folder::new();
    let place = format!("--receipt={}", s(&elsewhere.file("receipt")));
    for options in [&[][..], &[&place[..]]] {
        let name = format!("copy{}.raw", options.len());
        let copy = half_applied(&chain, &name, options);
        let link = elsewhere.file(&format!("link{}", options.len()));
        symlink(&copy, &link).expect("a link");
        in_part(&run(&["digest", s(&copy)]));
        in_part(&run(&["digest", s(&link)]));
        in_part(&run(&[
            "convert",
            s(&link),
            s(&elsewhere.file("out.qcow2")),
        ]));
        // And under an overlay.
        let on = chain.folder.file(&format!("on{}.qcow2", options.len()));
        if have_qemu() {
            let create = [
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                &name,
                s(&on),
            ];
            common::peers::qemu_img(&create);
            in_part(&run(&["digest", s(&on)]));
            in_part(&run(&["merge", s(&on)]));
            in_part(&run(&[
                "convert",
                s(&chain.new),
                s(&elsewhere.file("o.qcow2")),
                "-B",
                s(&copy),
            ]));
            fs::remove_file(&on).expect("remove");
        }
        run_ok(&[&["apply", s(&chain.child), s(&copy), "--verify"], options].concat());
        is_same(&copy, &chain.new, "finished");
        is_same(&link, &chain.new, "finished");
        // The same again costs nothing, and changes nothing.
        let before = snapshot(chain.folder.path());
        let again = run_ok(&[&["apply", s(&chain.child), s(&copy), "--verify"], options].concat());
        assert!(again.stderr.contains("already"), "{}", again.stderr);
        assert!(snapshot(chain.folder.path()) == before, "something changed");
    }
}

#[test]
fn what_was_begun_goes_on_with_the_same_files_only() {
    let chain = Chain::new("vhdx", "block_size=1M");
    let copy = half_applied(&chain, "copy.raw", &[]);
    // Another file in its place.
    let (kept, other) = (chain.folder.file("kept"), chain.folder.file("other.raw"));
    convert(&chain.base, &other, &[]);
    fs::rename(&copy, &kept).expect("rename");
    fs::rename(&other, &copy).expect("rename");
    for options in [&[][..], &["--trust"], &["--parent", s(&chain.base)]] {
        refused(&chain, &chain.child, &copy, options, "in its place");
    }
    fs::rename(&kept, &copy).expect("rename");
    // The delta in another state.
    let saved = fs::read(&chain.child).expect("read");
    let time = fs::metadata(&chain.child)
        .and_then(|m| m.modified())
        .expect("a time");
    convert(&chain.old, &chain.child, &["-B", "base.vhdx", "--force"]);
    refused(&chain, &chain.child, &copy, &["--trust"], "in part");
    fs::write(&chain.child, saved).expect("write");
    let file = fs::File::options()
        .append(true)
        .open(&chain.child)
        .expect("open");
    file.set_modified(time).expect("a time");
    drop(file);
    run_ok(&["apply", s(&chain.child), s(&copy)]);
    is_same(&copy, &chain.new, "finished");
}

#[test]
fn a_half_applied_copy_is_made_anew_by_convert() {
    let chain = Chain::new("vhdx", "block_size=1M");
    let elsewhere = Folder::new();
    let place = format!("--receipt={}", s(&elsewhere.file("receipt")));
    for options in [&[][..], &["--receipt"], &[&place[..]]] {
        let copy = half_applied(&chain, "copy.raw", &[]);
        convert(&chain.base, &copy, &[&["--force"], options].concat());
        is_same(&copy, &chain.old, "made anew");
        run_ok(&[
            "apply",
            s(&chain.child),
            s(&copy),
            "--parent",
            s(&chain.base),
        ]);
        is_same(&copy, &chain.new, "applied");
        fs::remove_file(&copy).expect("remove");
        fs::remove_file(receipt(&copy)).expect("remove");
    }
}

#[test]
fn kinds_that_take_no_new_blocks_are_refused_before_anything_is_written() {
    let chain = Chain::new("vhdx", "block_size=1M");
    for options in [
        "subformat=twoGbMaxExtentSparse",
        "subformat=streamOptimized",
    ] {
        let copy = chain.copy("vmdk", &["-o", options]);
        let before = snapshot(chain.folder.path());
        let finished = run(&["apply", s(&chain.child), s(&copy)]);
        assert!(
            matches!(finished.code, Some(3 | 5)),
            "{options}: {}",
            finished.stderr
        );
        assert!(
            snapshot(chain.folder.path()) == before,
            "{options}: something changed"
        );
        assert!(json(&receipt(&copy))["applying"].is_null(), "{options}");
    }
}

#[test]
fn a_copy_that_grew_is_not_cut_off_in_silence() {
    let chain = Chain::new("vhdx", "block_size=1M");
    let copy = chain.copy("raw", &[]);
    run_ok(&["resize", s(&copy), "+4M"]);
    patched(
        &copy,
        &chain.folder.file("grown.raw"),
        &[(21 * MIB, &noise(5, 3000))],
    );
    let grown = chain.folder.file("grown.raw");
    refused(
        &chain,
        &chain.child,
        &grown,
        &["--parent", s(&chain.base)],
        "larger",
    );
    let finished = run_ok(&["apply", s(&chain.child), s(&grown), "--trust"]);
    assert!(
        finished.stderr.contains("stays larger"),
        "{}",
        finished.stderr
    );
    let bytes = fs::read(&grown).expect("read");
    assert_eq!(bytes.len() as u64, 24 * MIB);
    let new = fs::read(&chain.new).expect("read");
    assert!(bytes[..20 << 20] == new, "the disk of the delta");
    assert!(
        bytes[21 << 20..][..3000] == noise(5, 3000),
        "what lies behind it"
    );
}

/// A VHD on another, by hand: its parent's time is not in it, and a VHD keeps its id whatever is written to it.
fn without_time(folder: &Folder) -> (Vec<u8>, Vec<u8>) {
    let mut base = Vhd::new(4 * MIB, 1 << 20, 1);
    base.block(1, noise(1, 1 << 20), |_| true);
    base.write(&folder.file("base.vhd"));
    let mut child = Vhd::on(4 * MIB, 1 << 20, 2, &base, "base.vhd");
    child.block(1, noise(2, 1 << 20), |sector| sector % 3 == 0);
    child.block(2, noise(3, 1 << 20), |_| true);
    child.write(&folder.file("child.vhd"));
    let old = base.guest(&[]);
    let new = child.guest(&old);
    (old, new)
}

#[test]
fn a_delta_that_names_no_state_wants_its_parent_there_as_it_was() {
    let folder = Folder::new();
    let (old, new) = without_time(&folder);
    let (base, child) = (folder.file("base.vhd"), folder.file("child.vhd"));
    let copy = folder.file("copy.raw");
    let holds = |disk: &[u8]| assert!(fs::read(&copy).expect("read") == disk);
    convert(&base, &copy, &["--receipt"]);
    run_ok(&["apply", s(&child), s(&copy)]);
    holds(&new);
    let refused = |why: &str| {
        let finished = run(&["apply", s(&child), s(&copy)]);
        assert_eq!(finished.code, Some(5), "{why}: {}", finished.stderr);
        holds(&old);
    };
    convert(&base, &copy, &["--receipt", "--force"]);
    let away = folder.file("away");
    fs::rename(&base, &away).expect("rename");
    refused("its parent is not there");
    fs::rename(&away, &base).expect("rename");
    let file = fs::File::options().append(true).open(&base).expect("open");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .expect("a time");
    refused("its parent was written to");
}

#[test]
fn tables_that_were_outgrown_are_given_back() {
    let folder = Folder::new();
    let (old, new) = (folder.file("old.raw"), folder.file("new.raw"));
    fs::write(&old, noise(1, 100_000)).expect("write");
    fs::File::options()
        .write(true)
        .open(&old)
        .expect("open")
        .set_len(64 * MIB)
        .expect("a length");
    patched(
        &old,
        &new,
        &[(MIB, &noise(2, 24 << 20)), (40 * MIB, &noise(3, 9 << 20))],
    );
    let (base, child) = (folder.file("base.vhdx"), folder.file("child.vhdx"));
    convert(&old, &base, &[]);
    convert(&new, &child, &["-B", "base.vhdx"]);
    for options in ["cluster_size=512", "cluster_size=512,refcount_bits=64"] {
        let copy = folder.file("copy.qcow2");
        convert(&base, &copy, &["--receipt", "--force", "-o", options]);
        run_ok(&["apply", s(&child), s(&copy), "--verify"]);
        let checked = run_ok(&["check", s(&copy)]);
        assert!(checked.text().contains("leaks 0,"), "{}", checked.text());
        if have_qemu() {
            qemu_check("qcow2", &copy);
        }
    }
}

/// Makes every other block of an empty VHDX one of zeros, in its BAT ([MS-VHDX] 2.5.1).
fn with_zero_blocks(image: &Path, blocks: u64) {
    const REGION_TABLE: u64 = 192 << 10;
    const BAT: [u8; 4] = [0x66, 0x77, 0xC2, 0x2D];
    const ZERO: u64 = 2;
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(image)
        .expect("open");
    let mut table = [0; 16 + 2 * 32];
    file.read_exact_at(&mut table, REGION_TABLE).expect("read");
    let entry = table[16..]
        .chunks(32)
        .find(|entry| entry.starts_with(&BAT))
        .expect("a BAT");
    let offset = u64::from_le_bytes(entry[16..24].try_into().expect("8 bytes"));
    // An entry for the sector bitmaps follows those of so many blocks: 2^23 sectors of 512 bytes.
    let ratio = (1 << 32) / MIB;
    let mut bat = Vec::new();
    for block in 0..blocks {
        bat.extend((if block % 2 == 0 { ZERO } else { 0 }).to_le_bytes());
        if (block + 1) % ratio == 0 {
            bat.extend([0; 8]);
        }
    }
    file.write_all_at(&bat, offset).expect("write");
}

#[test]
fn pieces_without_number_take_no_memory() {
    const BLOCKS: u64 = 1 << 20;
    let folder = Folder::new();
    let disk = folder.file("disk.raw");
    let file = fs::File::create(&disk).expect("create");
    file.set_len(BLOCKS * MIB).expect("a length");
    let (base, child) = (folder.file("base.vhdx"), folder.file("child.vhdx"));
    convert(&disk, &base, &["-o", "block_size=1M"]);
    convert(&disk, &child, &["-B", "base.vhdx", "-o", "block_size=1M"]);
    with_zero_blocks(&child, BLOCKS);
    for (target, options) in [
        ("raw", ""),
        ("qcow2", "cluster_size=2M"),
        ("vhdx", "block_size=1M"),
    ] {
        let copy = folder.file(&format!("copy.{target}"));
        let options = if options.is_empty() {
            vec![]
        } else {
            vec!["-o", options]
        };
        convert(&base, &copy, &[&["--receipt"], &options[..]].concat());
        let planned = run_ok(&["apply", s(&child), s(&copy), "--dry-run", "--json"]).json();
        assert_eq!(planned["bytes"]["zero"], BLOCKS / 2 * MIB, "{target}");
        let cost = cost_of(&["apply", s(&child), s(&copy)]);
        assert!(cost.peak < 128 << 20, "{target}: {cost:?}");
    }
    let cost = cost_of(&["merge", s(&child)]);
    assert!(cost.peak < 128 << 20, "merge: {cost:?}");
}

#[test]
fn a_machine_whose_disk_is_half_applied_is_not_read() {
    let chain = Chain::new("vhdx", "block_size=1M");
    let copy = half_applied(&chain, "copy.raw", &[]);
    let description = "name = \"web\"\n\n[[disks]]\n[disks.image.file]\nhref = \"copy.raw\"\n";
    let machine = chain.folder.file("web.toml");
    fs::write(&machine, description).expect("write");
    let target = chain.folder.file("web.ova");
    in_part(&run(&["convert", s(&machine), s(&target)]));
    assert!(!target.exists());
    in_part(&run(&["check", s(&machine)]));
    let shown = run(&["info", s(&machine)]);
    assert!(shown.text().contains("in part"), "{}", shown.text());
    run_ok(&["apply", s(&chain.child), s(&copy)]);
    run_ok(&["convert", s(&machine), s(&target)]);
    is_same(&target, &chain.new, "packed");
}
