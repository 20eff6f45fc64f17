//! `--fix-gpt` and `--size`: disks with a GPT that become larger and smaller, with sfdisk as a judge of the table.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Folder, convert, guest_digest, have, noise, run, run_ok, s};

const MIB: u64 = 1 << 20;

/// Runs sfdisk on `disk` with `script`; what it says.
fn sfdisk(disk: &Path, arguments: &[&str], script: &str) -> String {
    use std::io::Write;
    let mut child = Command::new("sfdisk")
        .args(arguments)
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sfdisk");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(script.as_bytes()).expect("a script");
    drop(input);
    let output = child.wait_with_output().expect("sfdisk");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success());
    String::from_utf8_lossy(&text).into_owned()
}

/// A disk of 16 MiB with a GPT and a partition from 1 to 9 MiB.
fn disk(folder: &Folder) -> Option<PathBuf> {
    if !have("sfdisk") {
        return None;
    }
    let path = folder.file("disk.raw");
    let mut bytes = vec![0; 16 * MIB as usize];
    bytes[2 * MIB as usize..][..50_000].copy_from_slice(&noise(3, 50_000));
    std::fs::write(&path, bytes).expect("write");
    sfdisk(&path, &["-q"], "label: gpt\nstart=1MiB, size=8MiB\n");
    Some(path)
}

/// sfdisk finds nothing to complain of, and the table ends where a disk of `size` bytes does.
fn is_right(raw: &Path, size: u64) {
    assert_eq!(raw.metadata().expect("a file").len(), size);
    let said = sfdisk(raw, &["--verify"], "");
    assert!(said.contains("No errors detected"), "{said}");
    let dump = sfdisk(raw, &["--dump"], "");
    let last = format!("last-lba: {}", size / 512 - 34);
    assert!(dump.contains(&last), "{dump}");
    assert!(
        dump.contains("start=        2048, size=       16384"),
        "{dump}"
    );
    // The copy alone suffices.
    let mut bytes = std::fs::read(raw).expect("read");
    assert_eq!(&bytes[size as usize - 512..][..8], b"EFI PART");
    bytes[512..1024].fill(0);
    let broken = raw.with_extension("broken");
    std::fs::write(&broken, bytes).expect("write");
    let dump = sfdisk(&broken, &["--dump"], "");
    assert!(dump.contains("size=       16384"), "{dump}");
    std::fs::remove_file(broken).expect("remove");
}

#[test]
fn a_gpt_follows_the_end_of_a_disk_in_every_format() {
    let folder = Folder::new();
    let Some(raw) = disk(&folder) else { return };
    for (name, options) in [
        ("a.raw", &[][..]),
        ("a.vhd", &["-o", "subformat=fixed"]),
        ("b.vhd", &[]),
        ("a.qcow2", &["-o", "cluster_size=4k"]),
        ("b.qcow2", &["-o", "extended_l2=on"]),
        ("a.vhdx", &[]),
        ("b.vhdx", &["-o", "subformat=fixed"]),
        ("a.vdi", &[]),
        ("a.vmdk", &[]),
        ("b.vmdk", &["-o", "subformat=monolithicFlat"]),
    ] {
        let image = folder.file(name);
        convert(&raw, &image, &[options, &["-f", "raw"]].concat());
        let told = run_ok(&["resize", s(&image), "20M"]);
        assert!(told.stderr.contains("--fix-gpt"), "{name}: {}", told.stderr);
        for size in ["+0", "300M", "10M"] {
            let done = run_ok(&["resize", s(&image), size, "--shrink", "--fix-gpt"]);
            assert!(
                done.stderr.contains("was moved"),
                "{name} {size}: {}",
                done.stderr
            );
            run_ok(&["check", s(&image)]);
            let back = folder.file("back.raw");
            convert(&image, &back, &["--force"]);
            let size = match size {
                "+0" => 20 * MIB,
                "300M" => 300 * MIB,
                _ => 10 * MIB,
            };
            is_right(&back, size);
        }
        let again = run_ok(&["resize", s(&image), "10M", "--fix-gpt"]);
        assert!(!again.stderr.contains("was moved"), "{}", again.stderr);
        for format in [&image, &folder.file("back.raw")] {
            if format.exists() {
                std::fs::remove_file(format).expect("remove");
            }
        }
    }
}

#[test]
fn a_gpt_keeps_a_disk_from_becoming_smaller() {
    let folder = Folder::new();
    let Some(raw) = disk(&folder) else { return };
    let before = std::fs::read(&raw).expect("read");
    let refused = run(&["resize", s(&raw), "10M", "--shrink"]);
    assert_eq!(refused.code, Some(5), "{}", refused.text());
    assert!(
        refused.stderr.contains("the copy of the GPT"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("--fix-gpt"), "{}", refused.stderr);
    // The partition ends at 9 MiB: there is no room for the copy.
    for size in ["9M", "8M"] {
        let refused = run(&["resize", s(&raw), size, "--shrink", "--fix-gpt"]);
        assert_eq!(refused.code, Some(5), "{}", refused.text());
        assert!(
            refused.stderr.contains("partition 1 of the GPT"),
            "{}",
            refused.stderr
        );
    }
    assert!(std::fs::read(&raw).expect("read") == before);
}

#[test]
fn a_copy_can_be_larger_or_smaller() {
    let folder = Folder::new();
    let Some(raw) = disk(&folder) else { return };
    for (name, size, bytes) in [
        ("a.qcow2", "+100M", 116 * MIB),
        ("a.vhd", "20M", 20 * MIB),
        ("a.vmdk", "10M", 10 * MIB),
    ] {
        let image = folder.file(name);
        let options = ["--size", size, "--shrink", "--fix-gpt", "--verify"];
        let answer = convert(&raw, &image, &options);
        assert_eq!(answer["verified"], true);
        let back = folder.file("back.raw");
        convert(&image, &back, &["--force"]);
        is_right(&back, bytes);
    }
    // Without moving the table the rest is what it was, and zeros.
    let image = folder.file("b.qcow2");
    let told = run_ok(&["convert", s(&raw), s(&image), "--size", "1G"]);
    assert!(told.stderr.contains("--fix-gpt"), "{}", told.stderr);
    let larger = folder.file("larger.raw");
    std::fs::copy(&raw, &larger).expect("copy");
    let file = std::fs::OpenOptions::new().write(true).open(&larger);
    file.expect("open").set_len(1 << 30).expect("its length");
    assert_eq!(guest_digest(&image, &[]), guest_digest(&larger, &[]));
    let target = folder.file("c.qcow2");
    for (options, code) in [
        (&["--size", "10M"][..], 5),
        (&["--size", "10M", "--shrink"], 5),
        (&["--shrink"], 2),
        (&["--size", "1G", "-O", "ova"], 2),
        (&["--size", "x"], 2),
    ] {
        let refused = run(&[&["convert", s(&raw), s(&target)], options].concat());
        assert_eq!(refused.code, Some(code), "{}", refused.text());
        assert!(!target.exists());
    }
}

#[test]
fn a_disk_out_of_a_package_can_be_larger() {
    let folder = Folder::new();
    let Some(raw) = disk(&folder) else { return };
    let (package, image) = (folder.file("a.ova"), folder.file("a.qcow2"));
    run_ok(&["convert", s(&raw), s(&package)]);
    let answer = convert(&package, &image, &["--size", "+84M", "--fix-gpt"]);
    assert!(answer["error"].is_null());
    let back = folder.file("back.raw");
    convert(&image, &back, &[]);
    is_right(&back, 100 * MIB);
}

#[test]
fn a_copy_that_a_crash_left_behind_does_not_keep_a_disk_large() {
    let folder = Folder::new();
    let Some(raw) = disk(&folder) else { return };
    let before = std::fs::read(&raw).expect("read");
    let small = folder.file("small.raw");
    let options = ["--size", "10M", "--shrink", "--fix-gpt"];
    convert(&raw, &small, &options);
    // The table is moved, the old copy and the old size are there.
    let mut between = std::fs::read(&small).expect("read");
    between.extend(&before[between.len()..]);
    std::fs::write(&raw, &between).expect("write");
    let refused = run(&["resize", s(&raw), "10M", "--shrink"]);
    assert_eq!(refused.code, Some(5), "{}", refused.text());
    assert!(refused.stderr.contains("--fix-gpt"), "{}", refused.stderr);
    run_ok(&["resize", s(&raw), "10M", "--shrink", "--fix-gpt"]);
    is_right(&raw, 10 * MIB);
    // Anything else there does.
    let place = between.len() - 600;
    between[place] ^= 1;
    std::fs::write(&raw, &between).expect("write");
    let refused = run(&["resize", s(&raw), "10M", "--shrink", "--fix-gpt"]);
    assert_eq!(refused.code, Some(5), "{}", refused.text());
    assert!(
        refused.stderr.contains("data from byte"),
        "{}",
        refused.stderr
    );
}
