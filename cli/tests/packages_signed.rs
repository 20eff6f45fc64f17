//! Certificates of packages: what is signed, what is verified, and what is told of it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::damage::fails_to;
use common::packages::{Member, Members, Package, disks, tar_of};
use common::{Folder, guest_digest, noise, run, run_ok, s};
use serde_json::Value;

const RSA_KEY: &str = include_str!("../../machines/src/certificate/rsa.key");
const RSA_CERT: &str = include_str!("../../machines/src/certificate/rsa.cert");
const EXPIRED: &str = include_str!("../../machines/src/certificate/expired.pem");
const CHAIN_KEY: &str = include_str!("../../machines/src/certificate/chain.key");
const CHAIN: &str = include_str!("../../machines/src/certificate/chain.pem");
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// A disk, a key and a certificate in a folder.
struct Signing {
    folder: Folder,
    disk: PathBuf,
    key: PathBuf,
    certificate: PathBuf,
}

impl Signing {
    fn new(key: &str, certificate: &str) -> Signing {
        let folder = Folder::new();
        let made = Signing {
            disk: folder.file("web.raw"),
            key: folder.file("key.pem"),
            certificate: folder.file("cert.pem"),
            folder,
        };
        fs::write(&made.disk, noise(7, 1 << 20)).expect("write");
        fs::write(&made.key, key).expect("write");
        fs::write(&made.certificate, certificate).expect("write");
        made
    }

    fn options(&self) -> [&str; 4] {
        ["--sign", s(&self.key), "--cert", s(&self.certificate)]
    }

    /// An OVA, and a descriptor with its files beside it.
    fn both(&self) -> [PathBuf; 2] {
        let targets = [self.folder.file("web.ova"), self.folder.file("out/web.ovf")];
        fs::create_dir(self.folder.file("out")).expect("a folder");
        for target in &targets {
            run_ok(&[&["convert", s(&self.disk), s(target)], &self.options()[..]].concat());
        }
        targets
    }

    /// The members of a signed package; the certificate is the third.
    fn members(&self) -> Members {
        self.both();
        let names = ["web.ovf", "web.mf", "web.cert", "web-disk1.vmdk"];
        let read = |name: &str| fs::read(self.folder.file("out").join(name)).expect("a file");
        names.map(|name| (name.to_owned(), read(name))).to_vec()
    }
}

fn rsa() -> Signing {
    Signing::new(RSA_KEY, &RSA_CERT[RSA_CERT.find(BEGIN).expect("PEM")..])
}

fn ova(folder: &Folder, members: &[Member]) -> PathBuf {
    let path = folder.file("odd.ova");
    fs::write(&path, tar_of(members)).expect("write");
    path
}

fn answer(verb: &str, package: &Path) -> (Option<i32>, Value) {
    let finished = run(&[verb, "--json", s(package)]);
    (finished.code, finished.json())
}

/// Whether one of the texts in the list `list` has all these words.
fn says(answer: &Value, list: &str, words: &str) -> bool {
    let texts = answer[list].as_array().expect("a list");
    let has = |text: &str| words.split_whitespace().all(|word| text.contains(word));
    texts.iter().any(|text| text.as_str().is_some_and(has))
}

#[test]
fn keys_and_certificates_without_an_end_are_refused() {
    let signing = rsa();
    let target = signing.folder.file("web.ova");
    let sparse = signing.folder.file("sparse.pem");
    let file = fs::File::create(&sparse).expect("create");
    file.set_len(64 << 20).expect("a hole");
    let (key, certificate) = (s(&signing.key), s(&signing.certificate));
    for (options, named) in [
        (["--sign", "/dev/zero", "--cert", certificate], "--sign"),
        (["--sign", key, "--cert", "/dev/zero"], "--cert"),
        (["--sign", s(&sparse), "--cert", certificate], "--sign"),
        (["--sign", key, "--cert", s(&sparse)], "--cert"),
    ] {
        let error = fails_to(&signing.disk, &target, &options, 3, "limit").to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn a_certificate_without_marks_is_written_as_pem() {
    let body = RSA_CERT.lines().skip(2).filter(|l| !l.starts_with("---"));
    let signing = Signing::new(RSA_KEY, &(body.collect::<String>() + "\n"));
    for package in signing.both() {
        run_ok(&["check", s(&package)]);
        let (_, info) = answer("info", &package);
        assert_eq!(info["signer"]["standing"], "self-signed");
    }
    let written = fs::read_to_string(signing.folder.file("out/web.cert")).expect("read");
    assert!(written.contains(BEGIN), "{written}");
}

#[test]
fn info_says_what_the_certificates_prove() {
    let (leaf, _) = CHAIN.split_at(CHAIN.rfind(BEGIN).expect("PEM"));
    for (certificates, standing, told) in [
        (CHAIN, "chain", "proved by the certificates of its issuers"),
        (
            leaf,
            "issuer-missing",
            "issuer not at hand: unverified name",
        ),
    ] {
        for package in Signing::new(CHAIN_KEY, certificates).both() {
            let (_, info) = answer("info", &package);
            assert_eq!(info["signer"]["standing"], standing);
            let text = run_ok(&["info", s(&package)]).text();
            assert!(text.contains(told), "{text}");
            run_ok(&["check", s(&package)]);
        }
    }
}

#[test]
fn a_certificate_that_was_changed_is_damage() {
    let signing = rsa();
    let mut members = signing.members();
    let text = String::from_utf8(members[2].1.clone()).expect("text");
    // A character somewhere in its body.
    let at = text.find(BEGIN).expect("PEM") + BEGIN.len() + 300;
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    members[2].1 = format!("{}{other}{}", &text[..at], &text[at + 1..]).into_bytes();
    let package = ova(&signing.folder, &members);
    let (code, check) = answer("check", &package);
    assert_eq!(code, Some(1), "{check}");
    assert!(says(&check, "damage", "certificate"), "{check}");
    let (_, info) = answer("info", &package);
    assert!(info["signer"].is_null(), "{info}");
    let target = signing.folder.file("new.raw");
    fails_to(&package, &target, &[], 3, "malformed");
    run(&["convert", s(&package), s(&target), "--salvage"]);
    assert_eq!(guest_digest(&target, &[]), guest_digest(&signing.disk, &[]));
}

#[test]
fn a_certificate_longer_than_any_is_damage() {
    let signing = rsa();
    let mut members = signing.members();
    members[2].1.resize((1 << 20) + 1, b'\n');
    let package = ova(&signing.folder, &members);
    let (code, check) = answer("check", &package);
    assert_eq!(code, Some(1), "{check}");
    assert!(says(&check, "damage", "too long"), "{check}");
    assert_eq!(answer("info", &package).0, Some(0));
}

#[test]
fn a_certificate_that_speaks_for_another_name_is_warned_of() {
    let signing = rsa();
    let mut members = signing.members();
    let text = String::from_utf8(members[2].1.clone()).expect("text");
    members[2].1 = text.replacen("web.mf", "wob.mf", 1).into_bytes();
    let package = ova(&signing.folder, &members);
    for verb in ["check", "info"] {
        let (code, answer) = answer(verb, &package);
        assert_eq!(code, Some(0), "{answer}");
        assert!(says(&answer, "warnings", "wob.mf web.mf"), "{answer}");
    }
}

#[test]
fn certificates_of_nothing_are_warned_of() {
    let signing = rsa();
    let mut members = signing.members();
    members[2].0 = "one.cert".to_owned();
    let package = ova(&signing.folder, &members);
    // The only one is taken for the one that is meant.
    assert!(answer("info", &package).1["signer"].is_object());
    members.push(("two.cert".to_owned(), members[2].1.clone()));
    let package = ova(&signing.folder, &members);
    let (_, info) = answer("info", &package);
    assert!(info["signer"].is_null(), "{info}");
    assert!(says(&info, "warnings", "one.cert two.cert"), "{info}");
}

#[test]
fn an_expired_certificate_is_warned_of_and_changes_no_byte() {
    let signing = Signing::new(RSA_KEY, EXPIRED);
    let package = signing.folder.file("web.ova");
    let made = [(); 2].map(|()| {
        let arguments = ["convert", s(&signing.disk), s(&package), "--force"];
        let arguments = [&arguments[..], &signing.options(), &["--reproducible"]].concat();
        let told = run_ok(&arguments).stderr;
        assert!(told.contains("expired at 2001-01-01"), "{told}");
        fs::read(&package).expect("read")
    });
    assert!(made[0] == made[1], "two packages that differ");
    for verb in ["check", "info"] {
        let (code, answer) = answer(verb, &package);
        assert_eq!(code, Some(0), "{answer}");
        assert!(says(&answer, "warnings", "expired 2001-01-01"), "{answer}");
    }
}

#[test]
fn a_manifest_that_names_a_file_elsewhere_is_damage() {
    let content = [disks::content(1, 3)];
    for name in ["/a.vmdk", "../a.vmdk", "C:\\a.vmdk", "http://host/a.vmdk"] {
        let folder = Folder::new();
        let mut members = Package::raw(&content).members();
        let line = format!("SHA256({name})= {}\n", "0".repeat(64));
        members[1].1.extend(line.into_bytes());
        let (code, check) = answer("check", &ova(&folder, &members));
        assert_eq!(code, Some(1), "{name}: {check}");
        assert!(says(&check, "damage", "a.vmdk"), "{name}: {check}");
    }
}

#[test]
fn a_disk_in_a_folder_of_an_archive_is_held_against_the_manifest() {
    let content = [disks::content(1, 3)];
    for (folder_of_lines, is_listed) in [("", true), ("d/", true), ("./d/", true), ("e/", false)] {
        let folder = Folder::new();
        let mut members = Package::raw(&content).members();
        let manifest = String::from_utf8(members[1].1.clone()).expect("text");
        members[1].1 = manifest
            .replace('(', &format!("({folder_of_lines}"))
            .into_bytes();
        members.iter_mut().for_each(|m| m.0 = format!("d/{}", m.0));
        let (target, package) = (folder.file("new.raw"), ova(&folder, &members));
        let finished = run_ok(&["convert", s(&package), s(&target)]);
        let is_silent = !finished.stderr.contains("says nothing of");
        assert_eq!(is_silent, is_listed, "{}", finished.stderr);
        let (code, check) = answer("check", &package);
        assert_eq!(code == Some(0), is_listed, "{check}");
        if is_listed {
            members[2].1[200_000] ^= 1;
            let package = ova(&folder, &members);
            fs::remove_file(&target).expect("remove");
            fails_to(&package, &target, &[], 3, "malformed");
            assert_eq!(answer("check", &package).0, Some(1));
        }
    }
}
