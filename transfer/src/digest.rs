//! Digests of guest content, equal to those of the raw disk.
//!
//! BLAKE3 is a tree: each worker hashes its own segment, and only the roots of these subtrees are joined in order. The
//! other algorithms are chains, fed in order.

use std::fmt;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;

use crate::segments::SEGMENT;
use crate::zero::ZEROS;

/// What guest content can be digested with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// BLAKE3, 256 bits; as `b3sum` prints it.
    Blake3,
    /// SHA-256; as `sha256sum` prints it.
    Sha256,
    /// SHA-1, for old manifests.
    Sha1,
    /// MD5, for old manifests.
    Md5,
}

impl Algorithm {
    /// All of them, the default first.
    pub const ALL: [Algorithm; 4] = [
        Algorithm::Blake3,
        Algorithm::Sha256,
        Algorithm::Sha1,
        Algorithm::Md5,
    ];

    /// Its name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Blake3 => "blake3",
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha1 => "sha1",
            Algorithm::Md5 => "md5",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The hash of one segment, as a part of the tree over the whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHash {
    /// What the tree above is made from.
    pub chaining_value: ChainingValue,
    /// The digest, if the segment were the whole disk.
    root: blake3::Hash,
}

impl SegmentHash {
    /// Hashes the segment that stands at guest `offset`.
    pub fn of(offset: u64, content: &[u8]) -> SegmentHash {
        let mut hasher = SegmentHasher::new(offset);
        hasher.update(content);
        hasher.finish()
    }

    /// Hashes a segment of `len` zeros at guest `offset`.
    pub fn of_zeros(offset: u64, len: u64) -> SegmentHash {
        let mut hasher = SegmentHasher::new(offset);
        for_zeros(len, |zeros| hasher.update(zeros));
        hasher.finish()
    }
}

/// Hashes one segment piece by piece.
pub struct SegmentHasher {
    hasher: blake3::Hasher,
    first: bool,
}

impl SegmentHasher {
    /// For the segment at guest `offset`.
    pub fn new(offset: u64) -> SegmentHasher {
        let mut hasher = blake3::Hasher::new();
        if offset > 0 {
            hasher.set_input_offset(offset);
        }
        SegmentHasher {
            hasher,
            first: offset == 0,
        }
    }

    /// The next bytes of the segment.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The hash. A segment is never empty.
    pub fn finish(self) -> SegmentHash {
        SegmentHash {
            chaining_value: self.hasher.finalize_non_root(),
            // Only the first segment can be the whole disk.
            root: if self.first {
                self.hasher.finalize()
            } else {
                blake3::Hash::from_bytes([0; 32])
            },
        }
    }
}

fn for_zeros(mut len: u64, mut feed: impl FnMut(&'static [u8])) {
    while len > 0 {
        let now = len.min(ZEROS.len() as u64);
        feed(&ZEROS[..now as usize]);
        len -= now;
    }
}

/// Joins the hashes of segments, which come in guest order, into the digest of the disk.
///
/// Every segment but the last is full and a power of two long, so the tree over them is that of a binary counter: a
/// subtree is joined with its left neighbour of the same size. That is done only when another segment follows, because
/// the topmost join is made in another way.
#[derive(Debug, Default)]
pub struct Blake3Tree {
    subtrees: Vec<ChainingValue>,
    segments: u64,
    single: Option<blake3::Hash>,
}

impl Blake3Tree {
    /// The hash of the next segment.
    pub fn push(&mut self, hash: &SegmentHash) {
        let mut complete = self.segments;
        while complete != 0 && complete & 1 == 0 {
            self.join_last_two();
            complete >>= 1;
        }
        self.single = (self.segments == 0).then_some(hash.root);
        self.subtrees.push(hash.chaining_value);
        self.segments += 1;
    }

    fn join_last_two(&mut self) {
        if let (Some(right), Some(left)) = (self.subtrees.pop(), self.subtrees.pop()) {
            self.subtrees
                .push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }

    /// The digest of the disk.
    pub fn finish(mut self) -> blake3::Hash {
        if let Some(single) = self.single {
            return single;
        }
        while self.subtrees.len() > 2 {
            self.join_last_two();
        }
        match self.subtrees[..] {
            [left, right] => merge_subtrees_root(&left, &right, Mode::Hash),
            _ => blake3::hash(b""),
        }
    }
}

/// A digest that is fed in guest order.
pub struct OrderedDigest {
    algorithm: Algorithm,
    state: State,
}

enum State {
    Blake3(Box<Blake3Tree>),
    Sha256(Sha256),
    Sha1(Sha1),
    Md5(Md5),
}

impl OrderedDigest {
    /// A fresh one.
    pub fn new(algorithm: Algorithm) -> OrderedDigest {
        let state = match algorithm {
            Algorithm::Blake3 => State::Blake3(Box::default()),
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha1 => State::Sha1(Sha1::new()),
            Algorithm::Md5 => State::Md5(Md5::new()),
        };
        OrderedDigest { algorithm, state }
    }

    /// The next segments: their hashes (one for each full [`SEGMENT`] and one for the rest), and their `content`, or
    /// `len` zeros without.
    pub fn update(&mut self, hashes: &[SegmentHash], content: Option<&[u8]>, len: u64) {
        match &mut self.state {
            State::Blake3(tree) => hashes.iter().for_each(|hash| tree.push(hash)),
            State::Sha256(chain) => feed(chain, content, len),
            State::Sha1(chain) => feed(chain, content, len),
            State::Md5(chain) => feed(chain, content, len),
        }
    }

    /// The algorithm and the digest in lower-case hexadecimal.
    pub fn finish(self) -> (Algorithm, String) {
        let hex = match self.state {
            State::Blake3(tree) => tree.finish().to_hex().to_string(),
            State::Sha256(chain) => hex(&chain.finalize()),
            State::Sha1(chain) => hex(&chain.finalize()),
            State::Md5(chain) => hex(&chain.finalize()),
        };
        (self.algorithm, hex)
    }
}

fn feed(chain: &mut impl Digest, content: Option<&[u8]>, len: u64) {
    match content {
        Some(content) => chain.update(content),
        None => for_zeros(len, |zeros| chain.update(zeros)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hashes of `len` zeros at guest `offset`, one a segment.
pub fn zero_hashes(offset: u64, len: u64, into: &mut Vec<SegmentHash>) {
    let mut done = 0;
    while done < len {
        let now = (len - done).min(SEGMENT);
        into.push(SegmentHash::of_zeros(offset + done, now));
        done += now;
    }
}

/// A short name for content whose cost follows the data: a digest over the offsets and hashes of the segments that are
/// not all zeros, in guest order. Two disks of one size have the same fingerprint just when their content is the same.
#[derive(Debug, Default, Clone)]
pub struct Fingerprint(blake3::Hasher);

impl Fingerprint {
    /// The next segment that is not all zeros.
    pub fn push(&mut self, offset: u64, hash: &SegmentHash) {
        self.0.update(&offset.to_le_bytes());
        self.0.update(&hash.chaining_value);
    }

    /// The fingerprint.
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(content: &[u8]) -> Vec<(Algorithm, String)> {
        let mut all: Vec<_> = Algorithm::ALL.map(OrderedDigest::new).into();
        for (index, segment) in content.chunks(SEGMENT as usize).enumerate() {
            let hash = SegmentHash::of(index as u64 * SEGMENT, segment);
            for digest in &mut all {
                digest.update(&[hash], Some(segment), segment.len() as u64);
            }
        }
        all.into_iter().map(OrderedDigest::finish).collect()
    }

    #[test]
    fn the_tree_of_segments_is_the_digest_of_the_whole() {
        let full = SEGMENT as usize;
        for len in [
            0,
            1,
            1024,
            1025,
            full - 1,
            full,
            full + 1,
            2 * full,
            3 * full,
            5 * full + 77,
            7 * full,
            8 * full,
        ] {
            let content: Vec<u8> = (0..len).map(|i| (i * 31 + i / 4096) as u8).collect();
            let all = digests(&content);
            assert_eq!(
                all[0].1,
                blake3::hash(&content).to_hex().to_string(),
                "{len}"
            );
            assert_eq!(all[1].1, hex(&Sha256::digest(&content)));
        }
    }

    #[test]
    fn known_answers() {
        let all = digests(b"abc");
        let of = |a: Algorithm| all.iter().find(|d| d.0 == a).map(|d| d.1.clone()).unwrap();
        assert_eq!(
            of(Algorithm::Sha1),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(of(Algorithm::Md5), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            of(Algorithm::Sha256),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn zeros_hash_like_zeros() {
        let len = SEGMENT * 2 + 5;
        let mut hashes = Vec::new();
        zero_hashes(0, len, &mut hashes);
        let mut all = Algorithm::ALL.map(OrderedDigest::new);
        for digest in &mut all {
            digest.update(&hashes, None, len);
        }
        let zeros = vec![0; len as usize];
        let expected = digests(&zeros);
        for (digest, expected) in all.into_iter().zip(expected) {
            assert_eq!(digest.finish(), expected);
        }
    }
}
