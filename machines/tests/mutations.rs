//! Descriptions with bytes changed, cut out and doubled: whatever comes, an answer comes, and soon.

mod common;

use std::time::{Duration, Instant};

use machines::certificate::Certificate;
use machines::manifest::Manifest;
use machines::profiles::PROFILES;
use machines::{ovf, toml_file, vmx, xva};

use common::full_machine;
use common::rewrite::{descriptor, write_all};

/// Mutants of each text. `DISKFERRY_MUTANTS` asks for more.
fn rounds() -> u64 {
    let asked = std::env::var("DISKFERRY_MUTANTS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(3000)
}

/// What one mutant may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// xorshift64*: the same mutants in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        (value % end.max(1) as u64) as usize
    }
}

/// Words that mean something somewhere.
const WORDS: &[&[u8]] = &[
    b"-1",
    b"0",
    b"18446744073709551615",
    b"99999999999999999999",
    b"\"",
    b"<",
    b">",
    b"</",
    b"&",
    b"&#0;",
    b"&lt;",
    b"]]>",
    b"<![CDATA[",
    b"<!--",
    b"<!DOCTYPE a>",
    b"xmlns=''",
    b"ovf:",
    b"${a}",
    b"byte * 2^64",
    b"|",
    b"|00",
    b"=",
    b"../",
    b"\0",
    b"\xff\xfe",
    b"\xc3\x28",
    b"Ref:000001",
    b"[[",
];

fn mutant(text: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let end = (at + random.below(60)).min(bytes.len());
        match random.below(6) {
            0 => {
                bytes.drain(at..end);
            }
            1 => {
                let part = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
            2 => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            3 => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(at..end, word.iter().copied());
            }
            4 => bytes.truncate(at.max(1)),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    bytes
}

/// Reads `rounds()` mutants of `text`; what is read has to be writable, or refused.
fn try_all(text: &[u8], read: impl Fn(&[u8])) {
    let mut random = Random(0x5eed_d15c);
    read(text);
    for _ in 0..rounds() {
        let bytes = mutant(text, &mut random);
        let start = Instant::now();
        read(&bytes);
        let taken = start.elapsed();
        assert!(
            taken < PATIENCE,
            "{taken:?}: {}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

#[test]
fn mutated_descriptors_get_an_answer() {
    let text = descriptor(&full_machine(), &PROFILES[1]).expect("a descriptor");
    try_all(text.as_bytes(), |bytes| {
        if let Ok(package) = ovf::read(bytes) {
            package.machines.iter().for_each(write_all);
        }
    });
}

#[test]
fn mutated_exports_get_an_answer() {
    let text = xva::write(&[full_machine()], b"")
        .expect("an export")
        .written
        .text;
    try_all(text.as_bytes(), |bytes| {
        if let Ok(appliance) = xva::read(bytes) {
            appliance.package.machines.iter().for_each(write_all);
        }
    });
}

#[test]
fn mutated_vmx_files_get_an_answer() {
    let text = vmx::write(&full_machine()).expect("a VMX").text;
    try_all(text.as_bytes(), |bytes| {
        if let Ok(package) = vmx::read(bytes) {
            package.machines.iter().for_each(write_all);
        }
    });
}

#[test]
fn mutated_toml_gets_an_answer() {
    let text = toml_file::write(&full_machine()).expect("TOML");
    try_all(text.as_bytes(), |bytes| {
        if let Ok(machine) = toml_file::read(bytes) {
            write_all(&machine);
        }
    });
}

#[test]
fn mutated_manifests_and_certificates_get_an_answer() {
    let cert = include_bytes!("../src/certificate/rsa.cert");
    try_all(cert, |bytes| {
        if let Ok(certificate) = Certificate::parse(bytes) {
            let _ = certificate.verify(b"another manifest");
        }
    });
    let manifest = format!(
        "SHA1(a.ovf)= {}\nSHA256(b c (1).vmdk)= {}\n",
        "0".repeat(40),
        "a".repeat(64)
    );
    try_all(manifest.as_bytes(), |bytes| {
        if let Ok(manifest) = Manifest::parse(bytes) {
            let again = Manifest::parse(manifest.to_text().as_bytes()).expect("a manifest");
            assert_eq!(again.entries, manifest.entries);
        }
    });
}
