//! Block devices as sources and as targets, through loop devices. Needs root.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Folder, convert, guest_digest, have, make_disk, noise, patched, run, run_ok, s, sha256sum,
    skip, testdata, tool,
};

const MIB: usize = 1 << 20;

/// A loop device over a file, for as long as this lives.
struct Device {
    path: PathBuf,
    file: PathBuf,
}

impl Device {
    /// A device of `content`. If none can be made the calling test is counted as skipped.
    fn of(content: &[u8], folder: &Folder) -> Option<Device> {
        if !have("losetup") {
            return None;
        }
        let file = folder.file("device");
        std::fs::write(&file, content).expect("write");
        let output = Command::new("losetup")
            .args(["--find", "--show", s(&file)])
            .output()
            .expect("losetup");
        if !output.status.success() {
            skip(&format!(
                "needs a loop device: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
            return None;
        }
        let path = String::from_utf8_lossy(&output.stdout).trim().into();
        Some(Device { path, file })
    }

    /// What stands on the device. Writes to it have reached the file only after a flush.
    fn content(&self) -> Vec<u8> {
        tool("blockdev", &["--flushbufs", s(&self.path)]);
        std::fs::read(&self.file).expect("read")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.path)
            .status();
    }
}

/// `disk`, and after it what stood in `old`.
fn over(old: &[u8], disk: &Path) -> Vec<u8> {
    let mut expected = std::fs::read(disk).expect("read");
    expected.extend(&old[expected.len()..]);
    expected
}

#[test]
fn a_device_is_read_as_the_raw_disk_that_it_is() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 8 << 20);
    let Some(device) = Device::of(&std::fs::read(&raw).expect("read"), &folder) else {
        return;
    };
    assert_eq!(guest_digest(&device.path, &[]), (sha256sum(&raw), 8 << 20));
    for name in ["a.vhd", "a.qcow2", "a.raw"] {
        let target = folder.file(name);
        convert(&device.path, &target, &["--verify"]);
        assert_eq!(guest_digest(&target, &[]).0, sha256sum(&raw), "{name}");
        assert_eq!(run(&["compare", s(&device.path), s(&target)]).code, Some(0));
    }
    let map = run_ok(&["map", s(&device.path), "--json"]).json();
    assert_eq!(map["size"], 8 << 20);
}

#[test]
fn a_disk_fills_a_device_of_its_size() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 9 << 20);
    let image = folder.file("disk.qcow2");
    convert(&raw, &image, &[]);
    let old = noise(77, 9 * MIB);
    let Some(device) = Device::of(&old, &folder) else {
        return;
    };
    let answer = convert(&image, &device.path, &["-O", "raw", "--verify"]);
    assert_eq!(answer["verified"], true);
    // The zeros of the disk are zeros on the device, whatever stood there.
    assert!(device.content() == std::fs::read(&raw).expect("read"));
}

#[test]
fn the_rest_of_a_larger_device_is_left_alone_and_told() {
    for size in [6 << 20, (6 << 20) + 512, (6 << 20) + 1, 700] {
        let folder = Folder::new();
        let raw = folder.file("disk.raw");
        make_disk(&raw, size);
        let old = noise(78, 9 * MIB);
        let Some(device) = Device::of(&old, &folder) else {
            return;
        };
        let finished = run_ok(&["convert", s(&raw), s(&device.path), "-O", "raw", "--verify"]);
        let left = 9 * MIB as u64 - size;
        assert!(
            finished.stderr.contains(&format!("{left} bytes larger")),
            "{}",
            finished.stderr
        );
        assert!(device.content() == over(&old, &raw), "{size} bytes");
    }
}

#[test]
fn an_empty_disk_zeroes_what_it_covers() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    std::fs::File::create(&raw)
        .expect("create")
        .set_len(5 << 20)
        .expect("grow");
    let old = noise(79, 6 * MIB);
    let Some(device) = Device::of(&old, &folder) else {
        return;
    };
    convert(&raw, &device.path, &["-O", "raw", "--verify"]);
    assert!(device.content() == over(&old, &raw));
}

#[test]
fn a_device_that_is_too_small_is_not_touched() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, (4 << 20) + 512);
    let old = noise(80, 4 * MIB);
    let Some(device) = Device::of(&old, &folder) else {
        return;
    };
    for options in [&[][..], &["--force"], &["--verify"]] {
        let arguments = ["convert", s(&raw), s(&device.path), "-O", "raw"];
        let finished = run(&[&arguments, options].concat());
        assert_eq!(finished.code, Some(5), "{}", finished.stderr);
        assert!(finished.stderr.contains("too small"), "{}", finished.stderr);
        assert!(device.content() == old);
    }
}

#[test]
fn only_raw_goes_onto_a_device() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 1 << 20);
    let old = noise(81, 4 * MIB);
    let Some(device) = Device::of(&old, &folder) else {
        return;
    };
    for format in ["qcow2", "vhd"] {
        let finished = run(&["convert", s(&raw), s(&device.path), "-O", format]);
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(device.content() == old, "{format}");
    }
}

/// What is read from must never be written to, by whatever name.
#[test]
fn a_device_is_not_copied_onto_itself() {
    let folder = Folder::new();
    let old = noise(82, MIB);
    let Some(device) = Device::of(&old, &folder) else {
        return;
    };
    let link = folder.file("link");
    std::os::unix::fs::symlink(&device.path, &link).expect("link");
    let second = tool("losetup", &["--find", "--show", s(&device.file)]);
    let second = Device {
        path: second.trim().into(),
        file: device.file.clone(),
    };
    for target in [&device.path, &link, &second.path, &device.file] {
        let finished = run(&[
            "convert",
            s(&device.path),
            s(target),
            "-O",
            "raw",
            "--force",
        ]);
        assert_eq!(finished.code, Some(5), "{}", finished.stderr);
        assert!(device.content() == old);
    }
    let behind = run(&[
        "convert",
        s(&device.file),
        s(&device.path),
        "-O",
        "raw",
        "-f",
        "raw",
    ]);
    assert_eq!(behind.code, Some(5), "{}", behind.stderr);
    assert!(device.content() == old);
}

/// A source that turns out to be damaged halfway leaves a device that does not look like a disk.
#[test]
fn a_copy_that_broke_off_leaves_no_disk_at_the_front() {
    let folder = Folder::new();
    let image = folder.file("damaged.qcow2");
    // In the middle of a compressed cluster: this shows only when the cluster is unpacked.
    patched(
        &testdata("small.qcow2"),
        &image,
        &[(400_000, &[0xFF; 4096])],
    );
    let old = noise(83, 9 * MIB);
    let Some(device) = Device::of(&old, &folder) else {
        return;
    };
    let finished = run(&["convert", s(&image), s(&device.path), "-O", "raw"]);
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let content = device.content();
    assert!(
        content[..4096].iter().all(|byte| *byte == 0),
        "the front is cleared"
    );
    assert!(
        content[6 * MIB..] == old[6 * MIB..],
        "behind the disk nothing is touched"
    );
}

#[test]
fn a_disk_of_another_size_fills_a_device() {
    let folder = Folder::new();
    let raw = folder.file("disk.raw");
    make_disk(&raw, 8 << 20);
    let old = noise(4, 20 * MIB);
    let Some(device) = Device::of(&old, &folder) else {
        return;
    };
    let onto = |size| {
        let device = s(&device.path);
        run(&[
            "convert",
            s(&raw),
            device,
            "-O",
            "raw",
            "--verify",
            "--size",
            size,
        ])
    };
    assert_eq!(onto("+13M").code, Some(5));
    assert!(device.content() == old);
    assert_eq!(onto("+12M").code, Some(0));
    let mut expected = std::fs::read(&raw).expect("read");
    expected.resize(20 * MIB, 0);
    assert!(device.content() == expected);
}

#[test]
fn a_device_keeps_its_size_and_a_gpt_follows_it() {
    if !have("sfdisk") {
        return;
    }
    let folder = Folder::new();
    let small = folder.file("small");
    std::fs::write(&small, noise(4, 8 * MIB)).expect("write");
    let table = folder.file("table");
    std::fs::write(&table, "label: gpt\nstart=1MiB, size=3MiB\n").expect("write");
    let script = format!("sfdisk -q --wipe always {} < {}", s(&small), s(&table));
    tool("sh", &["-c", &script]);
    let mut content = std::fs::read(&small).expect("read");
    content.resize(12 * MIB, 0);
    let Some(device) = Device::of(&content, &folder) else {
        return;
    };
    let resize =
        |size, options: &[&str]| run(&[&["resize", s(&device.path), size], options].concat());
    for size in ["+1M", "20M"] {
        let refused = resize(size, &[]);
        assert_eq!(refused.code, Some(5), "{}", refused.text());
    }
    assert!(device.content() == content);
    let moved = resize("+0", &["--fix-gpt"]);
    assert_eq!(moved.code, Some(0), "{}", moved.text());
    let verified = tool("sfdisk", &["--verify", s(&device.path)]);
    assert!(verified.contains("No errors detected"), "{verified}");
    let after = device.content();
    assert_eq!(&after[12 * MIB - 512..][..8], b"EFI PART");
    // The old copy is gone, the rest is what it was.
    assert!(after[8 * MIB - 33 * 512..8 * MIB].iter().all(|b| *b == 0));
    assert!(after[2048..8 * MIB - 33 * 512] == content[2048..8 * MIB - 33 * 512]);
}

#[test]
fn an_image_that_fills_a_device_does_not_grow_out_of_it() {
    let folder = Folder::new();
    let (raw, image) = (folder.file("disk.raw"), folder.file("a.qcow2"));
    make_disk(&raw, 8 << 20);
    convert(&raw, &image, &[]);
    let mut content = std::fs::read(&image).expect("read");
    content.resize(content.len().next_multiple_of(512), 0);
    let Some(device) = Device::of(&content, &folder) else {
        return;
    };
    let arguments = ["resize", "-f", "qcow2", s(&device.path), "64T"];
    let refused = run(&arguments);
    assert_eq!(refused.code, Some(5), "{}", refused.text());
    assert!(device.content() == content);
}
