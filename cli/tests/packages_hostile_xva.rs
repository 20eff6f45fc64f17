//! Exports of XenServer whose blocks are wrong: each is refused, and nothing is left behind.

mod common;

use std::fs;

use common::packages::refusal::refused;
use common::packages::xva::{MIB, block_members};
use common::packages::{Members, Sum, Xva, contents, tar_of};
use common::{Folder, run, s};

fn exported() -> Xva {
    Xva::of(&contents())
}

type Damage = fn(&mut Members);

#[test]
fn exports_with_blocks_that_are_wrong_are_refused() {
    let good = exported().members();
    // The blocks of Ref:001 are 0, 1, 3, 5, 6 and 8: members 1 to 12.
    assert_eq!(good[11].0, "Ref:001/00000008");
    let wrong: [(&str, Damage); 13] = [
        ("a flipped bit", |m| m[1].1[5] ^= 1),
        ("a wrong sum", |m| m[2].1 = b"0".repeat(40)),
        ("a sum that is too short", |m| m[2].1.truncate(39)),
        ("a sum of another block", |m| m.swap(2, 4)),
        ("blocks out of order", |m| {
            m.swap(3, 5);
            m.swap(4, 6);
        }),
        ("a block twice", |m| {
            let again = m[3..5].to_vec();
            m.splice(5..5, again);
        }),
        ("no last block", |m| drop(m.drain(11..13))),
        ("no first block", |m| drop(m.drain(1..3))),
        ("a number past the end", |m| {
            m[11].0 = "Ref:001/00000009".to_owned();
            m[12].0 = "Ref:001/00000009.checksum".to_owned();
        }),
        ("a number far past the end", |m| {
            m[11].0 = "Ref:001/99999999".to_owned();
            m[12].0 = "Ref:001/99999999.checksum".to_owned();
        }),
        ("a block of nobody's", |m| {
            m.extend(block_members("Ref:999", 0, &[1; MIB], Sum::Sha1))
        }),
        ("a name that is no number", |m| {
            m[11].0 = "Ref:001/0000000x".to_owned()
        }),
        ("no blocks at all", |m| m.truncate(1)),
    ];
    for (what, change) in wrong {
        let mut members = good.clone();
        change(&mut members);
        refused(what, "web.xva", &tar_of(&members));
    }
    for (what, len) in [("too long", MIB + 512), ("too short", MIB - 512)] {
        let mut members = good.clone();
        let [block, sum] = block_members("Ref:001", 3, &vec![7; len], Sum::Sha1);
        (members[5], members[6]) = (block, sum);
        refused(what, "web.xva", &tar_of(&members));
    }
    let mut cut = exported().bytes();
    cut.truncate(cut.len() / 2);
    refused("cut", "web.xva", &cut);
}

/// Old exports have none; who reads one is told.
#[test]
fn blocks_without_sums_are_warned_of() {
    let good = exported().members();
    for index in [2, good.len() - 1] {
        let mut members = good.clone();
        members.remove(index);
        let folder = Folder::new();
        let xva = folder.file("web.xva");
        fs::write(&xva, tar_of(&members)).expect("write");
        let finished = run(&["digest", s(&xva), "--disk", "2"]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(finished.stderr.contains("checksum"), "{}", finished.stderr);
    }
}

#[test]
fn the_first_block_is_what_gaps_are_counted_in() {
    // A first block of half the length makes all gaps half as long: the disk would end early.
    let mut members = exported().members();
    let [block, sum] = block_members("Ref:001", 0, &vec![7; MIB / 2], Sum::Sha1);
    (members[1], members[2]) = (block, sum);
    refused("half a block", "web.xva", &tar_of(&members));
}
