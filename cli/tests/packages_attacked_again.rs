//! What went wrong with packages when they were attacked for the second time.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::cost::cost_of;
use common::damage::snapshot;
use common::packages::descriptor::{DiskEntry, Machine, QCOW2_URI};
use common::packages::{Dialect, Package, gzip, sha256, tar_of};
use common::{Finished, Folder, convert, diskferry, guest_digest, noise, run, run_ok, s};

const MIB: u64 = 1 << 20;

/// A description in TOML, and the disks that it names.
fn described(folder: &Folder, text: &str, disks: &[&str]) -> PathBuf {
    for (seed, name) in (1..).zip(disks) {
        fs::write(folder.file(name), noise(seed, 1 << 20)).expect("write");
    }
    let machine = folder.file("machine.toml");
    fs::write(&machine, text).expect("write");
    machine
}

fn is_refused(finished: &Finished, code: i32, word: &str) {
    assert_eq!(finished.code, Some(code), "{}", finished.text());
    assert!(finished.stderr.contains(word), "{}", finished.stderr);
}

#[test]
fn an_image_that_names_its_own_parent_below_a_blank_one_is_vouched_for() {
    let folder = Folder::new();
    let (old, new) = (folder.file("old.raw"), folder.file("new.raw"));
    let mut content = noise(1, 1 << 20);
    fs::write(&old, &content).expect("write");
    content[..100_000].fill(7);
    fs::write(&new, &content).expect("write");
    let (base, tip) = (folder.file("base.qcow2"), folder.file("tip.qcow2"));
    convert(&old, &base, &[]);
    convert(&new, &tip, &["-B", "base.qcow2"]);
    let bytes = fs::read(&tip).expect("read");
    let mut package = Package::new(Dialect::Vmware).disk("tip.qcow2", bytes, MIB, QCOW2_URI);
    package.descriptor.disks[0].parent = Some("blank".to_owned());
    package.descriptor.disks.push(DiskEntry {
        id: "blank".to_owned(),
        capacity: MIB,
        format: QCOW2_URI.to_owned(),
        ..DiskEntry::default()
    });
    let below = fs::read(&base).expect("read");
    package.files.push(("base.qcow2".to_owned(), below));
    let mut bytes = package.ova();
    let ova = folder.file("web.ova");
    fs::write(&ova, &bytes).expect("write");
    assert_eq!(guest_digest(&ova, &[]).0, sha256(&content));
    // What the manifest disproves.
    let piece = &content[500_000..500_064];
    let at = bytes.windows(64).position(|window| window == piece);
    bytes[at.expect("the content of the base")] ^= 1;
    fs::write(&ova, &bytes).expect("write");
    let target = folder.file("out.raw");
    let finished = run(&["convert", s(&ova), s(&target)]);
    assert_eq!(finished.code, Some(3), "{}", finished.text());
    assert!(!target.exists());
    assert_eq!(run(&["digest", s(&ova)]).code, Some(3));
}

#[test]
fn no_file_that_is_read_is_written_to() {
    let folder = Folder::new();
    let text = "name = \"web\"\nmemory = \"1G\"\n[[disks]]\nimage.file.href = \"a.raw\"\n\
                [[disks]]\nimage.file.href = \"b.raw\"\n";
    let machine = described(&folder, text, &["a.raw", "b.raw"]);
    let own = Folder::new();
    let (ovf, vmx) = (own.file("web.ovf"), own.file("v/web.vmx"));
    run_ok(&["convert", s(&machine), s(&ovf)]);
    fs::create_dir(own.file("v")).expect("a folder");
    run_ok(&["convert", s(&machine), s(&vmx)]);
    let bare = own.file("bare.toml");
    fs::write(&bare, "name = \"bare\"\nmemory = \"1G\"\n").expect("write");
    let (bare_xva, around) = (own.file("bare.xva"), own.file("around.toml"));
    run_ok(&["convert", s(&bare), s(&bare_xva)]);
    fs::write(&around, "name = \"around\"\nmemory = \"1G\"\n").expect("write");
    let disk = folder.file("a.raw");
    let place = |name: &str| s(&own.file(name)).to_owned();
    for arguments in [
        vec![s(&ovf), &place("web.vmx"), "--disk", "2"],
        vec![s(&ovf), &place("web-disk2.vmdk"), "--disk", "1"],
        vec![
            s(&ovf),
            &place("web-disk1.vmdk"),
            "--disk",
            "2",
            "-O",
            "raw",
        ],
        vec![s(&ovf), &place("web.mf"), "-O", "ova"],
        vec![s(&ovf), &place("web.mf"), "-O", "raw", "--disk", "1"],
        vec![s(&ovf), s(own.path()), "-O", "vmdk", "--disk", "2"],
        vec![s(&vmx), &place("v/web.ovf"), "--disk", "2"],
        vec![s(&vmx), &place("v/web-disk1.vmdk"), "--disk", "2"],
        vec![s(&bare), s(&bare), "-O", "ova"],
        vec![s(&bare_xva), s(&bare_xva)],
        vec![s(&bare_xva), s(&bare_xva), "-O", "ova"],
        vec![s(&disk), s(&around), "--machine", s(&around), "-O", "ova"],
    ] {
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let before = (snapshot(own.path()), snapshot(&own.file("v")));
        let finished = run(&[
            &["convert".to_owned()],
            &arguments[..],
            &["--force".to_owned()],
        ]
        .concat());
        assert_eq!(finished.code, Some(5), "{arguments:?}: {}", finished.text());
        let after = (snapshot(own.path()), snapshot(&own.file("v")));
        assert!(before == after, "{arguments:?}: something changed");
    }
    run_ok(&["check", s(&ovf)]);
}

#[test]
fn many_disks_take_no_longer_each() {
    let folder = Folder::new();
    let text = format!(
        "name = \"x\"\n{}",
        "[[disks]]\nimage.capacity = 1\n".repeat(3000)
    );
    let machine = described(&folder, &text, &[]);
    let target = folder.file("out/x.vmx");
    fs::create_dir(folder.file("out")).expect("a folder");
    let started = Instant::now();
    // Nobody has so many files open, or a machine with so many disks: refused or made, it has to end.
    let finished = run(&["convert", s(&machine), s(&target)]);
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{}",
        finished.text()
    );
    if finished.code != Some(0) {
        assert!(
            fs::read_dir(folder.file("out"))
                .expect("list")
                .next()
                .is_none()
        );
    }
}

/// An archive of so many files that its description says nothing of.
fn crowded(folder: &Folder, count: usize) -> PathBuf {
    let package = Package::raw(&[noise(1, 512)]);
    let mut members = package.members();
    let end = "x".repeat(60);
    members.extend((0..count).map(|number| (format!("{number:06}{end}"), Vec::new())));
    let ova = folder.file("crowded.ova");
    fs::write(&ova, tar_of(&members)).expect("write");
    ova
}

#[test]
fn a_crowd_of_files_is_checked_in_no_time_and_can_be_stopped() {
    let folder = Folder::new();
    let ova = crowded(&folder, 50_000);
    let cost = cost_of(&["check", s(&ova)]);
    assert!(cost.processor < Duration::from_secs(8), "{cost:?}");
    let mut checking = diskferry()
        .args(["check", s(&ova)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("diskferry");
    std::thread::sleep(Duration::from_millis(100));
    let pid = checking.id().to_string();
    let _ = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status();
    let ended = checking.wait().expect("its end");
    // Before it listens, a signal ends it as any program.
    assert!(matches!(ended.code(), None | Some(0 | 130)), "{ended:?}");
}

#[test]
fn an_xva_that_nobody_could_read_is_not_written() {
    let folder = Folder::new();
    let disks = "[[disks]]\nimage.capacity = 1\n".repeat(1025);
    let text = format!("name = \"x\"\nmemory = \"1G\"\n{disks}");
    let machine = described(&folder, &text, &[]);
    let target = folder.file("x.xva");
    is_refused(
        &run(&["convert", s(&machine), s(&target)]),
        3,
        "too many disks",
    );
    assert!(!target.exists());
}

#[test]
fn a_machine_with_a_drive_is_put_around_a_disk() {
    let folder = Folder::new();
    let disk = folder.file("a.raw");
    fs::write(&disk, noise(1, 1 << 20)).expect("write");
    let machine = described(
        &folder,
        "name = \"web\"\nmemory = \"1G\"\n[[cd_drives]]\n[[cd_drives]]\nmedium.href = \"cd.iso\"\n",
        &[],
    );
    for target in ["a.ova", "a.ovf", "a.xva", "a.vmx"] {
        let target = folder.file(target);
        let options = ["--machine", s(&machine), "--force"];
        let made = run_ok(&[&["convert", s(&disk), s(&target)], &options[..]].concat());
        assert!(
            made.stderr.contains("cd.iso is left out"),
            "{}",
            made.stderr
        );
        run_ok(&["check", s(&target)]);
    }
}

#[test]
fn several_machines_are_told_apart() {
    let folder = Folder::new();
    let mut package = Package::raw(&[noise(1, 1 << 20)]);
    let disk = package.descriptor.machines[0].disks.clone();
    package.descriptor.machines = [("1", "2"), ("2", "1")]
        .map(|(name, id)| Machine {
            id: id.to_owned(),
            disks: disk.clone(),
            ..Machine::new(name)
        })
        .to_vec();
    let ova = folder.file("both.ova");
    fs::write(&ova, package.ova()).expect("write");
    for (wanted, name) in [("1", "1"), ("2", "2"), ("#1", "1"), ("#2", "2")] {
        let told = run_ok(&["info", "--json", s(&ova), "--vm", wanted]).json();
        let machines = told["machines"].as_array().expect("machines");
        assert_eq!(machines.len(), 1, "{wanted}");
        assert_eq!(machines[0]["name"], name, "{wanted}");
    }
    let xva = folder.file("both.xva");
    let made = run_ok(&["convert", s(&ova), s(&xva)]);
    assert!(
        made.stderr.contains("shared by 2 machines"),
        "{}",
        made.stderr
    );
    let target = folder.file("n.xva");
    let named = ["convert", s(&ova), s(&target), "--name", "new"];
    is_refused(&run(&named), 2, "several");
    run_ok(&[&named[..], &["--vm", "2"]].concat());
}

#[test]
fn what_is_no_name_no_uuid_and_no_mac_is_refused() {
    let folder = Folder::new();
    let disk = folder.file("a.raw");
    fs::write(&disk, noise(1, 1 << 20)).expect("write");
    for name in ["", "  ", "two\nlines", "\u{1b}[31mred", "\u{202e}turned"] {
        for target in ["a.ova", "a.xva", "a.vmx"] {
            let target = folder.file(target);
            is_refused(
                &run(&["convert", s(&disk), s(&target), "--name", name]),
                2,
                "--name",
            );
            assert!(!target.exists());
        }
    }
    for (line, word) in [
        ("uuid = \"not-a-uuid\"", "UUID"),
        ("[[nics]]\nmac = \"zz:zz\"", "MAC"),
    ] {
        let machine = described(&folder, &format!("name = \"web\"\n{line}\n"), &[]);
        is_refused(&run(&["info", s(&machine)]), 3, word);
    }
    let text = "name = \"web\"\nuuid = \"564D96AFE646BD865C4D654E7736EF31\"\n[[nics]]\nmac = \"00-0C-29-12-34-56\"\n";
    let told = run_ok(&["info", "--json", s(&described(&folder, text, &[]))]).text();
    assert!(
        told.contains("564d96af-e646-bd86-5c4d-654e7736ef31"),
        "{told}"
    );
    assert!(told.contains("00:0c:29:12:34:56"), "{told}");
}

#[test]
fn advice_about_a_disk_in_a_package_can_be_followed() {
    let folder = Folder::new();
    let mut content = gzip(b"a guest's own");
    content.resize(1 << 20, 0);
    let mut package = Package::new(Dialect::Vmware).disk("disk.bin", content, MIB, "");
    package.manifest = None;
    let ova = folder.file("web.ova");
    fs::write(&ova, package.ova()).expect("write");
    let finished = run(&["digest", s(&ova)]);
    if finished.code != Some(0) {
        assert!(finished.stderr.contains("alone"), "{}", finished.stderr);
    }
}

/// A description with more elements than anybody writes.
#[test]
fn long_descriptions_take_no_more_memory_than_allowed() {
    let folder = Folder::new();
    let package = Package::raw(&[noise(1, 512)]);
    for count in [150_000, 495_000] {
        let mut package = package.clone();
        let (_, text) = package.members().remove(0);
        let text = String::from_utf8(text).expect("text");
        let more = "<Property ovf:key=\"a\"/>".repeat(count);
        let section =
            format!("<ProductSection><Info>x</Info>{more}</ProductSection></VirtualSystem>");
        package.text = Some(text.replacen("</VirtualSystem>", &section, 1));
        let ova = folder.file("long.ova");
        fs::write(&ova, package.ova()).expect("write");
        let target = folder.file("out.ova");
        for arguments in [
            &["info", "--json", s(&ova)][..],
            &["convert", s(&ova), s(&target), "--force"],
        ] {
            match run(arguments).code {
                Some(0) => {
                    let cost = cost_of(arguments);
                    assert!(cost.peak < 256 << 20, "{arguments:?} of {count}: {cost:?}");
                }
                code => assert_eq!((code, count), (Some(3), 495_000)),
            }
        }
    }
}
