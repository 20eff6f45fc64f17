//! Names that stand in images and would trick a terminal: nothing of them reaches it as it is, and programs get them whole.

mod common;

use std::path::Path;

use common::damage::images::patch;
use common::damage::images::qcow2::{BITMAP, Builder};
use common::{Finished, Folder, run, run_ok, s};

/// What clears the screen, what starts a line of one's own, what turns the rest of the line around, and what hides it.
const NAME: &str = "a\u{1b}[2J\r\nformat               raw\u{202e}\u{9b}8m\u{7f}b";

/// Nothing in `bytes` but text and ends of lines.
fn is_harmless(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let harmful = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!text.contains(harmful), "{text:?}");
    let formats = text.lines().filter(|line| line.starts_with("format "));
    assert!(formats.count() <= 1, "{text:?}");
}

/// The verb prints nothing harmful.
fn says_harmlessly(arguments: &[&str]) -> Finished {
    let finished = run(arguments);
    is_harmless(&finished.stdout);
    is_harmless(finished.stderr.as_bytes());
    finished
}

/// What the verb answers in JSON, which prints nothing harmful either.
fn json_of(arguments: &[&str]) -> serde_json::Value {
    says_harmlessly(arguments).json()
}

#[test]
fn names_of_snapshots_and_bitmaps_are_written_out() {
    let folder = Folder::new();
    let image = folder.file("a.qcow2");
    let builder = Builder {
        history: true,
        ..Builder::default()
    };
    let names = [
        ("1one", "1\u{1b}cX"),
        ("2two", "\n\r\n!"),
        (BITMAP, "\u{202e}ab"),
    ];
    let mut bytes = builder.build();
    for (usual, other) in names {
        assert_eq!(usual.len(), other.len());
        let at = bytes
            .windows(usual.len())
            .position(|w| w == usual.as_bytes());
        patch(&mut bytes, at.expect("the name"), other.as_bytes());
    }
    std::fs::write(&image, bytes).expect("write");
    let image = s(&image);
    let shown = says_harmlessly(&["info", image]);
    assert_eq!(shown.code, Some(0));
    for written_out in ["\\u{1b}cX", "\\r\\n!", "\\u{202e}ab"] {
        assert!(shown.text().contains(written_out), "{}", shown.text());
    }
    let details = json_of(&["info", "--json", image])["details"].clone();
    assert_eq!(details["snapshots"][0]["name"], "\u{1b}cX");
    assert_eq!(details["snapshots"][1]["id"], "\n");
    assert_eq!(details["snapshots"][1]["name"], "\r\n!");
    assert_eq!(details["bitmaps"][0]["name"], "\u{202e}ab");
    // Errors that list what there is.
    for arguments in [
        &["map", "--bitmap", "other", image][..],
        &["digest", "--snapshot", "other", image],
        &["digest", "--snapshot", NAME, image],
    ] {
        assert_eq!(says_harmlessly(arguments).code, Some(2));
    }
    says_harmlessly(&["check", image]);
    json_of(&["check", "--json", image]);
}

/// What stands on, or beside, a file of this name is shown without harm, with and without that file.
fn shows_the_file(folder: &Folder, image: &Path) {
    let image = s(image);
    for exists in [true, false] {
        let shown = says_harmlessly(&["info", image]);
        if shown.code == Some(0) {
            assert!(shown.text().contains("\\u{1b}[2J\\r\\nformat"));
            assert!(
                json_of(&["info", "--json", image])
                    .to_string()
                    .contains("a\\u001b[2J\\r\\n")
            );
        } else {
            assert!(!exists, "{}", shown.stderr);
        }
        for verb in ["digest", "map", "check"] {
            says_harmlessly(&[verb, image]);
            json_of(&[verb, "--json", image]);
        }
        if exists {
            std::fs::remove_file(folder.file(NAME)).expect("remove");
        }
    }
}

#[test]
fn names_of_backing_files_are_written_out() {
    let folder = Folder::new();
    let image = folder.file("a.qcow2");
    let bytes = Builder::over("raw", NAME).build();
    std::fs::write(&image, bytes).expect("write");
    std::fs::write(folder.file(NAME), [7; 512]).expect("write");
    let info = run_ok(&["info", "--json", s(&image)]).json();
    assert_eq!(info["parent"]["name"], NAME);
    shows_the_file(&folder, &image);
    let bytes = Builder::over("r\u{1b}[2Jw\u{202e}", NAME).build();
    std::fs::write(&image, bytes).expect("write");
    says_harmlessly(&["info", s(&image)]);
    says_harmlessly(&["digest", s(&image)]);
}

#[test]
fn names_of_data_files_are_written_out() {
    let folder = Folder::new();
    let image = folder.file("a.qcow2");
    let mut bytes = Builder::default().build();
    // The incompatible feature, and the extension with the name.
    patch(&mut bytes, 79, &[4]);
    patch(&mut bytes, 112, b"DATA");
    patch(&mut bytes, 116, &(NAME.len() as u32).to_be_bytes());
    patch(&mut bytes, 120, NAME.as_bytes());
    std::fs::write(&image, bytes).expect("write");
    std::fs::write(folder.file(NAME), vec![7; 70 << 9]).expect("write");
    shows_the_file(&folder, &image);
}

/// What goes to standard error because the disk goes to standard output has as many lines as it always has.
#[test]
fn ends_of_lines_of_its_own_are_kept() {
    let folder = Folder::new();
    let raw = folder.file("a.raw");
    std::fs::write(&raw, [7; 4096]).expect("write");
    let finished = run(&["convert", s(&raw), "-"]);
    assert_eq!(finished.stdout, [7; 4096]);
    assert!(finished.stderr.lines().count() >= 2, "{}", finished.stderr);
}
