//! BATs of VHDXs that are damaged or hostile.

mod common;

use common::vhdx::wrong::{is, kind, malformed, sound};
use common::vhdx::{Block, FULL, KIB, LOG, MIB, PARTIAL, REGIONS, Vhdx, region};
use formats::reader::read_guest;
use formats::{ErrorKind, Format, OpenContext, open_storage};

const MB: u64 = MIB as u64;

#[test]
fn a_bat_too_short_for_the_disk() {
    // 131072 entries of eight bytes are a MiB; of a MiB each, with an entry for each 4096.
    let most = 131_072u64 - 131_072 / 4097;
    for (blocks, fits) in [(most - 1, true), (most + 1, false)] {
        let built = sound().build();
        let (_, size_at) = built.items[1];
        let built = built.with(size_at, &(blocks * MB).to_le_bytes());
        assert_eq!(kind(&built).is_none(), fits, "{blocks}");
    }
    let built = sound().build();
    let (_, size_at) = built.items[1];
    malformed(built.with(size_at, &(1u64 << 40).to_le_bytes()), "1 TiB");
}

#[test]
fn entries_that_lead_into_something_else() {
    let image = sound();
    let places = [
        0,
        LOG as u64,
        image.metadata_at() as u64,
        image.bat_at() as u64,
    ];
    for place in places {
        malformed(
            image.build().with_bat(1, place | FULL),
            &format!("a block at {place}"),
        );
    }
    // A block of 4 MiB that starts in front of the log cannot be; but one may reach into what is behind it.
    let image = Vhdx {
        block_size: 4 * MIB as u32,
        ..Vhdx::new(8 * MB, &[(0, Block::Full)])
    };
    let mut built = image.build();
    let far = built.append(MIB);
    let built = built.with_both(REGIONS, 8, &[3]).with_region(
        2,
        &region("cccccccc-0000-4000-8000-00000000000c", far, MIB as u32, 0),
    );
    assert_eq!(kind(&built), None);
    malformed(built.with_bat(1, (far - MB) | FULL), "into a region");
}

#[test]
fn blocks_past_the_end_of_the_file() {
    let image = sound();
    let built = image.build();
    let end = built.len as u64;
    for place in [end, end + MB, 1 << 40, !0xF_FFFF] {
        is(
            image.build().with_bat(1, place | FULL),
            ErrorKind::Truncated,
            &format!("{place}"),
        );
    }
    let image = image.build().with_bat(1, end | FULL);
    let (storage, entry) = (image.storage(), (image.bat + 8) as u64);
    let opened = open_storage(storage.clone(), None, &OpenContext::default()).expect("open");
    let error = formats::run_at(opened.source.as_ref(), MB, 1).expect_err("no block");
    assert_eq!(error.path(), Some(storage.path()));
    assert_eq!(
        (error.structure(), error.offset()),
        ("BAT entry", Some(entry))
    );
    for cut in [1, 4096, MIB, 2 * MIB] {
        let len = built.len - cut;
        is(
            built.clone().cut(len),
            ErrorKind::Truncated,
            &format!("{cut}"),
        );
    }
}

#[test]
fn a_file_cut_off_in_its_tables() {
    let built = sound().build();
    let cuts = [
        built.bat + MIB - 1,
        built.bat + 1,
        built.metadata + 70 * KIB,
        built.metadata + 1,
    ];
    for len in cuts {
        is(
            built.clone().cut(len),
            ErrorKind::Truncated,
            &format!("{len}"),
        );
    }
    for len in [8, KIB, 65 * KIB, 130 * KIB, 200 * KIB, MIB] {
        let found = kind(&built.clone().cut(len));
        let fine = [Some(ErrorKind::Malformed), Some(ErrorKind::Truncated)];
        assert!(fine.contains(&found), "{len}: {found:?}");
    }
}

#[test]
fn two_blocks_in_one_place() {
    let built = sound().build();
    let entry = built.bat_entry(0);
    malformed(built.with_bat(3, entry), "the same place");
    // Larger blocks that overlap in part.
    let image = Vhdx {
        block_size: 4 * MIB as u32,
        ..Vhdx::new(16 * MB, &[(0, Block::Full), (2, Block::Full)])
    };
    let built = image.build();
    let entry = built.bat_entry(0) + MB;
    malformed(built.with_bat(1, entry), "a part");
    // Far apart: in other pages of the BAT.
    let image = Vhdx::new(40 << 30, &[(0, Block::Full)]);
    let built = image.build();
    let entry = built.bat_entry(0);
    let last = image.block_count() - 1;
    let built = built.with_bat(image.bat_index(last), entry);
    let image = open_storage(built.storage(), None, &OpenContext::default()).expect("open");
    let mut byte = [0];
    let both = [0, last * MB].map(|at| read_guest(image.source.as_ref(), at, &mut byte));
    let kinds = both.map(|read| read.err().map(|e| e.kind()));
    assert!(kinds.contains(&Some(ErrorKind::Malformed)), "{kinds:?}");
}

#[test]
fn states_that_a_block_cannot_have() {
    let built = sound().build();
    let place = built.bat_entry(0) & !0xF_FFFF;
    for state in [4, PARTIAL] {
        malformed(
            built.clone().with_bat(0, place | state),
            &format!("state {state}"),
        );
    }
    // Reserved bits lead nowhere else, and checking tells of them.
    for bit in 3..20 {
        let built = built.clone().with_bat(0, place | FULL | 1 << bit);
        assert_eq!(kind(&built), None, "bit {bit}");
        let found = common::check(&built.bytes(), Format::Vhdx).expect("a report");
        assert_eq!(found.len(), 1, "bit {bit}: {found:?}");
    }
}
