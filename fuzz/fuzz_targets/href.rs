//! Names of files in descriptions: what is given out stays in the folder of the description.
#![no_main]

use std::path::{Component, Path};

use machines::href::Href;

fn stays(path: &str) {
    let mut parts = Path::new(path).components();
    assert!(
        parts.all(|part| matches!(part, Component::Normal(_))),
        "{path:?}"
    );
    assert!(!path.is_empty() && !path.contains(['\\', '\0']), "{path:?}");
    assert!(
        !path.starts_with("http:") && !path.starts_with("file:"),
        "{path:?}"
    );
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let href = Href::new(text);
    let shown = href.to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    match href.relative() {
        Ok(path) => stays(path),
        Err(_) => assert!(href.unescaped().is_err() && !href.is_flat()),
    }
    if let Ok(Some(path)) = href.unescaped() {
        stays(&path);
    }
});
