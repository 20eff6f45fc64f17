//! Descriptions in packages that contradict themselves, or are not what a text should be: each is refused.

mod common;

use common::packages::refusal::{is, refused};
use common::packages::{Package, Xva, contents, disks, tar_of};

fn content() -> Vec<u8> {
    disks::content(1, 3)
}

fn good() -> Package {
    Package::raw(&[content()])
}

fn without_manifest() -> Package {
    good().manifest(None)
}

fn exported() -> Xva {
    Xva::of(&contents())
}

/// Descriptors, by what is replaced in a good one.
#[test]
fn descriptors_that_contradict_themselves_are_refused() {
    let quantity = |what: &str| format!("<rasd:VirtualQuantity>{what}</rasd:VirtualQuantity>");
    for (from, to) in [
        ("ovf:fileRef=\"file1\"", "ovf:fileRef=\"file9\"".to_owned()),
        ("ovf:/disk/vmdisk1", "ovf:/disk/other".to_owned()),
        ("ovf:capacity=\"3\"", "ovf:capacity=\"-3\"".to_owned()),
        ("ovf:capacity=\"3\"", "ovf:capacity=\"many\"".to_owned()),
        (
            "ovf:capacity=\"3\"",
            "ovf:capacity=\"99999999999999999999999\"".to_owned(),
        ),
        (
            "byte * 2^20\" ovf:format",
            "byte * 2^99\" ovf:format".to_owned(),
        ),
        (
            "byte * 2^20\" ovf:format",
            "furlongs\" ovf:format".to_owned(),
        ),
        ("byte * 2^20</rasd", "parsecs</rasd".to_owned()),
        (
            "<rasd:VirtualQuantity>2</rasd:VirtualQuantity>",
            quantity("-2"),
        ),
        (
            "<rasd:VirtualQuantity>2</rasd:VirtualQuantity>",
            quantity("4294967298"),
        ),
        (
            "<rasd:VirtualQuantity>512</rasd:VirtualQuantity>",
            quantity("18446744073709551615"),
        ),
        (
            "<rasd:ResourceType>17<",
            "<rasd:ResourceType>seventeen<".to_owned(),
        ),
        ("<Name>web</Name>", "<Name>web&#27;[2Jx</Name>".to_owned()),
        ("<Name>web</Name>", "<Name>web&#x9b;x</Name>".to_owned()),
        ("<Name>web</Name>", "<Name>a\u{202e}b</Name>".to_owned()),
        ("</VirtualSystem>", String::new()),
        (
            "<VirtualSystem ",
            "<VirtualSystem ovf:id=\"twice\" ".to_owned(),
        ),
        ("</Envelope>", "</Envelope><Envelope/>".to_owned()),
        (
            "http://schemas.dmtf.org/ovf/envelope/1",
            "urn:nobody".to_owned(),
        ),
        ("VM Network", "VM &entity; Network".to_owned()),
        ("VM Network", "VM \u{1} Network".to_owned()),
    ] {
        let package = without_manifest().replace(from, &to);
        refused(&format!("{from:?} → {to:?}"), "web.ova", &package.ova());
    }
}

/// A package with this text for a descriptor.
fn with_text(text: Vec<u8>) -> Vec<u8> {
    let mut members = without_manifest().members();
    members[0].1 = text;
    tar_of(&members)
}

#[test]
fn xml_that_wants_more_than_text_is_refused() {
    let text = without_manifest().ovf();
    let (head, body) = text.split_once("?>\n").expect("a declaration");
    let with = |dtd: &str| format!("{head}?>\n{dtd}{body}").into_bytes();
    let deep = |count: usize| {
        let open = "<x>".repeat(count) + &"</x>".repeat(count);
        text.replace("</References>", &format!("{open}</References>"))
            .into_bytes()
    };
    let long = |count: usize| {
        let many: String = (0..count).map(|n| format!(" a{n}=\"1\"")).collect();
        text.replace("<References>", &format!("<References{many}>"))
            .into_bytes()
    };
    let mut utf16: Vec<u8> = vec![0xFF, 0xFE];
    utf16.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    utf16.truncate(1001);
    let lol = "<!DOCTYPE l [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\"><!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;\">]>";
    for (what, text) in [
        ("a DTD", with("<!DOCTYPE Envelope>")),
        (
            "an external DTD",
            with("<!DOCTYPE Envelope SYSTEM \"file:///etc/passwd\">"),
        ),
        (
            "an entity of a file",
            with("<!DOCTYPE e [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>"),
        ),
        ("entities in entities", with(lol)),
        ("a thousand levels", deep(1000)),
        ("a hundred thousand levels", deep(100_000)),
        ("a thousand attributes", long(1000)),
        ("not UTF-8", [text.as_bytes(), &[0xFF, 0xC0, 0x80]].concat()),
        ("half of UTF-16", utf16),
        (
            "a zero",
            text.replace("<Name>web", "<Name>w\0b").into_bytes(),
        ),
        ("nothing", Vec::new()),
        ("no XML", b"once upon a time".to_vec()),
        ("other XML", b"<html><body/></html>".to_vec()),
    ] {
        refused(what, "web.ova", &with_text(text));
    }
    let huge = text.replace(
        "<Info>DiskSection",
        &format!("<Info>{}", "x".repeat(17 << 20)),
    );
    is(
        "17 MiB",
        "web.ova",
        &with_text(huge.into_bytes()),
        &["limit"],
    );
}

#[test]
fn a_huge_manifest_is_refused() {
    let mut members = good().members();
    members[1].1 = vec![b'\n'; 17 << 20];
    refused("17 MiB of lines", "web.ova", &tar_of(&members));
}

#[test]
fn an_ova_xml_that_contradicts_itself_is_refused() {
    for (from, to) in [
        (
            "<value>9437184</value>",
            "<value>-9437184</value>".to_owned(),
        ),
        ("<value>9437184</value>", "<value>many</value>".to_owned()),
        (
            "<value>9437184</value>",
            "<value>99999999999999999999999</value>".to_owned(),
        ),
        (
            "<value>9437184</value>",
            "<value>8388608</value>".to_owned(),
        ),
        (
            "<value>9437184</value>",
            "<value>10485760</value>".to_owned(),
        ),
        (
            "<name>VDI</name><value>Ref:001<",
            "<name>VDI</name><value>Ref:002<".to_owned(),
        ),
        (
            "<name>VDI</name><value>Ref:001<",
            "<name>VDI</name><value>../secret<".to_owned(),
        ),
        (
            "<name>id</name><value>Ref:001<",
            "<name>id</name><value>Ref:002<".to_owned(),
        ),
        (
            "<name>class</name><value>VM<",
            "<name>class</name><value>WM<".to_owned(),
        ),
        (
            "<name>name_label</name><value>web<",
            "<name>name_label</name><value>w&#27;[2J<".to_owned(),
        ),
        (
            "<name>VCPUs_max</name><value>2<",
            "<name>VCPUs_max</name><value>-2<".to_owned(),
        ),
        (
            "<?xml version=\"1.0\"?>",
            "<!DOCTYPE x [<!ENTITY a SYSTEM \"/etc/passwd\">]>".to_owned(),
        ),
        ("</struct></value>", String::new()),
        ("<?xml version=\"1.0\"?>", "<value>".repeat(5000)),
    ] {
        let xva = exported().replace(from, &to);
        refused(&format!("{from:?} → {to:.60?}"), "web.xva", &xva.bytes());
    }
    let mut members = exported().members();
    members[0].1 = vec![b' '; 17 << 20];
    refused("17 MiB", "web.xva", &tar_of(&members));
    let mut members = exported().members();
    members.remove(0);
    refused("no ova.xml", "web.xva", &tar_of(&members));
}
