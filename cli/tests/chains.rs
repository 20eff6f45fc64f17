//! Chains: shown layer by layer, read in part, and kept as chains in another format.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::damage::snapshot;
use common::peers::{Readers, have_qemu, qemu_check, qemu_finds_equal, seven_zip_agrees};
use common::skip::named_by;
use common::vhd::Vhd;
use common::{
    Finished, Folder, convert, guest_digest, have, make_disk, noise, run, run_ok, s, tool,
};

const MIB: u64 = 1 << 20;

/// The states of a disk: the first one, and what it was after every change, each as a raw file. Data over data, zeros
/// over data, data over zeros; larger, and smaller again.
fn states(folder: &Folder) -> Vec<PathBuf> {
    let files: Vec<_> = (0..4).map(|n| folder.file(&format!("{n}.raw"))).collect();
    // 7-Zip opens VHDX of whole physical sectors only.
    make_disk(&files[0], 9 * MIB + 4096);
    let mut bytes = fs::read(&files[0]).expect("read");
    let mut change = |file: &Path, at: usize, data: &[u8], size: u64| {
        bytes.resize(size as usize, 0);
        bytes[at..at + data.len()].copy_from_slice(data);
        fs::write(file, &bytes).expect("write");
    };
    change(&files[1], 3_000_064, &noise(9, 90_000), 11 * MIB);
    change(&files[2], 6_291_456, &[0; 512 * 700], 7 * MIB + 8192);
    change(&files[3], 40_960, &noise(10, 4096), 12 * MIB);
    files
}

/// A chain of overlays in `format` that holds the states; the tip is `3.format`.
fn chain(folder: &Folder, states: &[PathBuf], format: &str) -> PathBuf {
    let mut below: Option<String> = None;
    for (number, state) in states.iter().enumerate() {
        let name = format!("{number}.{format}");
        let over = below.iter().flat_map(|below| ["-B", below]);
        let options: Vec<&str> = over.chain(["--verify", "--force"]).collect();
        convert(state, &folder.file(&name), &options);
        below = Some(name);
    }
    folder.file(&format!("{}.{format}", states.len() - 1))
}

/// Every image of a chain holds its state, to diskferry and to others.
fn holds_states(folder: &Path, format: &str, states: &[PathBuf]) {
    for (number, state) in states.iter().enumerate() {
        let image = folder.join(format!("{number}.{format}"));
        assert_eq!(guest_digest(&image, &[]), guest_digest(state, &[]));
        match format {
            "qcow2" if have_qemu() => {
                assert!(qemu_finds_equal("qcow2", &image, "raw", state));
                qemu_check("qcow2", &image);
            }
            "vhd" | "vhdx" if have("7zz") => {
                let size = fs::metadata(state).expect("metadata").len();
                seven_zip_agrees(format, &image, state, size);
            }
            _ => {}
        }
    }
}

#[test]
fn overlays_in_every_format_hold_the_states_of_a_disk() {
    for format in ["qcow2", "vhd", "vhdx"] {
        let folder = Folder::new();
        let states = states(&folder);
        chain(&folder, &states, format);
        holds_states(folder.path(), format, &states);
    }
}

#[test]
fn a_chain_is_kept_from_every_format_in_every_other() {
    for from in ["qcow2", "vhd", "vhdx"] {
        let folder = Folder::new();
        let states = states(&folder);
        let tip = chain(&folder, &states, from);
        for to in ["qcow2", "vhd", "vhdx"] {
            let out = folder.file(&format!("out-{to}"));
            let options = ["--keep-chain", "-O", to, "--verify", "--digest", "sha256"];
            let answer = convert(&tip, &out, &options);
            assert_eq!(answer["verified"], true);
            let disks = answer["disks"].as_array().expect("disks");
            assert_eq!(disks.len(), 4);
            for (disk, state) in disks.iter().zip(states.iter().rev()) {
                let digest = format!("sha256 {}", guest_digest(state, &[]).0);
                assert_eq!(disk["digest"], digest.as_str());
            }
            assert!(disks[0]["data"].as_u64().expect("data") <= 128 << 10);
            holds_states(&out, to, &states);
        }
    }
}

#[test]
fn libvhdi_reads_overlays_of_vhd_and_vhdx() {
    let Some(readers) = Readers::find() else {
        return;
    };
    let folder = Folder::new();
    // It does not know what is past the end of a parent.
    let states = &states(&folder)[..3];
    for state in states {
        let file = fs::File::options().write(true).open(state).expect("open");
        file.set_len(7 * MIB).expect("its length");
    }
    for format in ["vhd", "vhdx"] {
        chain(&folder, states, format);
        for (number, state) in states.iter().enumerate() {
            let image = folder.file(&format!("{number}.{format}"));
            readers.agree("libyal", format, &image, state, &[]);
        }
    }
}

#[test]
fn compressed_and_large_clusters_are_kept_too() {
    let folder = Folder::new();
    let states = states(&folder);
    let tip = chain(&folder, &states, "vhdx");
    for (number, options) in [
        &["-c"][..],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=2M"],
        &["-o", "extended_l2=on"],
        &["-c", "-o", "compression_type=zstd", "-j", "1"],
    ]
    .iter()
    .enumerate()
    {
        let out = folder.file(&format!("out-{number}"));
        let all = [&["--keep-chain", "-O", "qcow2", "--verify"], *options].concat();
        convert(&tip, &out, &all);
        holds_states(&out, "qcow2", &states);
    }
}

#[test]
fn a_chain_of_vmdk_deltas_is_read_and_kept() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let vmdk = |n: usize| folder.file(&format!("{n}.vmdk"));
    tool("qemu-img", &["create", "-f", "vmdk", s(&vmdk(0)), "5M"]);
    for n in 1..4 {
        let (tip, below) = (vmdk(n), vmdk(n - 1));
        let over = [
            "create",
            "-f",
            "vmdk",
            "-F",
            "vmdk",
            "-b",
            s(&below),
            s(&tip),
        ];
        tool("qemu-img", &over);
        for k in 0..5 {
            let write = format!(
                "write -P {} {} {}",
                n * 16 + k,
                (n * 37 + k * 1500) * 512 % (4 << 20),
                512 * (1 + n * k * 20)
            );
            tool("qemu-io", &["-f", "vmdk", "-c", &write, s(&tip)]);
        }
    }
    let info = run_ok(&["info", "--chain", "--json", s(&vmdk(3))]).json();
    assert_eq!(info["chain"].as_array().expect("layers").len(), 4);
    assert_eq!(
        info["chain"][0]["parent"]["identities"][0],
        info["chain"][1]["identity"]
    );
    for format in ["qcow2", "vhd", "vhdx"] {
        let out = folder.file(format);
        convert(&vmdk(3), &out, &["--keep-chain", "-O", format, "--verify"]);
        for n in 0..4 {
            let image = out.join(format!("{n}.{format}"));
            assert_eq!(guest_digest(&image, &[]), guest_digest(&vmdk(n), &[]));
        }
        let raw = folder.file("3.raw");
        tool("qemu-img", &["convert", "-O", "raw", s(&vmdk(3)), s(&raw)]);
        if format == "qcow2" {
            assert!(qemu_finds_equal("qcow2", &out.join("3.qcow2"), "raw", &raw));
        } else if have("7zz") {
            seven_zip_agrees(format, &out.join(format!("3.{format}")), &raw, 5 * MIB);
        }
    }
}

/// Two VHDs by hand: the child has a block with some sectors of its own, zeros and stale data among them.
fn mixed(folder: &Folder) -> (PathBuf, Vec<u8>, Vec<u8>) {
    let (size, block) = (5 << 19, 512 << 10);
    let mut base = Vhd::new(size, block, 1);
    base.block(0, noise(1, block), |_| true);
    base.block(2, noise(2, block), |_| true);
    let mut child = Vhd::on(size, block, 2, &base, "base.vhd");
    let mut data = noise(3, block);
    data[4096..8192].fill(0);
    child.block(0, data, |sector| sector % 5 < 3);
    let parent = base.guest(&[]);
    let disk = child.guest(&parent);
    base.write(&folder.file("base.vhd"));
    child.write(&folder.file("tip.avhd"));
    (folder.file("tip.avhd"), parent, disk)
}

#[test]
fn info_shows_what_every_layer_defines() {
    let folder = Folder::new();
    let (tip, ..) = mixed(&folder);
    let info = run_ok(&["info", "--chain", "--json", s(&tip)]).json();
    assert!(info["error"].is_null());
    let chain = info["chain"].as_array().expect("layers");
    assert_eq!(chain.len(), 2);
    let (child, base) = (&chain[0], &chain[1]);
    assert_eq!(child["layer"], 0);
    assert_eq!(child["subformat"], "differencing");
    assert_eq!(child["identity"], "02020202-0202-0202-0202-020202020202");
    assert_eq!(child["parent"]["identities"][0], base["identity"]);
    assert_eq!(child["parent"]["names"][0], "base.vhd");
    let own = (0..1024).filter(|sector| sector % 5 < 3).count() * 512;
    assert_eq!(child["data"], own);
    assert_eq!(child["zero"], 0);
    assert_eq!(child["absent"], (5 << 19) - own);
    assert_eq!(base["data"], 1 << 20);
    assert!(base["parent"].is_null());
    let file = fs::metadata(&tip).expect("metadata").len();
    assert_eq!(child["file_size"], file);
    let text = run_ok(&["info", "--chain", s(&tip)]).text();
    for line in ["layer 0", "layer 1", "left to the parent", "base.vhd"] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn a_layer_is_read_alone() {
    let folder = Folder::new();
    let (tip, parent, disk) = mixed(&folder);
    let read = |layer: &str| {
        let raw = folder.file("layer.raw");
        convert(&tip, &raw, &["--layer", layer, "--force"]);
        fs::read(raw).expect("read")
    };
    let mut own = disk;
    for (sector, bytes) in own.chunks_mut(512).enumerate() {
        if sector >= 1024 || sector % 5 >= 3 {
            bytes.fill(0);
        }
    }
    assert!(read("0") == own && read("tip.avhd") == own);
    assert!(read("1") == parent && read("base.vhd") == parent);
    assert!(read(s(&tip)) == own);
    let alone = folder.file("alone.raw");
    fs::write(&alone, &own).expect("write");
    let of = |verb: &str, more: &[&str]| run(&[&[verb, s(&tip), "--layer", "0"], more].concat());
    assert_eq!(of("compare", &[s(&alone)]).code, Some(0));
    let digest = guest_digest(&tip, &["--layer", "0"]);
    assert_eq!(digest, guest_digest(&alone, &[]));
    let map = of("map", &["--json"]).json();
    assert_eq!(map["runs"][0]["type"], "data");
    assert_eq!(map["runs"][1]["type"], "absent");
    let info = of("info", &["--json"]).json();
    assert_eq!(info["subformat"], "differencing");
    assert_eq!(info["parent"]["name"], "base.vhd");
    let base = run_ok(&["info", s(&tip), "--layer", "base.vhd", "--json"]).json();
    assert_eq!(base["subformat"], "dynamic");
    let size = of("measure", &["-O", "raw", "--json"]).json();
    assert_eq!(size["file_size"], 5 << 19);
    // Its parent need not be there.
    fs::remove_file(folder.file("base.vhd")).expect("remove");
    assert!(read("0") == own);
    assert_eq!(run(&["digest", s(&tip), "--layer", "1"]).code, Some(3));
    assert_eq!(run(&["digest", s(&tip)]).code, Some(3));
}

#[test]
fn a_layer_that_is_not_there_is_a_usage_error() {
    let folder = Folder::new();
    let (tip, ..) = mixed(&folder);
    for layer in ["2", "-1", "other.vhd", "", "18446744073709551616"] {
        let option = format!("--layer={layer}");
        let done = run(&["digest", s(&tip), &option]);
        assert_eq!(done.code, Some(2), "{layer}: {}", done.stderr);
    }
    for arguments in [
        &["check", s(&tip), "--layer", "0"][..],
        &["convert", "--replace", s(&tip), "--layer", "0"],
        &["resize", s(&tip), "1G", "--layer", "0"],
        &["info", "--chain", s(&tip), "--layer", "0"],
        &["digest", s(&tip), "--layer", "0", "--snapshot", "a"],
    ] {
        assert_eq!(run(arguments).code, Some(2), "{arguments:?}");
    }
}

/// `info --chain` fails as it should, and shows `layers` layers all the same.
fn shows(tip: &Path, layers: usize, code: i32, why: &str) -> Finished {
    let done = run(&["info", "--chain", "--json", s(tip)]);
    assert_eq!(done.code, Some(code), "{}", done.stderr);
    let answer = done.json();
    assert_eq!(answer["chain"].as_array().map(Vec::len), Some(layers));
    let message = answer["error"]["message"].as_str().expect("an error");
    assert!(message.contains(why), "{message}");
    let text = run(&["info", "--chain", s(tip)]);
    assert_eq!(text.code, Some(code));
    assert!(text.text().contains("layer 0"));
    assert!(text.stderr.contains(why), "{}", text.stderr);
    // And nothing is made of it.
    let folder = tip.parent().expect("a folder");
    let before = snapshot(folder);
    let out = folder.join("out");
    let keep = ["convert", s(tip), s(&out), "--keep-chain", "-O", "qcow2"];
    assert_eq!(run(&keep).code, Some(code));
    assert!(snapshot(folder) == before);
    done
}

#[test]
fn of_a_broken_chain_the_rest_is_shown() {
    let folder = Folder::new();
    let (tip, ..) = mixed(&folder);
    let base = folder.file("base.vhd");
    let bytes = fs::read(&base).expect("read");
    fs::remove_file(&base).expect("remove");
    shows(&tip, 1, 3, "base.vhd");
    // Another one of that name.
    let mut other = Vhd::new(5 << 19, 512 << 10, 7);
    other.block(0, noise(1, 512 << 10), |_| true);
    other.write(&base);
    shows(&tip, 1, 3, "another image");
    // Cut off, and of another format.
    fs::write(&base, &bytes[..bytes.len() - 512]).expect("write");
    shows(&tip, 1, 3, "cut off");
    fs::write(&base, noise(2, 4096)).expect("write");
    shows(&tip, 1, 3, "footer");
    // Where nobody looks.
    fs::remove_file(&base).expect("remove");
    let outside = Folder::new();
    fs::write(outside.file("base.vhd"), &bytes).expect("write");
    symlink(outside.file("base.vhd"), &base).expect("link");
    shows(&tip, 1, 5, "own folder");
}

#[test]
fn a_circle_is_shown_up_to_where_it_closes() {
    let folder = Folder::new();
    let mut one = Vhd::new(1 << 20, 512 << 10, 1);
    let mut two = Vhd::on(1 << 20, 512 << 10, 2, &one, "one.vhd");
    two.block(0, noise(1, 512 << 10), |_| true);
    one.parent = Some((two.id, "two.vhd".to_owned()));
    one.write(&folder.file("one.vhd"));
    two.write(&folder.file("two.vhd"));
    shows(&folder.file("two.vhd"), 2, 3, "circle");
}

#[test]
fn a_parent_that_was_written_to_since_is_told() {
    let folder = Folder::new();
    let states = states(&folder);
    let tip = chain(&folder, &states[..2], "vhd");
    let warnings = || {
        let info = run_ok(&["info", "--chain", "--json", s(&tip)]).json();
        info["chain"][0]["warnings"].to_string()
    };
    assert!(!warnings().contains("written to since"), "{}", warnings());
    let base = fs::File::options().write(true).open(folder.file("0.vhd"));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    base.expect("open").set_modified(later).expect("its time");
    assert!(warnings().contains("written to since"), "{}", warnings());
    // A VHDX has another id then.
    let tip = chain(&folder, &states[..2], "vhdx");
    let base = folder.file("0.vhdx");
    convert(&states[0], &base, &["--force"]);
    shows(&tip, 1, 3, "another image");
}

#[test]
fn all_images_of_a_chain_appear_or_none() {
    let folder = Folder::new();
    let states = states(&folder);
    let tip = chain(&folder, &states, "qcow2");
    let keep = |out: &Path, more: &[&str]| {
        let arguments = ["convert", s(&tip), s(out), "--keep-chain", "--json"];
        run(&[&arguments, more].concat())
    };
    // One of the names is taken.
    let out = folder.file("out");
    fs::create_dir(&out).expect("a folder");
    fs::write(out.join("1.vhd"), "mine").expect("write");
    let before = snapshot(&out);
    assert_eq!(keep(&out, &["-O", "vhd"]).code, Some(5));
    assert!(snapshot(&out) == before);
    assert_eq!(keep(&out, &["-O", "vhd", "--force"]).code, Some(0));
    holds_states(&out, "vhd", &states);
    // Into the folder of the chain: other names are fine, its own are not.
    assert_eq!(keep(folder.path(), &["-O", "vhdx"]).code, Some(0));
    holds_states(folder.path(), "vhdx", &states);
    let before = snapshot(folder.path());
    assert_eq!(
        keep(folder.path(), &["-O", "qcow2", "--force"]).code,
        Some(5)
    );
    // Formats and options that do not go, and places that are none.
    let none = folder.file("none");
    for options in [
        &["-O", "raw"][..],
        &["-O", "vmdk"],
        &["-O", "vdi"],
        &["-O", "ova"],
        &["-O", "vhd", "-o", "subformat=fixed"],
        &["-O", "vhdx", "-o", "block_size=3M"],
        &["-O", "qcow2", "-o", "data_file=d.raw"],
        &["-O", "qcow2", "-B", "0.qcow2"],
        &["-O", "qcow2", "--layer", "0"],
        &["-O", "qcow2", "--salvage"],
        &["-O", "qcow2", "--size", "1G"],
        &["-O", "qcow2", "--for", "azure"],
    ] {
        let done = keep(&none, options);
        assert_eq!(done.code, Some(2), "{options:?}: {}", done.stderr);
    }
    assert_eq!(keep(&states[0], &["-O", "vhd"]).code, Some(2));
    // A layer that cannot be read to its end.
    let base = folder.file("0.qcow2");
    let bytes = fs::read(&base).expect("read");
    fs::write(&base, &bytes[..bytes.len() - 300_000]).expect("write");
    assert_eq!(keep(&none, &["-O", "vhd"]).code, Some(3));
    fs::write(&base, &bytes).expect("write");
    let after = snapshot(folder.path());
    let names = |all: &common::damage::Snapshot| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
}

#[test]
fn two_layers_of_one_name_are_refused() {
    let folder = Folder::new();
    let mut base = Vhd::new(1 << 20, 512 << 10, 1);
    base.block(0, noise(1, 512 << 10), |_| true);
    let child = Vhd::on(1 << 20, 512 << 10, 2, &base, "web.vhd");
    base.write(&folder.file("web.vhd"));
    child.write(&folder.file("web.avhd"));
    let out = folder.file("out");
    let tip = folder.file("web.avhd");
    let keep = ["convert", s(&tip), s(&out), "--keep-chain", "-O", "qcow2"];
    let done = run(&keep);
    assert_eq!(done.code, Some(5));
    assert!(done.stderr.contains("web.vhd") && done.stderr.contains("web.avhd"));
    assert!(!out.exists());
}

#[test]
fn the_same_chain_is_the_same_bytes_however_many_threads() {
    let folder = Folder::new();
    let states = states(&folder);
    let tip = chain(&folder, &states, "qcow2");
    for format in ["vhd", "vhdx", "qcow2"] {
        let made = ["1", "7"].map(|jobs| {
            let out = folder.file(&format!("{format}-{jobs}"));
            let options = ["--keep-chain", "-O", format, "--reproducible", "-j", jobs];
            convert(&tip, &out, &options);
            (0..4)
                .map(|n| fs::read(out.join(format!("{n}.{format}"))).expect("read"))
                .collect::<Vec<_>>()
        });
        assert!(made[0] == made[1], "{format}");
    }
}

#[test]
fn a_vhd_stands_on_a_vhd_beside_it_only() {
    let folder = Folder::new();
    let states = states(&folder);
    convert(&states[0], &folder.file("base.vhd"), &[]);
    convert(&states[0], &folder.file("base.qcow2"), &[]);
    let target = folder.file("tip.vhd");
    for (backing, options, code) in [
        ("base.qcow2", &[][..], 5),
        (s(&folder.file("base.vhd")), &[], 5),
        ("base.vhd", &["-o", "subformat=fixed"], 2),
        ("base.vhd", &["-c"], 2),
    ] {
        let arguments = ["convert", s(&states[1]), s(&target), "-B", backing];
        let done = run(&[&arguments, options].concat());
        assert_eq!(done.code, Some(code), "{backing}: {}", done.stderr);
        assert!(!target.exists());
    }
    // Its bytes do not depend on the moment.
    let made = [0, 1].map(|_| {
        let options = ["-B", "base.vhd", "--reproducible", "--force"];
        convert(&states[1], &target, &options);
        fs::read(&target).expect("read")
    });
    assert!(made[0] == made[1]);
}

#[test]
fn chains_of_the_corpus_are_kept() {
    let Some(corpus) = named_by("DISKFERRY_CORPUS") else {
        return;
    };
    let manifest = fs::read_to_string(corpus.join("MANIFEST.tsv")).expect("MANIFEST.tsv");
    for (tip, layers) in [
        ("rubiojr+go-vhd/test-images/win8-child.vhd", 2),
        (
            "fox-it+dissect.hypervisor/tests/_data/disk/qcow2/backing-chain-1.qcow2",
            3,
        ),
    ] {
        let row = manifest.lines().find(|line| line.starts_with(tip));
        let row = row.expect("its row");
        let (digest, _) = guest_digest(&corpus.join(tip), &[]);
        assert!(row.contains(&digest), "{tip}: {digest}");
        let folder = Folder::new();
        for format in ["qcow2", "vhd", "vhdx"] {
            let out = folder.file(format);
            let options = ["--keep-chain", "-O", format, "--verify"];
            let answer = convert(&corpus.join(tip), &out, &options);
            assert_eq!(answer["disks"].as_array().map(Vec::len), Some(layers));
            let stem = Path::new(tip).file_stem().expect("a name");
            let new = out.join(stem).with_extension(format);
            assert_eq!(guest_digest(&new, &[]).0, digest, "{tip} as {format}");
        }
    }
}
