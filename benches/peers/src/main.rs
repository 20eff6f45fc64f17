//! Reads qcow2 images to their end through diskferry, imago and qcow2-rs, one after the other in one run, and holds what
//! they read against each other.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml -- IMAGE.qcow2 …`
//!
//! Each reads the whole guest content in steps of 1 MiB on one thread; diskferry's engine besides on all cores.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use formats::OpenContext;
use formats::reader::read_guest;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use qcow2_rs::dev::Qcow2DevParams;
use qcow2_rs::helpers::Qcow2IoBuf;

/// Bytes of one read.
const STEP: usize = 1 << 20;

type Fault = Box<dyn std::error::Error>;

/// A sum that notices bytes that stand elsewhere.
#[derive(Default, PartialEq)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for word in bytes.chunks_exact(8) {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }
}

/// Reads `size` bytes with `read`, which gets a buffer and an offset.
fn read_all(
    size: u64,
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> Result<(), Fault>,
) -> Result<Sum, Fault> {
    let mut sum = Sum::default();
    let mut at = 0;
    while at < size {
        let len = (size - at).min(STEP as u64) as usize;
        read(&mut buffer[..len], at)?;
        sum.add(&buffer[..len]);
        at += len as u64;
    }
    Ok(sum)
}

fn with_diskferry(path: &Path) -> Result<Sum, Fault> {
    let image = formats::open(path, None, &OpenContext::default())?;
    let source = image.source.as_ref();
    read_all(source.size(), &mut vec![0; STEP], |buffer, at| {
        Ok(read_guest(source, at, buffer)?)
    })
}

fn with_imago(path: &Path) -> Result<Sum, Fault> {
    let gate = PermissiveImplicitOpenGate::default();
    let image = imago::qcow2::Qcow2::<imago::file::File>::builder_path(path).open(gate)?;
    let image = FormatAccess::new(image);
    read_all(image.size(), &mut vec![0; STEP], |buffer, at| {
        Ok(image.read(buffer, at)?)
    })
}

fn with_qcow2_rs(path: &Path) -> Result<Sum, Fault> {
    let params = Qcow2DevParams::new(9, None, None, true, false);
    let device = qcow2_rs::utils::qcow2_setup_dev_sync(path, &params)
        .map_err(|e| format!("{e:?}"))?;
    futures::executor::block_on(device.qcow2_prep_io()).map_err(|e| format!("{e:?}"))?;
    let mut buffer = Qcow2IoBuf::<u8>::new(STEP);
    let size = device.info.virtual_size();
    read_all(size, &mut buffer, |buffer, at| {
        let read = futures::executor::block_on(device.read_at(buffer, at));
        read.map(|_| ()).map_err(|e| format!("{e:?}").into())
    })
}

/// The engine on all cores: the fingerprint of the content, which hashes every segment.
fn with_engine(path: &Path) -> Result<(), Fault> {
    let image = formats::open(path, None, &OpenContext::default())?;
    let setting = transfer::Setting {
        threads: 16,
        cancel: &AtomicBool::new(false),
        progress: &transfer::Progress::default(),
        salvage: None,
    };
    let wanted = transfer::pass::Wanted {
        fingerprint: true,
        ..Default::default()
    };
    transfer::pass::run(image.source.as_ref(), &wanted, None, &setting)?;
    Ok(())
}

fn main() -> Result<(), Fault> {
    for path in std::env::args_os().skip(1) {
        let path = Path::new(&path);
        println!("{}", path.display());
        let mut first: Option<Sum> = None;
        let readers: [(&str, fn(&Path) -> Result<Sum, Fault>); 3] = [
            ("diskferry, one thread", with_diskferry),
            ("imago", with_imago),
            ("qcow2-rs", with_qcow2_rs),
        ];
        for (name, read) in readers {
            let started = Instant::now();
            let told = match (read(path), &first) {
                (Err(fault), _) => format!("fails: {fault}"),
                (Ok(sum), None) => {
                    first = Some(sum);
                    String::new()
                }
                (Ok(sum), Some(first)) if sum == *first => "reads the same".to_owned(),
                (Ok(_), Some(_)) => "reads OTHER CONTENT".to_owned(),
            };
            let seconds = started.elapsed().as_secs_f64();
            println!("  {name:<24} {seconds:8.2} s  {told}");
        }
        let started = Instant::now();
        with_engine(path)?;
        let seconds = started.elapsed().as_secs_f64();
        println!("  {:<24} {seconds:8.2} s  all cores, hashed", "diskferry's engine");
    }
    Ok(())
}
