//! `merge`: a delta into its own parent, and the same disk at every moment.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::damage::snapshot;
use common::peers::{have_qemu, qemu_img};
use common::{Folder, convert, diskferry, guest_digest, kills, noise, patched, run, run_ok, s};

const MIB: u64 = 1 << 20;

/// Formats of chains, what a base is made with, and what a delta is made with.
const CHAINS: &[(&str, &[&str], &[&str])] = &[
    ("vhd", &[], &[]),
    ("vhd", &["-o", "block_size=64k"], &["-o", "block_size=512k"]),
    ("vhd", &["-o", "subformat=fixed"], &[]),
    ("vhdx", &["-o", "block_size=1M"], &[]),
    ("vhdx", &["-o", "subformat=fixed"], &[]),
    ("qcow2", &[], &[]),
    ("qcow2", &["-c"], &["-o", "cluster_size=4k"]),
    (
        "qcow2",
        &["-o", "cluster_size=2M"],
        &["-o", "extended_l2=on"],
    ),
    (
        "qcow2",
        &["-o", "extended_l2=on"],
        &["-o", "cluster_size=512"],
    ),
];

/// Three layers and the disks of each.
struct Chain {
    folder: Folder,
    layers: [PathBuf; 3],
    disks: [PathBuf; 3],
}

impl Chain {
    fn new(format: &str, base: &[&str], delta: &[&str]) -> Chain {
        let folder = Folder::new();
        let disks = [0, 1, 2].map(|n| folder.file(&format!("disk{n}.raw")));
        let layers = [0, 1, 2].map(|n| folder.file(&format!("layer{n}.{format}")));
        fs::write(&disks[0], noise(1, 5 << 20)).expect("write");
        let file = fs::File::options()
            .write(true)
            .open(&disks[0])
            .expect("open");
        file.set_len(16 * MIB).expect("a length");
        let zeros = vec![0; 100_000];
        patched(
            &disks[0],
            &disks[1],
            &[
                (70_000, &noise(2, 1)),
                (MIB, &zeros),
                (9 * MIB, &noise(3, 300_000)),
            ],
        );
        patched(
            &disks[1],
            &disks[2],
            &[
                (9 * MIB + 700, &noise(4, 5)),
                (2 * MIB, &zeros),
                (15 * MIB, &noise(5, 60_000)),
            ],
        );
        convert(&disks[0], &layers[0], base);
        for n in [1, 2] {
            let below = format!("layer{}.{format}", n - 1);
            convert(&disks[n], &layers[n], &[&["-B", &below], delta].concat());
        }
        Chain {
            folder,
            layers,
            disks,
        }
    }
}

fn is_same(image: &Path, raw: &Path, what: &str) {
    let finished = run(&["compare", s(image), s(raw)]);
    assert_eq!(finished.code, Some(0), "{what}: {}", finished.text());
}

fn merge(child: &Path, options: &[&str]) -> String {
    run_ok(&[&["merge", s(child)], options].concat()).stderr
}

#[test]
fn a_tip_and_a_middle_layer_go_into_what_they_stand_on() {
    for (format, base, delta) in CHAINS {
        let what = format!("{format} {base:?} {delta:?}");
        let chain = Chain::new(format, base, delta);
        let ids = |layer: &Path| run_ok(&["info", s(layer), "--json"]).json()["identity"].clone();
        let (middle, tip) = (&chain.layers[1], &chain.layers[2]);
        let id = ids(middle);
        merge(tip, &["--verify"]);
        for image in [middle, tip] {
            is_same(image, &chain.disks[2], &what);
            run_ok(&["check", s(image)]);
        }
        assert_eq!(ids(middle), id, "{what}");
        let chain_of = run_ok(&["info", "--chain", s(tip)]);
        assert_eq!(chain_of.stderr, "", "{what}");
        // Again, and away with it.
        merge(tip, &["--remove"]);
        assert!(!tip.exists(), "{what}");
        is_same(middle, &chain.disks[2], &what);
        merge(middle, &["--remove", "--verify"]);
        is_same(&chain.layers[0], &chain.disks[2], &what);
        run_ok(&["check", s(&chain.layers[0])]);
        if have_qemu() && *format == "qcow2" {
            qemu_img(&["check", s(&chain.layers[0])]);
            let (image, raw) = (s(&chain.layers[0]), s(&chain.disks[2]));
            qemu_img(&["compare", "-f", "qcow2", "-F", "raw", image, raw]);
        }
        // In the middle of a chain the tip goes on.
        let chain = Chain::new(format, base, delta);
        merge(&chain.layers[1], &[]);
        for (layer, disk) in chain.layers.iter().zip([1, 1, 2]) {
            is_same(layer, &chain.disks[disk], &what);
        }
    }
}

#[test]
fn vmdk_deltas_of_others_are_merged() {
    if !have_qemu() {
        return;
    }
    let folder = Folder::new();
    let (old, new) = (folder.file("old.raw"), folder.file("new.raw"));
    fs::write(&old, noise(1, 5 << 20)).expect("write");
    patched(
        &old,
        &new,
        &[(70_000, &noise(2, 1)), (3_000_000, &noise(3, 300_000))],
    );
    for kind in ["monolithicSparse", "monolithicFlat", "vmfs"] {
        let (base, child) = (folder.file("base.vmdk"), folder.file("child.vmdk"));
        convert(
            &old,
            &base,
            &["-o", &format!("subformat={kind}"), "--force"],
        );
        let _ = fs::remove_file(&child);
        qemu_img(&[
            "create",
            "-f",
            "vmdk",
            "-b",
            s(&base),
            "-F",
            "vmdk",
            s(&child),
        ]);
        // qemu-img writes into a delta that is there.
        qemu_img(&[
            "convert",
            "-n",
            "-f",
            "raw",
            "-O",
            "vmdk",
            s(&new),
            s(&child),
        ]);
        is_same(&child, &new, kind);
        merge(&child, &["--verify", "--remove"]);
        is_same(&base, &new, kind);
        run_ok(&["check", s(&base)]);
        qemu_img(&["compare", "-f", "vmdk", "-F", "raw", s(&base), s(&new)]);
    }
}

#[test]
fn a_delta_of_another_size_gives_its_parent_that_size() {
    for (format, base, delta) in CHAINS {
        for size in ["24M", "8M"] {
            let what = format!("{format} {base:?} {delta:?} {size}");
            let chain = Chain::new(format, base, delta);
            let tip = chain.folder.file(&format!("tip.{format}"));
            fs::remove_file(&chain.layers[2]).expect("remove");
            let below = format!("layer1.{format}");
            let source = match size {
                "8M" => {
                    fs::remove_file(&chain.layers[1]).expect("remove");
                    convert(
                        &chain.disks[0],
                        &chain.layers[1],
                        &[&["-B", &format!("layer0.{format}")], *delta].concat(),
                    );
                    &chain.disks[0]
                }
                _ => &chain.disks[2],
            };
            let sized = ["-B", &below, "--size", size, "--shrink"];
            convert(source, &tip, &[&sized, *delta].concat());
            let expected = guest_digest(&tip, &[]);
            let finished = run(&["merge", s(&tip), "--verify"]);
            assert_eq!(finished.code, Some(0), "{what}: {}", finished.stderr);
            assert_eq!(guest_digest(&chain.layers[1], &[]), expected, "{what}");
            assert_eq!(guest_digest(&tip, &[]), expected, "{what}");
            run_ok(&["check", s(&chain.layers[1])]);
        }
    }
}

#[test]
fn parents_with_other_children_and_children_with_others_on_them_are_refused() {
    for (format, base, delta) in CHAINS {
        let chain = Chain::new(format, base, delta);
        let before = snapshot(chain.folder.path());
        let finished = run(&["merge", s(&chain.layers[1]), "--remove"]);
        assert_eq!(finished.code, Some(5), "{}", finished.stderr);
        assert!(snapshot(chain.folder.path()) == before, "something changed");
        let sibling = chain.folder.file(&format!("sibling.{format}"));
        convert(
            &chain.disks[2],
            &sibling,
            &["-B", &format!("layer1.{format}")],
        );
        let before = snapshot(chain.folder.path());
        let finished = run(&["merge", s(&chain.layers[2])]);
        assert_eq!(finished.code, Some(5), "{}", finished.stderr);
        assert!(finished.stderr.contains("sibling"), "{}", finished.stderr);
        let finished = run(&["merge", s(&chain.layers[0])]);
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(snapshot(chain.folder.path()) == before, "something changed");
    }
}

#[test]
fn a_kill_at_any_moment_changes_nothing_of_the_disk() {
    let mut random = noise(23, 4000).into_iter();
    for (format, base, delta) in CHAINS {
        let chain = Chain::new(format, base, delta);
        let tip = &chain.layers[2];
        for round in 0..kills(CHAINS.len(), 6) {
            let mut running = diskferry()
                .args(["merge", s(tip)])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("diskferry");
            let wait = 100 * u64::from(random.next().expect("a byte"));
            std::thread::sleep(Duration::from_micros(wait));
            let _ = running.kill();
            running.wait().expect("its end");
            let what = format!("{format} {base:?} {delta:?}, {round} after {wait} µs");
            is_same(tip, &chain.disks[2], &what);
        }
        merge(tip, &["--verify", "--remove"]);
        is_same(&chain.layers[1], &chain.disks[2], format);
        run_ok(&["check", s(&chain.layers[1])]);
    }
}

#[test]
fn whoever_stands_on_the_parent_is_found_under_any_name() {
    if !have_qemu() {
        return;
    }
    let chain = Chain::new("qcow2", &[], &[]);
    let folder = chain.folder.path().to_owned();
    let create = |name: &str, backing: &str| {
        let other = chain.folder.file(name);
        let arguments = [
            "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing,
        ];
        let (code, told) = qemu_img(&[&arguments[..], &[s(&other), "16M"]].concat());
        assert_eq!(code, Some(0), "{told}");
        other
    };
    let absolute = s(&chain.layers[1]).to_owned();
    let by_url = format!("file:{absolute}");
    let by_json = format!(
        "json:{{\"driver\":\"qcow2\",\"file\":{{\"driver\":\"file\",\"filename\":\"{absolute}\"}}}}"
    );
    std::os::unix::fs::symlink("layer1.qcow2", folder.join("alias")).expect("a link");
    for (name, backing) in [
        ("sibling.snap2", "layer1.qcow2"),
        ("sibling", "./layer1.qcow2"),
        ("sibling.qcow2", "alias"),
        ("sibling.img", &absolute),
        ("sibling.1", &by_url),
        ("sibling.2", &by_json),
    ] {
        let other = create(name, backing);
        let before = snapshot(&folder);
        for options in [&[][..], &["--remove"]] {
            let merged = run(&[&["merge", s(&chain.layers[2])], options].concat());
            assert_eq!(
                merged.code,
                Some(5),
                "{name} on {backing}: {}",
                merged.text()
            );
            assert!(merged.stderr.contains("sibling"), "{}", merged.stderr);
        }
        assert!(
            snapshot(&folder) == before,
            "{name} on {backing}: something changed"
        );
        fs::remove_file(other).expect("remove");
    }
    merge(&chain.layers[2], &["--verify", "--remove"]);
    is_same(&chain.layers[1], &chain.disks[2], "merged");
}

#[test]
fn snapshots_inside_a_delta_are_not_merged_away() {
    if !have_qemu() {
        return;
    }
    let chain = Chain::new("qcow2", &[], &[]);
    let tip = &chain.layers[2];
    let (code, told) = qemu_img(&["snapshot", "-c", "before", s(tip)]);
    assert_eq!(code, Some(0), "{told}");
    let before = snapshot(chain.folder.path());
    for options in [&[][..], &["--remove"]] {
        let merged = run(&[&["merge", s(tip)], options].concat());
        assert_eq!(merged.code, Some(5), "{}", merged.text());
    }
    assert!(snapshot(chain.folder.path()) == before, "something changed");
}
