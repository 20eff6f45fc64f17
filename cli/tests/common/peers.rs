//! The programs that diskferry is held against, each as a judge of images.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Folder, convert, have, s, skip, tool};

/// Whether qemu-img and qemu-io are there; if not, the calling test is counted as skipped.
pub fn have_qemu() -> bool {
    have("qemu-img") && have("qemu-io")
}

/// Name that qemu has for a format.
pub fn qemu_name(format: &str) -> &str {
    match format {
        "vhd" => "vpc",
        other => other,
    }
}

/// Runs `qemu-img` and answers its exit code and what it printed.
pub fn qemu_img(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new("qemu-img")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("qemu-img");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Whether qemu sees the same disk in both. A longer one that goes on with zeros is the same to it.
pub fn qemu_finds_equal(format: &str, image: &Path, other_format: &str, other: &Path) -> bool {
    let names = [qemu_name(format), qemu_name(other_format)];
    let (code, text) = qemu_img(&[
        "compare",
        "-f",
        names[0],
        "-F",
        names[1],
        s(image),
        s(other),
    ]);
    match code {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("qemu-img compare {}: {text}", image.display()),
    }
}

/// `qemu-img check` finds neither errors nor leaks.
pub fn qemu_check(format: &str, image: &Path) {
    let (code, text) = qemu_img(&["check", "-f", format, s(image)]);
    assert_eq!(code, Some(0), "{}: {text}", image.display());
    assert!(text.contains("No errors were found"), "{text}");
}

/// Size in bytes of the disk that qemu sees.
pub fn qemu_size(format: &str, image: &Path) -> u64 {
    let text = tool(
        "qemu-img",
        &["info", "--output=json", "-f", qemu_name(format), s(image)],
    );
    let info: Value = serde_json::from_str(&text).expect("JSON");
    info["virtual-size"].as_u64().expect("a size")
}

/// What qemu reads in an image, as a raw file.
pub fn qemu_raw(format: &str, image: &Path, raw: &Path) {
    let name = qemu_name(format);
    tool(
        "qemu-img",
        &["convert", "-f", name, "-O", "raw", s(image), s(raw)],
    );
}

/// What qemu-img makes of `source` without complaint.
pub fn qemu_content(source: &Path, format: &str, folder: &Folder) -> Vec<u8> {
    let raw = folder.file("qemu.raw");
    qemu_raw(format, source, &raw);
    let content = std::fs::read(&raw).expect("read");
    std::fs::remove_file(raw).expect("remove");
    content
}

/// What diskferry makes of it.
pub fn diskferry_content(source: &Path, folder: &Folder) -> Vec<u8> {
    let raw = folder.file("diskferry.raw");
    convert(source, &raw, &[]);
    let content = std::fs::read(&raw).expect("read");
    std::fs::remove_file(raw).expect("remove");
    content
}

/// 7-Zip reads `raw` in the image, and after its end zeros up to `size` bytes.
pub fn seven_zip_agrees(format: &str, image: &Path, raw: &Path, size: u64) {
    let kind = match format {
        "vhd" => "-tVHD",
        "vhdx" => "-tVHDX",
        "vmdk" => "-tVMDK",
        "vdi" => "-tVDI",
        _ => "-tQCOW",
    };
    let mut child = Command::new("7zz")
        .args(["e", "-so", "-bd", kind, s(image)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("7zz");
    let stream = child.stdout.take().expect("its output");
    let read = same_bytes(stream, File::open(raw).expect("open the raw disk"));
    let output = child.wait_with_output().expect("7zz");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "7zz {}: {told}", image.display());
    assert_eq!(read, Ok(size), "7zz {}", image.display());
}

/// Length of `stream` if it starts with the bytes of `expected` and goes on with zeros, or where it differs.
pub fn same_bytes(mut stream: impl Read, expected: File) -> Result<u64, u64> {
    let mut expected = BufReader::with_capacity(1 << 20, expected);
    let (mut got, mut want) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    let mut difference = None;
    loop {
        // Read to the end in any case: a program whose reader goes away complains.
        let len = stream.read(&mut got).expect("read the stream");
        if len == 0 {
            break;
        }
        if difference.is_none() {
            let known = read_up_to(&mut expected, &mut want[..len]);
            want[known..len].fill(0);
            if got[..len] != want[..len] {
                difference = Some(at);
            }
        }
        at += len as u64;
    }
    let left = read_up_to(&mut expected, &mut want);
    match difference {
        None if left == 0 => Ok(at),
        None => Err(at),
        Some(at) => Err(at),
    }
}

fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).expect("read") {
            0 => break,
            len => filled += len,
        }
    }
    filled
}

/// The Python in which the libyal and dissect modules are installed (`DISKFERRY_READERS` names its environment).
pub struct Readers(PathBuf);

impl Readers {
    /// Finds it; if it is not there the calling test is counted as skipped.
    pub fn find() -> Option<Readers> {
        let folder = std::env::var_os("DISKFERRY_READERS").map(PathBuf::from);
        let python = folder.map(|folder| folder.join("bin/python"));
        match python {
            Some(python) if python.exists() => Some(Readers(python)),
            _ => {
                skip("needs DISKFERRY_READERS, an environment with the libyal and dissect modules");
                None
            }
        }
    }

    /// Size and SHA-256 that `reader` (libyal, dissect, file) finds in an image, or in some ranges of it.
    pub fn read(
        &self,
        reader: &str,
        format: &str,
        image: &Path,
        ranges: &[(u64, u64)],
    ) -> (u64, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers.py");
        let mut arguments: Vec<String> = [s(&script), reader, format, s(image)]
            .map(str::to_owned)
            .to_vec();
        arguments.extend(ranges.iter().map(|(at, len)| format!("{at}:{len}")));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let text = tool(s(&self.0), &arguments);
        let (size, digest) = text.trim().split_once(' ').expect("two words");
        (size.parse().expect("a size"), digest.to_owned())
    }

    /// `reader` finds `size` bytes in the image, and in `ranges` the same as in `raw`.
    pub fn agree(
        &self,
        reader: &str,
        format: &str,
        image: &Path,
        raw: &Path,
        ranges: &[(u64, u64)],
    ) {
        let (size, digest) = self.read(reader, format, image, ranges);
        let expected = self.read("file", "raw", raw, ranges);
        // The raw disk has whole sectors wherever this is asked.
        assert_eq!(
            (size, digest),
            expected,
            "{reader} reads {} otherwise",
            image.display()
        );
    }
}
