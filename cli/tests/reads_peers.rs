//! Images that other software made read to the content that their makers put in.

mod common;

use std::path::{Path, PathBuf};

use common::peers::{have_qemu, qemu_finds_equal, qemu_raw, qemu_size};
use common::{
    Folder, convert, guest_digest, have, make_disk, run_ok, s, sha256sum, testdata, tool,
};

const MIB: u64 = 1 << 20;

/// A folder with `disk.raw` of `size` bytes, and what qemu-img makes of it.
struct Made {
    folder: Folder,
    raw: PathBuf,
}

impl Made {
    fn new(size: u64) -> Made {
        let folder = Folder::new();
        let raw = folder.file("disk.raw");
        make_disk(&raw, size);
        Made { folder, raw }
    }

    /// qemu-img's image of the disk, in `format` with `options`; `flags` stand before them.
    fn image(&self, format: &str, options: &str, flags: &[&str]) -> PathBuf {
        let image = self.folder.file("image");
        let mut arguments = vec!["convert", "-f", "raw", "-O", format];
        arguments.extend(flags);
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        arguments.extend([s(&self.raw), s(&image)]);
        tool("qemu-img", &arguments);
        image
    }
}

/// diskferry reads in `image` what qemu reads in it; `options` are for diskferry.
fn reads_as_qemu_does(format: &str, image: &Path, options: &[&str]) {
    let folder = Folder::new();
    let raw = folder.file("qemu.raw");
    qemu_raw(format, image, &raw);
    let (digest, size) = guest_digest(image, options);
    assert_eq!(size, raw.metadata().expect("its length").len());
    assert_eq!(digest, sha256sum(&raw), "{}", image.display());
}

#[test]
fn qcow2_of_every_layout() {
    if !have("qemu-img") {
        return;
    }
    let made = Made::new(9 * MIB + 512);
    let expected = (sha256sum(&made.raw), 9 * MIB + 512);
    let clusters = (9..=21).map(|bits| format!("cluster_size={}", 1 << bits));
    let refcounts = (0..=6).map(|order| format!("refcount_bits={}", 1 << order));
    let others = [
        "compat=0.10",
        "compat=1.1,lazy_refcounts=on",
        "preallocation=metadata",
        "preallocation=falloc",
        "preallocation=full",
        "extended_l2=on",
        "extended_l2=on,cluster_size=16k",
        "extended_l2=on,cluster_size=2M",
        "extended_l2=on,preallocation=metadata",
    ];
    for options in clusters.chain(refcounts).chain(others.map(str::to_owned)) {
        let image = made.image("qcow2", &options, &[]);
        assert_eq!(guest_digest(&image, &[]), expected, "{options}");
    }
}

#[test]
fn compressed_qcow2_of_every_kind() {
    if !have("qemu-img") {
        return;
    }
    let made = Made::new(6 * MIB);
    let expected = (sha256sum(&made.raw), 6 * MIB);
    for options in [
        "compression_type=zlib",
        "compression_type=zlib,compat=0.10",
        "compression_type=zlib,cluster_size=512",
        "compression_type=zlib,cluster_size=4k",
        "compression_type=zlib,cluster_size=2M",
        "compression_type=zlib,extended_l2=on",
        "compression_type=zstd",
        "compression_type=zstd,cluster_size=512",
        "compression_type=zstd,cluster_size=2M",
        "compression_type=zstd,extended_l2=on",
    ] {
        // Version 2 has zlib only, and no word for it.
        let options = options.replace("compression_type=zlib,compat=0.10", "compat=0.10");
        let image = made.image("qcow2", &options, &["-c"]);
        assert_eq!(guest_digest(&image, &[]), expected, "{options}");
    }
}

/// Writes with qemu-io: `commands` are its own.
fn qemu_io(format: &str, image: &Path, commands: &[&str]) {
    let mut arguments = vec!["-f", format];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(s(image));
    tool("qemu-io", &arguments);
}

#[test]
fn writes_zeros_and_discards_inside_clusters() {
    if !have_qemu() {
        return;
    }
    for options in ["", "extended_l2=on", "cluster_size=4k", "compat=0.10"] {
        let made = Made::new(4 * MIB);
        let image = made.image("qcow2", options, &[]);
        qemu_io(
            "qcow2",
            &image,
            &[
                "write -P 17 100k 3k",
                "write -z 200k 64k",
                "write -z 301k 5k",
                "discard 2M 256k",
                "write -P 5 2100k 512",
                "write -z -u 3M 128k",
            ],
        );
        reads_as_qemu_does("qcow2", &image, &[]);
    }
}

#[test]
fn snapshots_do_not_show() {
    if !have_qemu() {
        return;
    }
    let made = Made::new(2 * MIB);
    let image = made.image("qcow2", "", &[]);
    tool("qemu-img", &["snapshot", "-c", "before", s(&image)]);
    qemu_io("qcow2", &image, &["write -P 3 0 700k", "write -z 1M 128k"]);
    tool("qemu-img", &["snapshot", "-c", "between", s(&image)]);
    qemu_io("qcow2", &image, &["write -P 4 64k 64k"]);
    reads_as_qemu_does("qcow2", &image, &[]);
    // A snapshot of a disk that had another size.
    tool("qemu-img", &["resize", "-f", "qcow2", s(&image), "3M"]);
    qemu_io("qcow2", &image, &["write -P 6 2900k 64k"]);
    reads_as_qemu_does("qcow2", &image, &[]);
}

#[test]
fn chains_of_qcow2_and_raw() {
    if !have_qemu() {
        return;
    }
    for options in ["", "extended_l2=on", "compat=0.10", "cluster_size=512"] {
        let made = Made::new(4 * MIB);
        let over = |backing: &str, format: &str, name: &str, size: &str| {
            let image = made.folder.file(name);
            let mut arguments = vec!["create", "-f", "qcow2", "-F", format, "-b", backing];
            if !options.is_empty() {
                arguments.extend(["-o", options]);
            }
            arguments.extend([s(&image), size]);
            tool("qemu-img", &arguments);
            image
        };
        // Larger than its parent, then smaller, then larger again: zeros where a shorter layer ended.
        let middle = over("disk.raw", "raw", "middle.qcow2", "6M");
        qemu_io(
            "qcow2",
            &middle,
            &[
                "write -P 1 64k 200k",
                "write -z 1M 64k",
                "write -P 2 5M 300k",
            ],
        );
        reads_as_qemu_does("qcow2", &middle, &[]);
        let short = over("middle.qcow2", "qcow2", "short.qcow2", "3M");
        qemu_io(
            "qcow2",
            &short,
            &["write -P 3 70k 1k", "write -z 128k 1k", "discard 2M 64k"],
        );
        reads_as_qemu_does("qcow2", &short, &[]);
        let tip = over("short.qcow2", "qcow2", "tip.qcow2", "7M");
        qemu_io("qcow2", &tip, &["write -P 7 6M 1k", "write -P 8 1028k 512"]);
        reads_as_qemu_does("qcow2", &tip, &[]);
    }
}

#[test]
fn a_backing_file_of_any_format_that_is_read() {
    if !have_qemu() {
        return;
    }
    let made = Made::new(3 * MIB);
    let base = made.folder.file("base.vhd");
    tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "vpc",
            "-o",
            "force_size=on",
            s(&made.raw),
            s(&base),
        ],
    );
    let tip = made.folder.file("tip.qcow2");
    tool(
        "qemu-img",
        &[
            "create",
            "-f",
            "qcow2",
            "-F",
            "vpc",
            "-b",
            "base.vhd",
            s(&tip),
        ],
    );
    qemu_io("qcow2", &tip, &["write -P 9 1M 3k"]);
    reads_as_qemu_does("qcow2", &tip, &[]);
}

/// The name of the backing file counts from the folder of the image, wherever one stands.
#[test]
fn a_backing_file_in_a_folder_below() {
    if !have_qemu() {
        return;
    }
    let made = Made::new(MIB);
    let below = made.folder.file("below");
    std::fs::create_dir(&below).expect("a folder");
    std::fs::rename(&made.raw, below.join("base.raw")).expect("move");
    let tip = made.folder.file("tip.qcow2");
    tool(
        "qemu-img",
        &[
            "create",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            "below/base.raw",
            s(&tip),
        ],
    );
    // Below is not beside: it has to be allowed.
    assert_eq!(common::run(&["digest", s(&tip)]).code, Some(5));
    reads_as_qemu_does("qcow2", &tip, &["--allow-references", s(&below)]);
}

#[test]
fn an_external_data_file() {
    if !have_qemu() {
        return;
    }
    for raw in ["on", "off"] {
        let made = Made::new(3 * MIB);
        let data = made.folder.file("data");
        let options = format!("data_file={},data_file_raw={raw}", s(&data));
        let image = made.image("qcow2", &options, &[]);
        qemu_io("qcow2", &image, &["write -P 9 1M 3k", "write -z 2M 128k"]);
        // Made with its whole path, which leads into the image's own folder.
        reads_as_qemu_does(
            "qcow2",
            &image,
            &["--allow-references", s(made.folder.path())],
        );
    }
}

#[test]
fn vhd_of_every_kind() {
    if !have("qemu-img") {
        return;
    }
    for size in [MIB - 512, 10 * MIB, 31 * MIB + 1536] {
        let made = Made::new(size);
        for subformat in ["dynamic", "fixed"] {
            let exact = made.image("vpc", &format!("subformat={subformat},force_size=on"), &[]);
            assert_eq!(
                guest_digest(&exact, &["-f", "vhd"]),
                (sha256sum(&made.raw), size),
                "{subformat}"
            );
            // Rounded up to whole cylinders: diskferry sees what the footer says, as qemu does.
            let rounded = made.image("vpc", &format!("subformat={subformat}"), &[]);
            assert_eq!(
                guest_digest(&rounded, &["-f", "vhd"]).1,
                qemu_size("vpc", &rounded)
            );
            reads_as_qemu_does("vpc", &rounded, &["-f", "vhd"]);
        }
    }
}

#[test]
fn vmdk_of_every_kind() {
    if !have("qemu-img") {
        return;
    }
    // The last sector of the disk is no whole grain; the larger one needs two grain tables.
    for size in [MIB - 512, 33 * MIB + 1536] {
        let made = Made::new(size);
        let expected = (sha256sum(&made.raw), size);
        for options in [
            "subformat=monolithicSparse",
            "subformat=monolithicSparse,zeroed_grain=on",
            "subformat=monolithicSparse,compat6=on",
            "subformat=monolithicSparse,hwversion=13,adapter_type=lsilogic",
            "subformat=monolithicFlat",
            "subformat=twoGbMaxExtentSparse",
            "subformat=twoGbMaxExtentSparse,zeroed_grain=on",
            "subformat=twoGbMaxExtentFlat",
            "subformat=streamOptimized",
            "subformat=streamOptimized,adapter_type=buslogic",
        ] {
            let image = made.image("vmdk", options, &[]);
            assert_eq!(guest_digest(&image, &[]), expected, "{options}");
            let (raw, qcow2) = (made.folder.file("a.raw"), made.folder.file("a.qcow2"));
            convert(&image, &raw, &["--force"]);
            assert_eq!(sha256sum(&raw), expected.0, "{options}");
            convert(&image, &qcow2, &["--force", "--verify"]);
            assert!(
                qemu_finds_equal("qcow2", &qcow2, "raw", &made.raw),
                "{options}"
            );
        }
    }
}

/// qemu-img cuts at 2 GiB, VMware a little below.
#[test]
fn split_vmdks_of_several_extents() {
    if !have("qemu-img") {
        return;
    }
    let size = (4 << 30) + 3 * MIB + 512;
    let made = Made::new(size);
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let image = made.image("vmdk", &format!("subformat={subformat}"), &[]);
        let info = run_ok(&["info", s(&image), "--json"]).json();
        assert_eq!(info["details"]["extents"].as_array().map(Vec::len), Some(3));
        let qcow2 = made.folder.file("a.qcow2");
        convert(&image, &qcow2, &["--force"]);
        assert!(
            qemu_finds_equal("qcow2", &qcow2, "raw", &made.raw),
            "{subformat}"
        );
    }
}

#[test]
fn chains_of_vmdk() {
    if !have_qemu() {
        return;
    }
    for base in [
        "monolithicSparse",
        "monolithicFlat",
        "streamOptimized",
        "twoGbMaxExtentSparse",
    ] {
        let made = Made::new(4 * MIB);
        made.image("vmdk", &format!("subformat={base}"), &[]);
        // Each is written before the next is made: writing changes the id of an image.
        for (name, parent, options, commands) in [
            (
                "middle.vmdk",
                "image",
                "zeroed_grain=on",
                ["write -P 1 64k 200k", "write -z 1M 64k", "write -P 2 3M 3k"],
            ),
            (
                "tip.vmdk",
                "middle.vmdk",
                "compat6=on",
                [
                    "write -P 3 70k 1k",
                    "write -z 2M 64k",
                    "write -P 4 4193792 512",
                ],
            ),
        ] {
            let child = made.folder.file(name);
            let arguments = [
                "create", "-f", "vmdk", "-F", "vmdk", "-b", parent, "-o", options,
            ];
            tool("qemu-img", &[&arguments[..], &[s(&child)]].concat());
            qemu_io("vmdk", &child, &commands);
        }
        let tip = made.folder.file("tip.vmdk");
        reads_as_qemu_does("vmdk", &tip, &[]);
        let qcow2 = made.folder.file("tip.qcow2");
        convert(&tip, &qcow2, &["--verify"]);
        assert!(qemu_finds_equal("qcow2", &qcow2, "vmdk", &tip), "{base}");
    }
}

#[test]
fn vdi_of_every_kind() {
    if !have_qemu() {
        return;
    }
    for size in [MIB - 512, 10 * MIB, 31 * MIB + 1536] {
        let made = Made::new(size);
        let expected = (sha256sum(&made.raw), size);
        for options in ["static=off", "static=on"] {
            let image = made.image("vdi", options, &[]);
            assert_eq!(guest_digest(&image, &[]), expected, "{options}");
            let check = run_ok(&["check", s(&image)]).text();
            assert!(check.contains("no damage found"), "{check}");
            // A guest writes where there was nothing, and over what there was.
            let last = format!("write -P 3 {} 512", size - 512);
            qemu_io("vdi", &image, &["write -P 9 300k 3k", &last]);
            reads_as_qemu_does("vdi", &image, &[]);
        }
    }
}

#[test]
fn a_raw_disk_is_its_bytes() {
    for size in [1, 511, 512, 4097, MIB + 3] {
        let made = Made::new(size);
        assert_eq!(guest_digest(&made.raw, &[]), (sha256sum(&made.raw), size));
    }
}

/// Needs no other program: the digests were taken when the images were made.
#[test]
fn the_images_of_testdata() {
    let manifest = std::fs::read_to_string(testdata("MANIFEST.tsv")).expect("the manifest");
    let mut lines = manifest
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let header = lines.next().expect("a header");
    let column = |name: &str| header.iter().position(|h| *h == name).expect("a column");
    let mut read = 0;
    for row in lines {
        let image = testdata(row[column("file")]);
        let expected = (
            row[column("guest_sha256")].to_owned(),
            row[column("virtual_size")].parse().expect("a size"),
        );
        assert_eq!(guest_digest(&image, &[]), expected, "{}", image.display());
        let info = run_ok(&["info", s(&image), "--json"]).json();
        assert_eq!(info["format"], row[column("format")]);
        let folder = Folder::new();
        let raw = folder.file("disk.raw");
        convert(&image, &raw, &["--verify"]);
        assert_eq!(sha256sum(&raw), expected.0, "{}", image.display());
        read += 1;
    }
    assert!(read >= 5, "only {read} images in the manifest");
}
