//! qcow2 images with LUKS whose parts do not fit together.

mod common;

use std::sync::Arc;

use common::{be64, exercise, luks, patch};
use formats::{
    Detail, ErrorKind, Format, Image, MemoryStorage, OpenContext, Passphrase, Result, open_storage,
};

fn open(image: &[u8], passphrase: Option<&[u8]>, locked: bool) -> Result<Image> {
    let context = OpenContext {
        passphrase: passphrase.map(|bytes| Passphrase::new(bytes.to_vec())),
        locked,
        ..OpenContext::default()
    };
    let storage = Arc::new(MemoryStorage::new(image.to_vec()));
    open_storage(storage, Some(Format::Qcow2), &context)
}

/// The error that the image leads to when these numbers stand at these offsets.
fn changed(patches: &[(usize, u64)]) -> formats::Error {
    let mut image = luks::image();
    for (at, number) in patches {
        patch(&mut image, *at, &number.to_be_bytes());
    }
    open(&image, Some(luks::PASSPHRASE), false)
        .err()
        .expect("an error")
}

#[test]
fn the_digest_that_others_computed_is_met() {
    let image = luks::image();
    let opened = open(&image, Some(luks::PASSPHRASE), false).unwrap();
    let disk = common::content(&opened).unwrap();
    // Cluster 0 is ciphertext, cluster 2 zeros, cluster 4 compressed and not encrypted.
    assert_ne!(disk[..512], image[3072..3584]);
    assert_eq!(disk[1024..1536], [0; 512]);
    let plain = common::open(common::qcow2::Builder::default().build(), None, false).unwrap();
    let plain = common::content(&plain).unwrap();
    assert_eq!(disk[2048..3072], plain[2048..3072]);
}

#[test]
fn without_a_passphrase_it_is_unsupported_and_with_a_wrong_one_refused() {
    let image = luks::image();
    let kind = |passphrase: Option<&[u8]>| open(&image, passphrase, false).err().map(|e| e.kind());
    assert_eq!(kind(None), Some(ErrorKind::Unsupported));
    assert_eq!(kind(Some(b"geheimer")), Some(ErrorKind::Refused));
    assert_eq!(kind(Some(luks::PASSPHRASE)), None);
}

#[test]
fn a_locked_image_has_a_map_and_no_content() {
    let image = open(&luks::image(), None, true).unwrap();
    let details = &image.layers[0].info.details;
    assert!(details.contains(&("encryption", Detail::Text("luks".into()))));
    assert!(details.contains(&("key_slots_used", Detail::Number(1))));
    assert!(formats::run_at(image.source.as_ref(), 0, u64::MAX).is_ok());
    let error = common::content(&image).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    // A wrong passphrase is none, also where none is needed.
    let wrong = open(&luks::image(), Some(b"x"), true)
        .err()
        .map(|e| e.kind());
    assert_eq!(wrong, Some(ErrorKind::Refused));
}

#[test]
fn the_luks_header_has_a_place_of_its_own_inside_the_file() {
    let image = luks::image();
    let start = luks::header_at(&image) as u64;
    assert_eq!(changed(&[(120, start + 8)]).kind(), ErrorKind::Malformed);
    assert_eq!(changed(&[(120, 1 << 60)]).kind(), ErrorKind::Truncated);
    assert_eq!(
        changed(&[(120, u64::MAX << 9)]).kind(),
        ErrorKind::Truncated
    );
    assert_eq!(changed(&[(128, u64::MAX)]).kind(), ErrorKind::Truncated);
    assert_eq!(changed(&[(128, 500)]).kind(), ErrorKind::Malformed);
    // On the refcount table.
    let mut image = image;
    let table = be64(&image, 48);
    patch(&mut image, table as usize, &luks::header());
    patch(&mut image, 120, &table.to_be_bytes());
    let error = open(&image, None, true).err().unwrap();
    assert!(error.to_string().contains("refcount table"), "{error}");
}

#[test]
fn a_data_cluster_in_the_luks_header_is_malformed() {
    let mut image = luks::image();
    let start = luks::header_at(&image) as u64;
    patch(&mut image, 1024, &(1 << 63 | start).to_be_bytes());
    let opened = open(&image, Some(luks::PASSPHRASE), false).unwrap();
    let error = common::content(&opened).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.to_string().contains("the LUKS header"), "{error}");
}

#[test]
fn header_and_pointer_must_agree() {
    // An unknown extension instead of the pointer; a pointer in an image that says it is plain.
    let pointer = u64::from(0x1234u32) << 32 | 16;
    assert_eq!(changed(&[(112, pointer)]).kind(), ErrorKind::Malformed);
    let mut image = luks::image();
    patch(&mut image, 32, &0u32.to_be_bytes());
    let error = open(&image, None, false).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[test]
fn every_bit_of_the_luks_header_may_be_wrong() {
    let image = luks::image();
    let start = luks::header_at(&image);
    for bit in 0..592 * 8 {
        let mut image = image.clone();
        image[start + bit / 8] ^= 1 << (bit % 8);
        exercise(image, Some(Format::Qcow2), false);
    }
}
