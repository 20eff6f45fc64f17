use std::fs;
use std::path::Path;

use super::*;
use crate::ErrorKind;
use crate::driver::Detail;
use crate::open::open;

impl Sample {
    /// Puts extensions and the backing file's name into the header cluster.
    fn name_files(&mut self, extensions: &[(u32, &str)], backing: &str) {
        let mut area = Vec::new();
        for (kind, text) in extensions {
            area.extend(kind.to_be_bytes());
            area.extend((text.len() as u32).to_be_bytes());
            area.extend(text.as_bytes());
            area.resize(area.len().next_multiple_of(8), 0);
        }
        area.extend([0; 8]);
        self.patch(112, &area);
        if !backing.is_empty() {
            let at = 112 + area.len() as u64;
            self.patch(at, backing.as_bytes());
            self.set64(8, at);
            self.patch(16, &(backing.len() as u32).to_be_bytes());
        }
    }
}

const BACKING_FORMAT: u32 = 0xe279_2aca;
const DATA_FILE: u32 = 0x4441_5441;

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let image = open(path, Some(Format::Qcow2), &OpenContext::default())?;
    let mut disk = vec![0; image.source.size() as usize];
    read_guest(image.source.as_ref(), 0, &mut disk)?;
    Ok(disk)
}

#[test]
fn zero_flag_over_backing_is_zero_not_absent() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("base.raw"), vec![0xbb; 100_000]).unwrap();
    let mut sample = Sample::new(131_072, 4096, &[(0, &[0x11; 4096])]);
    sample.set64(sample.l2_entry(1), 1);
    sample.name_files(&[(BACKING_FORMAT, "raw")], "base.raw");
    let path = folder.path().join("top.qcow2");
    fs::write(&path, &sample.bytes).unwrap();
    let disk = read_file(&path).unwrap();
    assert!(disk[..4096] == [0x11; 4096]);
    assert!(disk[4096..8192] == [0; 4096], "the zero cluster");
    assert!(disk[8192..100_000].iter().all(|byte| *byte == 0xbb));
    assert!(
        disk[100_000..].iter().all(|byte| *byte == 0),
        "past the base"
    );
}

#[test]
fn a_backing_file_without_format_is_probed_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let base = Sample::new(65536, 4096, &[(0, &[0xbb; 65536])]);
    fs::write(folder.path().join("base"), &base.bytes).unwrap();
    let mut sample = Sample::new(65536, 4096, &[]);
    sample.name_files(&[], "base");
    let path = folder.path().join("top.qcow2");
    fs::write(&path, &sample.bytes).unwrap();
    let image = open(&path, None, &OpenContext::default()).unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.layers[0].info.warnings.len(), 1);
    assert!(image.layers[1].info.warnings.is_empty());
    assert!(read_file(&path).unwrap() == [0xbb; 65536]);
}

#[test]
fn an_unknown_backing_format_is_refused_by_name() {
    let mut sample = Sample::new(65536, 4096, &[]);
    sample.name_files(&[(BACKING_FORMAT, "qed")], "base.qed");
    let error = sample.open().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.found_value(), Some("\"qed\""));
}

#[test]
fn backing_strings_that_are_no_files_are_refused() {
    for name in ["json:{\"driver\":\"raw\"}", "nbd://host/disk", "../secret"] {
        let mut sample = Sample::new(65536, 4096, &[]);
        sample.name_files(&[(BACKING_FORMAT, "raw")], name);
        let error = sample.open().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused, "{name}");
    }
}

/// An image whose first and third cluster stand in the data file `name`.
fn with_data_file(name: &str) -> Sample {
    let mut sample = Sample::new(4 * 4096, 4096, &[(0, &[1; 3 * 4096])]);
    sample.set64(sample.l2_entry(0), 1 << 63);
    sample.set64(sample.l2_entry(1), 0);
    sample.set64(sample.l2_entry(2), (1 << 63) | (2 * 4096));
    sample.patch(79, &[4]);
    let extensions = [(DATA_FILE, name)];
    sample.name_files(&extensions[..usize::from(!name.is_empty())], "");
    sample
}

#[test]
fn clusters_of_a_data_file_stand_at_their_guest_offset() {
    let folder = tempfile::tempdir().unwrap();
    let data = noise(3 * 4096, 5);
    fs::write(folder.path().join("disk.data"), &data).unwrap();
    let path = folder.path().join("disk.qcow2");
    let mut sample = with_data_file("disk.data");
    fs::write(&path, &sample.bytes).unwrap();
    let disk = read_file(&path).unwrap();
    assert!(disk[..4096] == data[..4096]);
    assert!(disk[4096..8192] == [0; 4096]);
    assert!(disk[8192..12288] == data[8192..]);
    let image = open(&path, None, &OpenContext::default()).unwrap();
    assert_eq!(image.storages.len(), 2);
    assert!(
        image.layers[0]
            .info
            .details
            .contains(&("data_file", Detail::Text("disk.data".into())))
    );
    // The data file is cut.
    fs::write(folder.path().join("disk.data"), &data[..9000]).unwrap();
    assert_eq!(read_file(&path).unwrap_err().kind(), ErrorKind::Truncated);
    // A cluster that is elsewhere.
    sample.set64(sample.l2_entry(2), 1 << 63 | 4096);
    fs::write(&path, &sample.bytes).unwrap();
    assert_eq!(read_file(&path).unwrap_err().kind(), ErrorKind::Malformed);
}

#[test]
fn a_data_file_is_opened_only_where_it_is_allowed() {
    for (name, kind) in [
        ("/etc/hostname", ErrorKind::Refused),
        ("", ErrorKind::Malformed),
        ("disk.qcow2", ErrorKind::Malformed),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        fs::write(&path, &with_data_file(name).bytes).unwrap();
        assert_eq!(read_file(&path).unwrap_err().kind(), kind, "{name:?}");
    }
}
