//! What the tests of the command share: running it, running the programs it is held against, making disks.

// Each test file is a program of its own and uses a part of this.
#![allow(dead_code)]

pub mod applying;
pub mod boot;
pub mod checks;
pub mod cost;
pub mod damage;
pub mod machines;
pub mod packages;
pub mod peers;
pub mod skip;
pub mod tools;
pub mod vhd;
pub mod vmdk;
pub mod vsphere_checker;
pub mod xapi_reader;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub use skip::skip;

/// A folder that goes away with the test.
#[derive(Debug)]
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of `name` in this folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names of everything in it, hidden files included.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.path())
            .expect("list the folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

/// A folder with these files.
pub fn folder_of(files: &[(&str, Vec<u8>)]) -> Folder {
    let folder = Folder::new();
    for (name, bytes) in files {
        std::fs::write(folder.file(name), bytes).expect("write");
    }
    folder
}

/// The command under test.
pub fn diskferry() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskferry"));
    command.env_remove("SOURCE_DATE_EPOCH").stdin(Stdio::null());
    command
}

/// What a finished command left.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    fn from(output: Output) -> Finished {
        Finished {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|e| panic!("no JSON: {e}\n{}\n{}", self.text(), self.stderr))
    }

    /// Kind of the error in the JSON answer.
    pub fn error_kind(&self) -> String {
        self.json()["error"]["kind"]
            .as_str()
            .unwrap_or_else(|| panic!("no error kind in {}", self.text()))
            .to_owned()
    }
}

/// Runs diskferry with `arguments` and waits for it.
pub fn run<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Finished {
    Finished::from(
        diskferry()
            .args(arguments)
            .output()
            .expect("start diskferry"),
    )
}

/// As [`run`], and it must succeed.
pub fn run_ok<S: AsRef<std::ffi::OsStr> + std::fmt::Debug>(arguments: &[S]) -> Finished {
    let finished = run(arguments);
    assert_eq!(
        finished.code,
        Some(0),
        "diskferry {arguments:?}: {}",
        finished.stderr
    );
    finished
}

/// Path as text.
pub fn s(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Converts with JSON and further `options`; it must succeed.
pub fn convert(source: &Path, target: &Path, options: &[&str]) -> Value {
    let mut arguments = vec!["convert", s(source), s(target), "--json"];
    arguments.extend(options);
    run_ok(&arguments).json()
}

/// SHA-256 of the guest content of an image, and its size.
pub fn guest_digest(image: &Path, options: &[&str]) -> (String, u64) {
    let mut arguments = vec!["digest", s(image), "-a", "sha256", "--json"];
    arguments.extend(options);
    let answer = run_ok(&arguments).json();
    (
        answer["digest"].as_str().expect("a digest").to_owned(),
        answer["size"].as_u64().expect("a size"),
    )
}

/// SHA-256 of the bytes of a file, by another program.
pub fn sha256sum(file: &Path) -> String {
    let output = Command::new("sha256sum")
        .arg(file)
        .output()
        .expect("sha256sum");
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

/// Whether `program` can be run. If not, the calling test is counted as skipped, or fails where none may be.
pub fn have(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|o| o.status.success());
    if !found {
        skip(&format!("needs {program}"));
    }
    found
}

/// Runs another program; it must succeed.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Bytes that look random and are the same on every machine.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*, by G. Marsaglia and S. Vigna.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Makes a sparse raw disk of `size` bytes with awkward content: noise at the beginning, across the borders of
/// clusters, blocks and segments, runs of ones, single bytes, zeros that are written, and noise at the very end.
pub fn make_disk(path: &Path, size: u64) {
    let file = File::create(path).expect("create a disk");
    file.set_len(size).expect("its length");
    let put = |bytes: &[u8], offset: u64| {
        if offset < size {
            let len = bytes.len().min((size - offset) as usize);
            file.write_all_at(&bytes[..len], offset).expect("write");
        }
    };
    put(&noise(1, 70_000), 0);
    put(&[0xFF; 300_000], 400_000);
    put(&[0; 200_000], 1 << 20);
    put(&noise(2, 10_000), (2 << 20) - 5_000);
    put(&[1], (4 << 20) - 1);
    put(&noise(3, 3 << 20), (5 << 20) + 512);
    put(&noise(4, 100_000), 600 << 20);
    put(&noise(5, 5_000), (4 << 30) - 2_500);
    put(&noise(6, 9_000), 130 << 30);
    put(&noise(7, 700), size.saturating_sub(700));
}

/// Writes `bytes` into a copy of `original` at `offset`, and answers the copy.
pub fn patched(original: &Path, copy: &Path, patches: &[(u64, &[u8])]) {
    std::fs::copy(original, copy).expect("copy");
    let file = OpenOptions::new().write(true).open(copy).expect("open");
    for (offset, bytes) in patches {
        file.write_all_at(bytes, *offset).expect("patch");
    }
}

/// How often a test kills what it runs in each of `kinds` ways: `usual` times, or as often as `DISKFERRY_KILLS=200` has it,
/// all ways together.
pub fn kills(kinds: usize, usual: usize) -> usize {
    let wanted = std::env::var("DISKFERRY_KILLS").ok();
    let wanted: Option<usize> = wanted.and_then(|text| text.parse().ok());
    wanted.map_or(usual, |all| all.div_ceil(kinds).max(1))
}

/// A file of the project's `testdata`.
pub fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata")
        .join(name)
}
