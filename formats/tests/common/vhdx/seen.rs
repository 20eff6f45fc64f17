//! What a guest sees of an image, and whether that is what was put in.

use std::collections::BTreeMap;

use formats::reader::read_guest;
use formats::{BlockSource, Image, OpenContext, StorageRef, open_storage, run_at};

use super::super::patch;

/// What a guest sees: pieces by their offsets, zeros between them.
#[derive(Debug, Clone, Default)]
pub struct Content(pub BTreeMap<u64, Vec<u8>>);

impl Content {
    pub fn read(&self, offset: u64, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        let end = offset + u64::from(len);
        for (start, piece) in &self.0 {
            let from = offset.max(*start);
            let to = end.min(start + piece.len() as u64);
            if from < to {
                let part = &piece[(from - start) as usize..(to - start) as usize];
                patch(&mut bytes, (from - offset) as usize, part);
            }
        }
        bytes
    }
}

/// The image, which opens.
pub fn opened(storage: StorageRef) -> Image {
    open_storage(storage, None, &OpenContext::default()).expect("open")
}

/// The disk is `content`, and zeros wherever that says nothing.
pub fn assert_content(source: &dyn BlockSource, content: &Content, what: &str) {
    let mut done = 0;
    for (offset, bytes) in &content.0 {
        assert_zeros(source, done, *offset, what);
        let mut read = vec![0xEE; bytes.len()];
        read_guest(source, *offset, &mut read).expect("read");
        let difference = read.iter().zip(bytes).position(|(a, b)| a != b);
        assert_eq!(difference, None, "{what}: from {offset} on");
        done = offset + bytes.len() as u64;
    }
    assert_zeros(source, done, source.size(), what);
}

fn assert_zeros(source: &dyn BlockSource, from: u64, to: u64, what: &str) {
    let mut at = from;
    while at < to {
        let run = run_at(source, at, (to - at).min(64 << 20)).expect("a run");
        if run.mapping.reads_zero() {
            let all = run_at(source, at, to - at).expect("a run");
            at += all.len;
            continue;
        }
        let mut read = vec![0xEE; run.len as usize];
        read_guest(source, at, &mut read).expect("read");
        assert!(read.iter().all(|byte| *byte == 0), "{what}: at {at}");
        at += run.len;
    }
}
