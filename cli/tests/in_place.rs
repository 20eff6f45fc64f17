//! `convert --replace --in-place`: a fixed VHD becomes dynamic within its own file, whenever and however often it is stopped.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::damage::snapshot;
use common::peers::{Readers, have_qemu, qemu_finds_equal, seven_zip_agrees};
use common::vhd::fixed_footer;
use common::{
    Folder, convert, diskferry, guest_digest, have, kills, make_disk, noise, run, run_ok, s,
};

const MIB: u64 = 1 << 20;

/// Room that may be taken in the middle of it besides what the disk took: what moves is there twice, and tables.
const MORE: u64 = 12 * MIB;

const OPTIONS: [&str; 4] = ["--replace", "--in-place", "-o", "subformat=dynamic"];

fn arguments(vhd: &Path) -> Vec<&str> {
    [&["convert"], &OPTIONS[..], &[s(vhd)]].concat()
}

fn allocated(file: &Path) -> u64 {
    fs::metadata(file).expect("a file").blocks() * 512
}

/// A fixed VHD of the raw disk `raw`; what is a hole there is one here, too.
fn fixed(folder: &Folder, raw: &Path) -> PathBuf {
    let vhd = folder.file("web.vhd");
    convert(raw, &vhd, &["-o", "subformat=fixed"]);
    vhd
}

/// A disk of `size` bytes, by turns `full` MiB of data and `empty` MiB of stored zeros.
fn striped(folder: &Folder, size: u64, full: u64, empty: u64) -> PathBuf {
    let path = folder.file("disk.raw");
    let mut disk = noise(size, size as usize);
    for (at, piece) in (0..).zip(disk.chunks_mut(MIB as usize)) {
        if at % (full + empty) >= full {
            piece.fill(0);
        }
    }
    fs::write(&path, disk).expect("write");
    path
}

fn subformat(vhd: &Path) -> String {
    let info = run_ok(&["info", "--json", s(vhd)]).json();
    info["subformat"].as_str().expect("one").to_owned()
}

/// It is dynamic, has the id that it had, and holds what `raw` holds.
fn is_done(vhd: &Path, raw: &Path, id: &serde_json::Value) {
    assert_eq!(subformat(vhd), "dynamic");
    assert_eq!(guest_digest(vhd, &[]), guest_digest(raw, &["-f", "raw"]));
    let info = run_ok(&["info", "--json", s(vhd)]).json();
    assert_eq!(&info["identity"], id);
    run_ok(&["check", s(vhd)]);
}

fn id(vhd: &Path) -> serde_json::Value {
    run_ok(&["info", "--json", s(vhd)]).json()["identity"].clone()
}

#[test]
fn disks_of_any_size_become_dynamic() {
    let block = 2 * MIB;
    for size in [
        512,
        1024,
        block - 512,
        block,
        block + 512,
        5 * block,
        13 * block + 4096,
    ] {
        for (full, empty) in [(1000, 0), (0, 1), (2, 2), (3, 5), (5, 1)] {
            let folder = Folder::new();
            let raw = striped(&folder, size, full, empty);
            let vhd = fixed(&folder, &raw);
            let id = id(&vhd);
            run_ok(&arguments(&vhd));
            is_done(&vhd, &raw, &id);
            // As long as a dynamic disk that is written anew.
            let anew = folder.file("anew.vhd");
            convert(&raw, &anew, &[]);
            let lengths = [&vhd, &anew].map(|file| fs::metadata(file).expect("a file").len());
            assert_eq!(lengths[0], lengths[1], "{size}, {full}, {empty}");
            assert_eq!(folder.names(), ["anew.vhd", "disk.raw", "web.vhd"]);
        }
    }
}

#[test]
fn other_programs_read_the_result() {
    let folder = Folder::new();
    let sparse = folder.file("sparse.raw");
    make_disk(&sparse, 3 << 30);
    for raw in [
        striped(&folder, 200 * MIB, 180, 20),
        striped(&folder, 41 * MIB, 3, 4),
        sparse,
    ] {
        let vhd = fixed(&folder, &raw);
        let before = allocated(&vhd);
        let answer = run_ok(&[&arguments(&vhd)[..], &["--json"]].concat()).json();
        assert_eq!(answer["verified"], true);
        assert_eq!(
            answer["source"]["file_size"],
            raw.metadata().expect("a file").len() + 512
        );
        assert!(
            allocated(&vhd) <= before + MIB,
            "{} {before}",
            allocated(&vhd)
        );
        if have_qemu() {
            assert!(qemu_finds_equal("vhd", &vhd, "raw", &raw));
        }
        let size = raw.metadata().expect("a file").len();
        if have("7zz") {
            seven_zip_agrees("vhd", &vhd, &raw, size);
        }
        if let Some(readers) = Readers::find() {
            readers.agree(
                "libyal",
                "vhd",
                &vhd,
                &raw,
                &[(0, size.min(8 * MIB)), (size - 8 * MIB, 8 * MIB)],
            );
            readers.agree("dissect", "vhd", &vhd, &raw, &[(0, size.min(8 * MIB))]);
        }
        fs::remove_file(vhd).expect("remove");
    }
}

fn started(vhd: &Path) -> Child {
    diskferry()
        .args(arguments(vhd))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start")
}

/// Kills it after `wait`; whether it had ended by then.
fn killed(vhd: &Path, wait: Duration) -> bool {
    let mut child = started(vhd);
    std::thread::sleep(wait);
    let _ = child.kill();
    child.wait().expect("its end").success()
}

/// Copies with the holes.
fn copy(from: &Path, to: &Path) {
    common::tool("cp", &["--sparse=always", s(from), s(to)]);
}

#[test]
fn a_kill_at_any_point_loses_nothing() {
    let kills = kills(1, 60);
    let mut random = noise(23, 8 * kills + 8).into_iter();
    let mut random = move || u64::from(random.next().unwrap_or(7));
    let folder = Folder::new();
    let (mut done, mut half, mut round) = (0, 0, 0);
    while done < kills {
        // Small distances, where blocks are kept twice, and larger ones.
        let raw = match round % 3 {
            0 => striped(&folder, 24 * MIB, 24, 0),
            1 => striped(&folder, 31 * MIB + 512, 4, 3),
            _ => striped(&folder, 140 * MIB, 140, 0),
        };
        round += 1;
        let original = fixed(&folder, &raw);
        let (id, vhd) = (id(&original), folder.file("killed.vhd"));
        copy(&original, &vhd);
        let begun = Instant::now();
        run_ok(&arguments(&vhd));
        let whole = begun.elapsed();
        for _ in 0..7 {
            copy(&original, &vhd);
            let mut tries = 0;
            loop {
                let wait = whole * (random() * 256 + random()) as u32 / 65536;
                if tries == 4 || killed(&vhd, wait) {
                    break;
                }
                tries += 1;
                done += 1;
                let info = run(&["info", s(&vhd)]);
                assert!(matches!(info.code, Some(0 | 5)), "{}", info.stderr);
                if info.code == Some(5) {
                    half += 1;
                    assert!(
                        info.stderr.contains("run the same command again")
                            || info.stderr.contains("--in-place")
                    );
                }
            }
            run_ok(&arguments(&vhd));
            is_done(&vhd, &raw, &id);
        }
        for file in [vhd, original] {
            fs::remove_file(file).expect("remove");
        }
    }
    assert!(half > 0, "{half} of {done} were half converted");
    println!("{done} kills, {half} of them half way");
}

/// A file that is half converted, of a disk of noise.
fn half_converted(folder: &Folder) -> (PathBuf, PathBuf, serde_json::Value) {
    let raw = striped(folder, 140 * MIB, 130, 10);
    let original = fixed(folder, &raw);
    let (id, vhd) = (id(&original), folder.file("half.vhd"));
    for wait in (20..).step_by(20) {
        copy(&original, &vhd);
        killed(&vhd, Duration::from_millis(wait));
        match run(&["info", s(&vhd)]).code {
            Some(5) => break,
            _ => assert!(wait < 4000, "it cannot be stopped half way"),
        }
    }
    fs::remove_file(original).expect("remove");
    (raw, vhd, id)
}

#[test]
fn a_half_converted_file_is_refused_by_every_verb_and_gone_on_with() {
    let folder = Folder::new();
    let (raw, vhd, id) = half_converted(&folder);
    let (half, new) = (s(&vhd), folder.file("new.qcow2"));
    let before = snapshot(folder.path());
    for arguments in [
        &["info", half][..],
        &["map", half],
        &["check", half],
        &["check", "-f", "vhd", half],
        &["digest", half],
        &["compare", half, s(&raw)],
        &["measure", half, "-O", "qcow2"],
        &["convert", half, s(&new)],
        &["convert", half, s(&new), "--salvage"],
        &["convert", "-f", "vhd", half, s(&new)],
        &["convert", "--replace", half],
        &["resize", half, "+1G"],
    ] {
        let refused = run(arguments);
        assert_eq!(refused.code, Some(5), "{arguments:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("--in-place"), "{}", refused.stderr);
    }
    assert!(snapshot(folder.path()) == before);
    if have_qemu() {
        let info = common::peers::qemu_img(&["info", "-f", "vpc", half]);
        assert_ne!(info.0, Some(0), "{}", info.1);
    }
    // By any name it is known for what it is.
    let renamed = folder.file("disk.img");
    fs::rename(&vhd, &renamed).expect("rename");
    assert_eq!(run(&["info", s(&renamed)]).code, Some(5));
    run_ok(&arguments(&renamed));
    fs::rename(&renamed, &vhd).expect("rename");
    is_done(&vhd, &raw, &id);
    let again = run_ok(&arguments(&vhd));
    assert!(again.stderr.contains("dynamic already"), "{}", again.stderr);
}

#[test]
fn a_signal_stops_it_half_way_and_it_goes_on() {
    let folder = Folder::new();
    let raw = striped(&folder, 140 * MIB, 140, 0);
    let original = fixed(&folder, &raw);
    let (id, vhd) = (id(&original), folder.file("half.vhd"));
    for wait in (20..4000).step_by(20) {
        copy(&original, &vhd);
        let child = started(&vhd);
        std::thread::sleep(Duration::from_millis(wait));
        common::tool("kill", &["-s", "INT", &child.id().to_string()]);
        let code = child.wait_with_output().expect("its end").status.code();
        if run(&["info", s(&vhd)]).code == Some(5) {
            assert_eq!(code, Some(130));
            break;
        }
    }
    assert_eq!(run(&["info", s(&vhd)]).code, Some(5));
    run_ok(&arguments(&vhd));
    is_done(&vhd, &raw, &id);
}

#[test]
fn it_takes_little_more_room_than_the_disk_has() {
    for (size, full, empty) in [(200 * MIB, 200, 0), (150 * MIB, 4, 3)] {
        let folder = Folder::new();
        let raw = striped(&folder, size, full, empty);
        let vhd = folder.file("web.vhd");
        convert(&raw, &vhd, &["-o", "subformat=fixed", "-S", "0"]);
        let before = allocated(&vhd);
        let mut child = started(&vhd);
        let (mut most, mut looks) = (0, 0);
        while child.try_wait().expect("wait").is_none() {
            most = most.max(allocated(&vhd));
            looks += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(child.wait().expect("its end").success());
        assert!(most <= before + MORE, "{} KiB more", (most - before) >> 10);
        assert!(looks > 10);
        assert!(allocated(&vhd) <= before * full / (full + empty) + 4 * MIB);
    }
}

/// The file is refused, with this exit code, and nothing in its folder changed.
fn refused(folder: &Folder, vhd: &Path, options: &[&str], code: i32) -> String {
    let before = snapshot(folder.path());
    let finished = run(&[&["convert", "--replace", "--in-place", s(vhd)], options].concat());
    assert_eq!(
        finished.code,
        Some(code),
        "{options:?}: {}",
        finished.stderr
    );
    assert!(snapshot(folder.path()) == before, "something changed");
    finished.stderr
}

#[test]
fn anything_but_a_fixed_vhd_that_is_to_be_dynamic_is_a_usage_error() {
    let folder = Folder::new();
    let raw = striped(&folder, 4 * MIB, 1, 1);
    let vhd = fixed(&folder, &raw);
    let dynamic = ["-o", "subformat=dynamic"];
    let vhdx = folder.file("web.vhdx");
    convert(&raw, &vhdx, &["-o", "subformat=fixed"]);
    for (image, options) in [
        (&vhd, &[][..]),
        (&vhd, &["-o", "subformat=fixed"]),
        (&vhd, &["-o", "subformat=dynamic,block_size=512k"]),
        (&vhd, &["-O", "qcow2"]),
        (&vhd, &["-O", "vhdx", "-o", "subformat=dynamic"]),
        (&raw, &dynamic),
        (&vhdx, &dynamic),
    ] {
        let told = refused(&folder, image, options, 2);
        assert!(told.contains("fixed VHD"), "{told}");
    }
    for further in [
        "--keep-old",
        "--compress",
        "--force",
        "--salvage",
        "--digest=md5",
        "--cpus=2",
    ] {
        refused(&folder, &vhd, &[&dynamic[..], &[further]].concat(), 2);
    }
    assert_eq!(
        run(&["convert", "--in-place", s(&vhd), s(&folder.file("new.vhd"))]).code,
        Some(2)
    );
}

#[test]
fn what_others_stand_on_or_use_is_refused() {
    let folder = Folder::new();
    let raw = striped(&folder, 4 * MIB, 1, 1);
    let vhd = fixed(&folder, &raw);
    let dynamic = ["-o", "subformat=dynamic"];
    let child = folder.file("child.qcow2");
    convert(&raw, &child, &["-B", "web.vhd"]);
    let told = refused(&folder, &vhd, &dynamic, 5);
    assert!(told.contains("child.qcow2"), "{told}");
    fs::remove_file(child).expect("remove");
    let mut footer = fixed_footer(4 * MIB, 3);
    footer[84] = 1;
    let sum: u32 = footer
        .iter()
        .enumerate()
        .filter(|(at, _)| !(64..68).contains(at))
        .map(|(_, byte)| u32::from(*byte))
        .sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    let saved = folder.file("saved.vhd");
    fs::write(
        &saved,
        [fs::read(&raw).expect("read"), footer.to_vec()].concat(),
    )
    .expect("write");
    let told = refused(&folder, &saved, &dynamic, 5);
    assert!(told.contains("saved state"), "{told}");
    if have("python3") {
        let program = "import fcntl, subprocess, sys\n\
                       f = open(sys.argv[1], 'r+b')\n\
                       fcntl.lockf(f, fcntl.LOCK_SH, 1, 100)\n\
                       sys.exit(subprocess.run(sys.argv[2:]).returncode)\n";
        let mut line = vec!["-c", program, s(&vhd), env!("CARGO_BIN_EXE_diskferry")];
        line.extend(arguments(&vhd));
        let output = std::process::Command::new("python3")
            .args(line)
            .output()
            .expect("python3");
        assert_eq!(output.status.code(), Some(5));
    }
    assert_eq!(subformat(&vhd), "fixed");
}

#[test]
fn a_limit_on_the_length_of_files_leaves_the_fixed_disk() {
    let folder = Folder::new();
    let raw = striped(&folder, 4 * MIB, 3, 1);
    let vhd = fixed(&folder, &raw);
    let before = fs::read(&vhd).expect("read");
    // In blocks of 512 bytes: the footer ends there.
    let script = format!(
        "ulimit -f {}; exec \"$0\" \"$@\"",
        vhd.metadata().expect("a file").len() / 512
    );
    let mut line = vec!["-c", &script, env!("CARGO_BIN_EXE_diskferry")];
    line.extend(arguments(&vhd));
    let output = std::process::Command::new("bash")
        .args(line)
        .env("POSIXLY_CORRECT", "1")
        .output()
        .expect("bash");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(fs::read(&vhd).expect("read") == before, "{told}");
}

#[test]
fn bytes_behind_the_disk_and_links_are_no_matter() {
    let folder = Folder::new();
    let raw = striped(&folder, 6 * MIB, 2, 1);
    let vhd = folder.file("web.vhd");
    let footer = fixed_footer(6 * MIB, 3);
    let disk = fs::read(&raw).expect("read");
    fs::write(&vhd, [&disk[..], &[9; 70 * 512], &footer].concat()).expect("write");
    let (id, link) = (id(&vhd), folder.file("link.vhd"));
    std::os::unix::fs::symlink(&vhd, &link).expect("a link");
    run_ok(&arguments(&link));
    assert!(link.is_symlink());
    is_done(&vhd, &raw, &id);
}

#[test]
fn a_raw_disk_that_ends_like_a_half_converted_file_is_read_when_it_is_called_raw() {
    let folder = Folder::new();
    let raw = striped(&folder, MIB, 1, 0);
    let file = fs::File::options().write(true).open(&raw).expect("open");
    file.write_all_at(b"diskferry-half-converted", MIB - 512)
        .expect("write");
    assert_eq!(run(&["info", s(&raw)]).code, Some(5));
    run_ok(&["info", "-f", "raw", s(&raw)]);
    let forged = run(&arguments(&raw));
    assert_eq!(forged.code, Some(3), "{}", forged.stderr);
    assert_eq!(raw.metadata().expect("a file").len(), MIB);
}
