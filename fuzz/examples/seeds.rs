//! Writes what the fuzz targets start from: small images of every kind, each also in the shape its target wants.

#[path = "../../formats/tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::Result;
use std::path::Path;

use common::{luks, qcow2, samples};
use formats::Format;

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
