//! Descriptions that other software made: all are read, or refused for what their text says.
//!
//! They belong to their authors and are not part of the project. `DISKFERRY_CORPUS` names a folder that holds them under
//! the paths of its `MANIFEST.tsv`. Without the variable there is nothing to do, and the tests say that they were skipped.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use machines::manifest::Manifest;
use machines::{ErrorKind, Package, Result, ovf, vmx, xva};

use common::skip::named_by;
use common::{facts, machine_facts};

/// The suite of VMware's own tool: what is in `Pos` it takes, what is in `Neg` it does not.
const SUITE: &str = "vmware+govmomi/ovf/fixtures/external/OVFToolTemplates/OVF/xmltestfiles/";

/// Where the folder of the suite is not the answer, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    // What is wrong is the VMDK, which is not part of the suite; the text has no fault.
    ("DiskSection/Neg/invalid_delta_reference_disk.ovf", "reads"),
    ("DiskSection_1_0/Neg/invalid_createType_disk.ovf", "reads"),
    // The same: the file is said to be packed, and the fault is in the file.
    ("Envelope/Neg/gzip_compression.ovf", "reads"),
    // The name says negative, the text says size="0", which is taken in Pos/valid_vmdk_zero_size.ovf.
    ("Envelope/Neg/invalid_ref_size_neg.ovf", "reads"),
    // No version attribute: none of VMware's own OVF 1.x descriptors has one.
    ("Envelope_1_0/Neg/invalid_no_version.ovf", "reads"),
    // No size: VirtualBox writes none, and the standard does not ask for one.
    ("Envelope_1_0/Neg/invalid_ref_size_null.ovf", "reads"),
    // size="-2": a file of a negative length is refused whoever wrote it.
    ("Envelope_1_0/Pos/valid_vmdk_neg_size.ovf", "malformed"),
    // An element <ovfstr:Strings> whose prefix is declared nowhere: no parser of namespaces takes it.
    ("VirtualHardware_1_0/Pos/item_msgid.ovf", "malformed"),
    (
        "VirtualHardware_1_0/Pos/item_msgid_elename.ovf",
        "malformed",
    ),
];

/// Descriptors outside of the suite that are refused, and for what.
const REFUSED: &[(&str, ErrorKind, &str)] = &[
    (
        "archlinux+arch-boxes/box.ovf",
        ErrorKind::Malformed,
        "DISK_CAPACITY",
    ),
    (
        "ganeti+ganeti/test/data/ovfdata/no_disk_in_ref.ovf",
        ErrorKind::Malformed,
        "file1",
    ),
    (
        "ganeti+ganeti/test/data/ovfdata/wrong_xml.ovf",
        ErrorKind::Malformed,
        "attribute",
    ),
    (
        "glennmatthews+cot/COT/tests/ersatz_ovf_3.0.ovf",
        ErrorKind::Unsupported,
        "envelope/3",
    ),
    (
        "glennmatthews+cot/COT/tests/invalid.ovf",
        ErrorKind::Malformed,
        "flash2",
    ),
    (
        "libguestfs+virt-v2v/tests/test-o-ovirt.ovf.expected",
        ErrorKind::Malformed,
        "#SIZE#",
    ),
    (
        "libguestfs+virt-v2v/tests/test-o-vdsm-options.ovf.expected",
        ErrorKind::Malformed,
        "#UUID#",
    ),
    (
        "openstack+glance/glance/tests/var/testserver-bad-ovf.ova",
        ErrorKind::Malformed,
        "inside an element",
    ),
    (
        "proxmox+pve-storage/src/test/ovf_manifests/XEE.ovf",
        ErrorKind::Refused,
        "DTD",
    ),
    (
        "vmware+govmomi/ovf/fixtures/empty.ovf",
        ErrorKind::Malformed,
        "no VirtualSystem",
    ),
    (
        "DeleteHDTestdata/PvScsis_old/descriptor.ovf",
        ErrorKind::Malformed,
        "<HTML>",
    ),
    (
        "ovftoolresources/item_msgid",
        ErrorKind::Malformed,
        "ovfstr:",
    ),
    (
        "ovftoolresources/valid_vmdk_neg_size.ovf",
        ErrorKind::Malformed,
        "\"-2\"",
    ),
    (
        "security-test-content/ovf/negative-size-disk/haoUnOS2VMs.ovf",
        ErrorKind::Malformed,
        "-9223372036854775807",
    ),
    // Templates with a word where a number will be.
    (
        "vmware+open-vmdk/templates/template-hw",
        ErrorKind::Malformed,
        "@@VMDK_FILE_SIZE@@",
    ),
];

fn corpus() -> Option<PathBuf> {
    named_by("DISKFERRY_CORPUS")
}

/// All files below `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The descriptor in an OVA, if there is one.
fn descriptor_of(ova: &Path) -> Option<Vec<u8>> {
    let list = Command::new("tar").arg("tf").arg(ova).output().ok()?;
    let list = String::from_utf8(list.stdout).ok()?;
    let name = list.lines().find(|l| l.ends_with(".ovf"))?;
    let mut tar = Command::new("tar");
    let output = tar.arg("xOf").arg(ova).arg(name).output().ok()?;
    Some(output.stdout)
}

fn descriptor(file: &Path) -> Option<Vec<u8>> {
    let name = file.to_str()?;
    if name.ends_with(".ova") {
        return descriptor_of(file);
    }
    let is_ovf = name.ends_with(".ovf") || name.ends_with(".ovf.expected");
    is_ovf.then(|| std::fs::read(file).expect("a file"))
}

fn answer(read: &Result<Package>) -> &'static str {
    match read {
        Ok(package) if package.violations.is_empty() => "reads",
        Ok(_) => "violates",
        Err(error) => error.kind().name(),
    }
}

/// What is wrong with how the descriptor `name` was read, if anything.
fn complaint(name: &str, read: &Result<Package>) -> Option<String> {
    let answer = answer(read);
    let detail = || match read {
        Ok(package) => format!("{name}: {answer} {:?}", package.violations),
        Err(error) => format!("{name}: {error}"),
    };
    let Some(case) = name.strip_prefix(SUITE) else {
        let refused = REFUSED.iter().find(|(part, _, _)| name.contains(part));
        let fine = match (refused, read) {
            (None, Ok(_)) => true,
            (Some((_, kind, why)), Err(error)) => {
                error.kind() == *kind && error.to_string().contains(why)
            }
            _ => false,
        };
        return (!fine).then(detail);
    };
    let exception = EXCEPTIONS.iter().find(|(known, _)| *known == case);
    let fine = match exception {
        Some((_, expected)) => answer == *expected,
        None if case.contains("/Neg/") => answer != "reads",
        None => answer == "reads",
    };
    (!fine).then(detail)
}

#[test]
fn every_descriptor_is_read_or_refused_for_what_it_says() {
    let Some(corpus) = corpus() else {
        return;
    };
    let (mut read, mut refused, mut complaints) = (0, 0, Vec::new());
    for file in files(&corpus) {
        let Some(text) = descriptor(&file) else {
            continue;
        };
        let name = file
            .strip_prefix(&corpus)
            .expect("below")
            .display()
            .to_string();
        let package = ovf::read(&text);
        complaints.extend(complaint(&name, &package));
        match package {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    eprintln!("{read} descriptors read, {refused} refused as they should be");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(read > 300, "an empty corpus");
}

#[test]
fn facts_of_one_descriptor_a_producer_are_right() {
    let Some(corpus) = corpus() else {
        return;
    };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.txt");
    let expected = std::fs::read_to_string(&golden).expect("the table");
    let mut found = String::new();
    for name in expected.lines().filter_map(|l| l.strip_prefix("== ")) {
        let text = descriptor(&corpus.join(name)).expect("a descriptor");
        found += &format!("== {name}\n{}\n", facts(&ovf::read(&text).expect(name)));
    }
    if found != expected {
        let actual = std::env::temp_dir().join("diskferry-golden.txt");
        std::fs::write(&actual, &found).expect("write");
        panic!("diff {} {}", golden.display(), actual.display());
    }
}

/// What the tests do with each file of one extension.
fn each(corpus: &Path, extension: &str, mut what: impl FnMut(&str, Vec<u8>)) -> usize {
    let mut count = 0;
    for file in files(corpus) {
        if file.extension().is_some_and(|e| e == extension) {
            let name = file
                .strip_prefix(corpus)
                .expect("below")
                .display()
                .to_string();
            what(&name, std::fs::read(&file).expect("a file"));
            count += 1;
        }
    }
    count
}

#[test]
fn every_vmx_is_read_and_written() {
    let Some(corpus) = corpus() else {
        return;
    };
    let count = each(&corpus, "vmx", |name, text| {
        let package = vmx::read(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let machine = &package.machines[0];
        let written = vmx::write(machine).unwrap_or_else(|e| panic!("{name}: {e}"));
        let back = vmx::read(written.text.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (first, second) = (machine_facts(machine), machine_facts(&back.machines[0]));
        let lines = |text: &str| {
            let lines = text.lines().filter(|l| !l.contains("settings"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(&first), lines(&second), "{name}");
    });
    assert!(count > 5, "an empty corpus");
}

#[test]
fn every_manifest_is_read() {
    let Some(corpus) = corpus() else {
        return;
    };
    let count = each(&corpus, "mf", |name, text| {
        let manifest = Manifest::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!manifest.entries.is_empty(), "{name}");
        assert!(manifest.warnings.is_empty(), "{name}");
    });
    assert!(count > 3, "an empty corpus");
}

#[test]
fn exports_of_another_writer_are_read() {
    let Some(corpus) = corpus() else {
        return;
    };
    for (name, size) in [("xo-empty.xva", 12 << 20), ("xo-one.xva", 9 << 20)] {
        let file = corpus.join("generated-thirdparty/xen-orchestra").join(name);
        let mut tar = Command::new("tar");
        let text = tar
            .arg("xOf")
            .arg(&file)
            .arg("ova.xml")
            .output()
            .expect("tar")
            .stdout;
        let appliance = xva::read(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(appliance.version.product, "XCP-ng");
        assert_eq!(
            (appliance.version.xapi, appliance.version.export),
            ((1, 20), 2)
        );
        let machine = &appliance.package.machines[0];
        println!("{name}: {}", machine_facts(machine));
        assert_eq!(machine.memory, Some(512 << 20));
        assert_eq!(machine.disks[0].image.capacity, Some(size), "{name}");
        assert_eq!(machine.nics[0].network.as_deref(), Some("net"));
        assert_eq!(appliance.streamed.len(), 1);
    }
}
