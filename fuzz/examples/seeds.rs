//! Writes what the fuzz targets start from: small images of every kind, each also in the shape its target wants.

#[path = "../../formats/tests/common/mod.rs"]
mod common;
#[path = "../../machines/tests/common/mod.rs"]
mod texts;

use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

use common::{luks, package, qcow2, samples};
use formats::Format;
use machines::profiles::PROFILES;
use machines::{toml_file, vmx, xva};

/// Bytes of the largest file that a seed is made from.
const SMALL: u64 = 48 << 10;

/// A machine in every language, a manifest, and names of files.
fn descriptions() -> Vec<(&'static str, &'static str, String)> {
    let machine = texts::full_machine();
    let mut all = vec![
        ("href", "plain", "web-disk1.vmdk".to_owned()),
        ("href", "folder", "./a/b%20c.vmdk".to_owned()),
        ("href", "url", "http://a/b".to_owned()),
        (
            "manifest",
            "manifest",
            format!(
                "SHA1(a.ovf)= {}\nSHA256(b c (1).vmdk)= {}\n",
                "0".repeat(40),
                "a".repeat(64)
            ),
        ),
    ];
    let written = texts::rewrite::descriptor(&machine, &PROFILES[1]);
    all.extend(written.map(|text| ("ovf", "full", text)));
    let written = xva::write(std::slice::from_ref(&machine), b"").ok();
    all.extend(written.map(|exported| ("ova_xml", "full", exported.written.text)));
    let written = vmx::write(&machine).ok();
    all.extend(written.map(|written| ("vmx", "full", written.text)));
    let written = toml_file::write(&machine).ok();
    all.extend(written.map(|text| ("machine_toml", "full", text)));
    all
}

/// What is small of the packages and descriptions below `folder`, and the target for each.
fn small(folder: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let (mut found, mut waiting) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder)? {
            let (path, meta) = entry.and_then(|e| Ok((e.path(), e.metadata()?)))?;
            if meta.is_dir() {
                waiting.push(path);
                continue;
            }
            let target = match path.extension().and_then(|e| e.to_str()) {
                Some("ovf") => "ovf",
                Some("vmx") => "vmx",
                Some("mf") => "manifest",
                Some("cert") => "certificate",
                Some("ova") => "tar",
                Some("xva") => "xva",
                _ => continue,
            };
            if meta.len() <= SMALL {
                found.push((target, path));
            }
        }
    }
    Ok(found)
}

fn main() -> Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, parts: &[&[u8]]| {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), parts.concat())
    };
    for (name, format, image) in samples() {
        // Whole MiBs of next to nothing.
        if format == Format::Vhdx {
            continue;
        }
        write("probe", name, &[&[0], &image])?;
        match format {
            Format::Vhd => {
                write("vhd", name, &[&[1], &image])?;
                if name == "differencing.vhd" {
                    write("locator", name, &[&image[552..1280]])?;
                }
            }
            Format::Vmdk => {
                let target = match name {
                    "split.vmdk" => "vmdk_descriptor",
                    "sparse.vmdk" => "vmdk_sparse",
                    "cowd.vmdk" => "vmdk_cowd",
                    "sesparse.vmdk" => "vmdk_sesparse",
                    _ => "vmdk_stream",
                };
                let how = u8::from(name == "unmarked.vmdk");
                write(target, name, &[&[how], &image])?;
            }
            Format::Vdi => write("vdi", name, &[&[0], &image])?,
            _ => write("qcow2", name, &[&[0], &image])?,
        }
    }
    write("luks", "header", &[&luks::header()])?;
    let content: Vec<u8> = (0..4096u32).map(|i| (i / 7) as u8).collect();
    // 3 << 2: a unit of 4 KiB.
    write("codec", "deflate", &[&[3 << 2], &qcow2::deflate(&content)])?;
    write("codec", "zstd", &[&[2 | 3 << 2], &qcow2::zstd(&content)])?;
    let frames = [qcow2::zstd(&content[..99]), qcow2::zstd(&content[99..])].concat();
    write("codec", "zstd-frames", &[&[2 | 3 << 2], &frames])?;
    write("tar", "archive", &[&[1], &package::archive()])?;
    write("tar", "export", &[&[1], &package::export()])?;
    write("xva", "export", &[&[0], &package::export()])?;
    for (target, name, text) in descriptions() {
        write(target, name, &[text.as_bytes()])?;
    }
    let certificate = include_bytes!("../../machines/src/certificate/rsa.cert");
    write("certificate", "rsa.cert", &[certificate])?;
    if let Some(folder) = std::env::var_os("DISKFERRY_CORPUS") {
        let mut found = 0;
        for (target, file) in small(Path::new(&folder))? {
            found += 1;
            let how: &[u8] = if matches!(target, "tar" | "xva") {
                &[1]
            } else {
                &[]
            };
            write(target, &format!("corpus-{found}"), &[how, &fs::read(file)?])?;
        }
    }
    // What was found before.
    let bad = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/bad");
    for entry in fs::read_dir(bad)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let target = match path.extension().and_then(|e| e.to_str()) {
            Some("vhd") => "vhd",
            Some("vdi") => "vdi",
            Some("qcow2") => "qcow2",
            _ => continue,
        };
        write(target, &format!("bad-{name}"), &[&[0], &fs::read(&path)?])?;
    }
    Ok(())
}
