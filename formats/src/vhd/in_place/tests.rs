//! Conversions in memory: every state that a crash leaves is gone on with, to the same image.

use std::sync::Arc;

use super::{Conversion, Resumed, Start, Used};
use crate::driver::{Driver, Head, OpenContext};
use crate::error::{Error, ErrorKind, Result};
use crate::in_place::InPlace;
use crate::in_place::crash::{CrashFile, CrashLog};
use crate::reader::read_guest;
use crate::storage::{MemoryStorage, Storage};
use crate::vhd::VhdDriver;
use crate::vhd::footer::{DiskType, FOOTER_LEN, Footer};

/// Guest bytes in a block: small, so that many states can be looked at.
const BLOCK: u64 = 8192;

const ID: [u8; 16] = [7; 16];

/// A disk of `size` bytes, of whose blocks those in `used` hold something, no two the same.
fn content(size: u64, used: &[u64]) -> Vec<u8> {
    let mut disk = vec![0; size as usize];
    for number in used {
        let start = (number * BLOCK) as usize;
        let end = (start + BLOCK as usize).min(disk.len());
        // Of some only one page.
        let end = if number % 3 == 1 {
            end.min(start + 700)
        } else {
            end
        };
        for (at, byte) in disk[start..end].iter_mut().enumerate() {
            *byte = (number * 31 + at as u64 / 64 + 1) as u8 | 1;
        }
    }
    disk
}

fn fixed(disk: &[u8]) -> Vec<u8> {
    let footer = Footer::new(DiskType::Fixed, disk.len() as u64, ID, 0);
    [disk, &footer.to_bytes()].concat()
}

fn start(disk: &[u8]) -> Start {
    let used = Used::new(disk.len() as u64, BLOCK);
    for (number, block) in (0..).zip(disk.chunks(BLOCK as usize)) {
        if block.iter().any(|byte| *byte != 0) {
            used.insert(number);
        }
    }
    Start {
        used,
        block_size: BLOCK,
        data_bytes: 1,
        fingerprint: [3; 32],
        unix_time: 1 << 30,
    }
}

fn go_on(mut conversion: Conversion<CrashFile>) -> Result<()> {
    while conversion.step()? {}
    conversion.write_tables()?;
    conversion.disk()?;
    conversion.finish()
}

/// What the command does, however far it was.
fn run(file: &Arc<CrashFile>, disk: &[u8]) -> Result<()> {
    match Conversion::resume(file.clone())? {
        Some(Resumed::Half(conversion)) => return go_on(*conversion),
        Some(Resumed::Fixed) => {}
        None => {
            // Done already.
            let layer = VhdDriver.open(file.clone(), &OpenContext::default())?;
            if layer.info.subformat == "dynamic" {
                return Ok(());
            }
        }
    }
    go_on(Conversion::begin(file.clone(), &start(disk))?)
}

fn disk_in(bytes: &[u8]) -> Result<(String, Vec<u8>)> {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let layer = VhdDriver.open(storage, &OpenContext::default())?;
    let mut disk = vec![0; layer.source.size() as usize];
    read_guest(layer.source.as_ref(), 0, &mut disk)?;
    Ok((layer.info.subformat, disk))
}

fn disks() -> Vec<Vec<u8>> {
    let all = |blocks: u64| (0..blocks).collect::<Vec<_>>();
    vec![
        content(512, &[]),
        content(512, &[0]),
        content(BLOCK - 512, &all(1)),
        content(BLOCK, &all(1)),
        content(BLOCK + 512, &all(2)),
        content(5 * BLOCK, &[]),
        content(6 * BLOCK, &all(6)),
        content(12 * BLOCK, &[11]),
        content(12 * BLOCK - 512, &[0, 1, 5, 9, 10, 11]),
        content(16 * BLOCK, &[3, 4, 8, 9, 15]),
    ]
}

#[test]
fn a_fixed_disk_becomes_dynamic_and_holds_the_same() {
    for disk in disks()
        .into_iter()
        .chain([content(100 * BLOCK, &(0..97).collect::<Vec<_>>())])
    {
        let log = CrashLog::new();
        let file = log.file("a.vhd", fixed(&disk));
        run(&file, &disk).unwrap();
        let after = &log.files()[0];
        let (subformat, found) = disk_in(after).unwrap();
        assert_eq!(subformat, "dynamic");
        assert!(found == disk);
        let footer = after.last_chunk::<512>().unwrap();
        assert_eq!(Footer::parse(footer, 0).unwrap().unique_id, ID);
    }
}

#[test]
fn whatever_a_crash_leaves_is_gone_on_with() {
    for disk in disks() {
        let log = CrashLog::new();
        run(&log.file("a.vhd", fixed(&disk)), &disk).unwrap();
        let expected = log.files().remove(0);
        let states = log.crashes(|files, what| {
            let again = CrashLog::new();
            let file = again.file("a.vhd", files[0].clone());
            let before = disk_in(&files[0]);
            match &before {
                // The old image, the new one, or none.
                Ok((_, found)) => assert!(*found == disk, "{what}"),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Refused, "{what}: {e}"),
            }
            run(&file, &disk).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(again.files()[0] == expected, "{} bytes, {what}", disk.len());
        });
        assert!(states > 20, "{states}");
    }
}

#[test]
fn a_second_crash_is_survived_too() {
    let disk = content(9 * BLOCK, &[0, 1, 2, 5, 7, 8]);
    let log = CrashLog::new();
    run(&log.file("a.vhd", fixed(&disk)), &disk).unwrap();
    let (all, expected) = (log.changes(), log.files().remove(0));
    for stop in (0..all).step_by(3) {
        let first = CrashLog::new();
        first.fail_after(stop);
        run(&first.file("a.vhd", fixed(&disk)), &disk).unwrap_err();
        let second = CrashLog::new();
        run(&second.file("a.vhd", first.files().remove(0)), &disk).unwrap();
        assert!(second.files()[0] == expected);
        second.crashes(|files, what| {
            let third = CrashLog::new();
            run(&third.file("a.vhd", files[0].clone()), &disk)
                .unwrap_or_else(|e| panic!("{stop}, {what}: {e}"));
            assert!(third.files()[0] == expected, "{stop}, {what}");
        });
    }
}

#[test]
fn a_disk_that_fills_up_loses_nothing() {
    let disk = content(16 * BLOCK, &[3, 4, 8, 9, 15]);
    let log = CrashLog::new();
    run(&log.file("a.vhd", fixed(&disk)), &disk).unwrap();
    for stop in 0..log.changes() {
        let full = CrashLog::new();
        full.fail_after(stop);
        let error = run(&full.file("a.vhd", fixed(&disk)), &disk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        let again = CrashLog::new();
        run(&again.file("a.vhd", full.files().remove(0)), &disk).unwrap();
        assert!(again.files() == log.files(), "{stop}");
    }
}

/// A file system that cannot make holes.
#[derive(Debug)]
struct NoHoles(Arc<CrashFile>);

impl InPlace for NoHoles {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.0.set_len(len)
    }
    fn replace(&self, bytes: &[u8]) -> Result<()> {
        self.0.replace(bytes)
    }
    fn sync(&self) -> Result<()> {
        self.0.sync()
    }
}

impl Storage for NoHoles {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }
}

#[test]
fn without_holes_nothing_is_begun() {
    let disk = content(5 * BLOCK, &[1]);
    let log = CrashLog::new();
    let file = Arc::new(NoHoles(log.file("a.vhd", fixed(&disk))));
    let error: Error = Conversion::begin(file, &start(&disk)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(log.changes(), 0);
}

#[test]
fn what_others_rely_on_is_refused() {
    let disk = content(5 * BLOCK, &[1]);
    for change in [
        |footer: &mut Footer| footer.saved_state = true,
        |footer: &mut Footer| footer.hidden = true,
        |footer: &mut Footer| footer.disk_type = DiskType::Dynamic,
    ] {
        let mut footer = Footer::new(DiskType::Fixed, disk.len() as u64, ID, 0);
        change(&mut footer);
        let log = CrashLog::new();
        let file = log.file("a.vhd", [&disk[..], &footer.to_bytes()].concat());
        let error = Conversion::begin(file, &start(&disk)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(log.changes(), 0);
    }
}

/// A file that is half converted.
fn half(disk: &[u8]) -> Vec<u8> {
    let log = CrashLog::new();
    let file = log.file("a.vhd", fixed(disk));
    let mut conversion = Conversion::begin(file, &start(disk)).unwrap();
    conversion.step().unwrap();
    log.files().remove(0)
}

#[test]
fn a_half_converted_file_is_nothing_else() {
    let bytes = half(&content(16 * BLOCK, &[3, 4, 8, 9, 15]));
    let storage = MemoryStorage::new(bytes);
    assert!(VhdDriver.recognises(&Head::read(&storage).unwrap()));
    let error = crate::probe(&storage).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("--in-place"), "{error}");
    let storage = Arc::new(storage);
    for salvage in [false, true] {
        let context = OpenContext {
            salvage,
            ..OpenContext::default()
        };
        let error = VhdDriver.open(storage.clone(), &context).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
}

#[test]
fn a_damaged_journal_is_an_error_and_nothing_is_written() {
    let disk = content(16 * BLOCK, &[3, 4, 8, 9, 15]);
    let bytes = half(&disk);
    let len = bytes.len();
    let mut wrong = 0;
    let plan = len - 3 * 4096 - 2 * BLOCK as usize;
    for at in (plan..len)
        .step_by(7)
        .filter(|at| len - at > 512 || len - at < 480)
    {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let log = CrashLog::new();
        match run(&log.file("a.vhd", damaged), &disk) {
            Ok(()) => assert!(disk_in(&log.files()[0]).unwrap().1 == disk, "{at}"),
            Err(e) => {
                wrong += 1;
                assert_eq!(e.kind(), ErrorKind::Malformed, "{at}: {e}");
                assert_eq!(log.changes(), 0);
            }
        }
    }
    assert!(wrong > 50, "{wrong}");
    assert!(bytes.len() as u64 > FOOTER_LEN);
}
