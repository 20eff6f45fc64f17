//! Full and read-only file systems: exit code 4, and nothing left behind. In a mount namespace of their own, so that the
//! file systems vanish with the test.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{Folder, noise, s, skip};

/// Runs `script` where a tmpfs can be mounted; `None`, counted as skipped, where that is not possible. In it `$D` is
/// diskferry, `$F` the folder, `$M` an empty folder to mount on.
fn in_namespace(folder: &Folder, script: &str) -> Option<Output> {
    let mount_point = folder.file("mnt");
    fs::create_dir_all(&mount_point).expect("a folder");
    let unshared = |kinds: &[&str], script: &str| {
        Command::new("unshare")
            .args(kinds)
            .args(["sh", "-euc", script])
            .env("D", env!("CARGO_BIN_EXE_diskferry"))
            .env("F", folder.path())
            .env("M", &mount_point)
            .output()
    };
    // As anybody, or where that is not allowed, as root.
    let ways = [&["--user", "--map-root-user", "--mount"][..], &["--mount"]];
    let possible = ways.into_iter().find(|kinds| {
        unshared(kinds, "mount -t tmpfs -o size=1m tmpfs \"$M\"")
            .is_ok_and(|output| output.status.success())
    });
    let Some(kinds) = possible else {
        skip("needs user and mount namespaces");
        return None;
    };
    Some(unshared(kinds, script).expect("unshare"))
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// 24 MiB of noise.
fn big_disk(folder: &Path) {
    fs::write(folder.join("disk.raw"), noise(1, 24 << 20)).expect("write");
}

#[test]
fn a_full_disk_is_an_io_error_and_nothing_is_left() {
    let folder = Folder::new();
    big_disk(folder.path());
    for options in [
        "-O raw",
        "-O raw -S 0",
        "-O vhd",
        "-O vhd -o subformat=fixed",
        "-O qcow2",
        "-O qcow2 --verify",
    ] {
        let script = format!(
            "mount -t tmpfs -o size=8m tmpfs \"$M\"; code=0
             \"$D\" convert \"$F/disk.raw\" \"$M/new\" {options} --json || code=$?
             ls -A \"$M\"; df --output=used \"$M\" | tail -n 1 >&2; exit $code"
        );
        let Some(output) = in_namespace(&folder, &script) else {
            return;
        };
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(4), "{options}: {shown}");
        let error = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            error.contains("\"kind\":\"io\"") || error.contains("\"kind\": \"io\""),
            "{options}: {shown}"
        );
        assert!(
            !error.contains("\nnew") && !error.contains("\n."),
            "{options}: {shown}"
        );
        assert!(
            error.trim_end().ends_with('}'),
            "something was left: {shown}"
        );
    }
}

#[test]
fn a_full_disk_leaves_the_file_that_was_to_be_replaced() {
    let folder = Folder::new();
    big_disk(folder.path());
    let script = "mount -t tmpfs -o size=8m tmpfs \"$M\"; echo old > \"$M/new\"; code=0
                  \"$D\" convert \"$F/disk.raw\" \"$M/new\" -O qcow2 --force || code=$?
                  cat \"$M/new\"; ls -A \"$M\"; exit $code";
    let Some(output) = in_namespace(&folder, script) else {
        return;
    };
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "old\nnew\n");
}

#[test]
fn a_read_only_folder_is_an_io_error() {
    let folder = Folder::new();
    big_disk(folder.path());
    let script = "mount -t tmpfs -o size=64m,ro tmpfs \"$M\"; code=0
                  \"$D\" convert \"$F/disk.raw\" \"$M/new\" -O qcow2 || code=$?
                  ls -A \"$M\"; exit $code";
    let Some(output) = in_namespace(&folder, script) else {
        return;
    };
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(output.stdout.is_empty(), "{}", text(&output));
    assert!(s(folder.path()).starts_with('/'));
}

#[test]
fn a_full_disk_leaves_the_image_that_was_to_be_replaced() {
    let folder = Folder::new();
    let script = "mount -t tmpfs -o size=40m tmpfs \"$M\"; code=0
         \"$D\" convert \"$F/disk.raw\" \"$M/web.vhd\" -O vhd -o subformat=fixed >/dev/null
         before=$(sha256sum <\"$M/web.vhd\")
         \"$D\" convert --replace \"$M/web.vhd\" -o subformat=dynamic --json || code=$?
         [ \"$before\" = \"$(sha256sum <\"$M/web.vhd\")\" ]; ls -A \"$M\"; exit $code";
    big_disk(folder.path());
    let Some(output) = in_namespace(&folder, script) else {
        return;
    };
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(4), "{shown}");
    let last = shown.lines().rfind(|line| line.ends_with(".vhd"));
    assert_eq!(last, Some("web.vhd"), "{shown}");
}

#[test]
fn a_delta_that_did_not_fit_is_applied_when_there_is_room() {
    let folder = Folder::new();
    big_disk(folder.path());
    fs::write(folder.file("other.raw"), noise(2, 24 << 20)).expect("write");
    for format in ["qcow2", "vhd", "vhdx", "raw"] {
        let script = format!(
            "mount -t tmpfs -o size=40m tmpfs \"$M\"; code=0
             truncate -s 24M \"$F/empty.raw\"
             \"$D\" convert \"$F/empty.raw\" \"$M/base.vhdx\" >/dev/null
             \"$D\" convert \"$M/base.vhdx\" \"$M/copy.{format}\" --receipt >/dev/null
             \"$D\" convert \"$F/disk.raw\" \"$M/child.vhdx\" -B base.vhdx >/dev/null
             head -c 8000000 /dev/urandom >\"$M/ballast\"
             \"$D\" apply \"$M/child.vhdx\" \"$M/copy.{format}\" --json || code=$?
             [ $code = 4 ]; code=0
             \"$D\" info \"$M/copy.{format}\" || code=$?
             [ $code = 5 ]
             mount -o remount,size=80m \"$M\"
             \"$D\" apply \"$M/child.vhdx\" \"$M/copy.{format}\"
             \"$D\" compare \"$M/copy.{format}\" \"$F/disk.raw\""
        );
        let Some(output) = in_namespace(&folder, &script) else {
            return;
        };
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(0), "{format}: {shown}");
    }
}

#[test]
fn a_volume_without_room_for_both_takes_a_conversion_in_place_and_survives_being_full() {
    let folder = Folder::new();
    big_disk(folder.path());
    let in_place = "convert --replace --in-place \"$M/web.vhd\" -o subformat=dynamic";
    let prepare = "mount -t tmpfs -o size=26m tmpfs \"$M\"
                   \"$D\" convert \"$F/disk.raw\" \"$M/web.vhd\" -o subformat=fixed >&2
                   same() { \"$D\" compare \"$M/web.vhd\" \"$F/disk.raw\" >&2; }";
    // Not even room for a few blocks.
    let script = format!(
        "{prepare}; code=0; \"$D\" {in_place} || code=$?
         \"$D\" info \"$M/web.vhd\" | grep -q fixed; same; exit $code"
    );
    let Some(output) = in_namespace(&folder, &script) else {
        return;
    };
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    // Room for these, and not for both.
    let script = format!(
        "{prepare}; mount -o remount,size=38m \"$M\"
         if \"$D\" convert --replace \"$M/web.vhd\" -o subformat=dynamic; then exit 9; fi
         \"$D\" {in_place}; \"$D\" info \"$M/web.vhd\" | grep -q dynamic; same"
    );
    let output = in_namespace(&folder, &script).expect("a namespace");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    // It fills up meanwhile: somebody else writes whatever room there is.
    let script = format!(
        "{prepare}; mount -o remount,size=38m \"$M\"; full=0
         for wait in 0.01 0.02 0.03 0.05 0.08 0.1 0.15 0.2; do
           \"$D\" {in_place} >&2 & child=$!; sleep $wait
           dd if=/dev/zero of=\"$M/filler\" bs=64k 2>/dev/null || :
           code=0; wait $child || code=$?
           if [ $code = 4 ]; then full=$((full + 1)); fi
           rm \"$M/filler\"
         done
         \"$D\" {in_place}; same; [ $full -gt 0 ]"
    );
    let output = in_namespace(&folder, &script).expect("a namespace");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}
