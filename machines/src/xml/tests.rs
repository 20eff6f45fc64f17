use formats::ErrorKind;

use super::*;

fn parse(text: &str) -> Result<Document> {
    Document::parse(text.to_owned(), "OVF")
}

fn kind(text: &str) -> ErrorKind {
    parse(text).unwrap_err().kind()
}

#[test]
fn names_are_resolved_by_namespace() {
    let document = parse(
        "<a xmlns='urn:1' xmlns:p='urn:2'><p:b p:x='1' y='2&lt;&#x41;'/> t &amp; <![CDATA[<u>]]><c xmlns=''/></a>",
    )
    .unwrap();
    let root = document.root();
    assert_eq!((root.name(), root.namespace()), ("a", "urn:1"));
    let b = root.child("b").unwrap();
    assert_eq!(b.namespace(), "urn:2");
    assert_eq!(b.attribute("urn:2", "x"), Some("1"));
    assert_eq!(b.attribute("urn:2", "y"), Some("2<A"));
    assert_eq!(b.attribute("urn:1", "x"), None);
    assert_eq!(root.text(), "t & <u>");
    assert_eq!(root.child("c").unwrap().namespace(), "");
}

#[test]
fn a_fragment_stands_alone() {
    let text = "<o:a xmlns:o='urn:1' xmlns='urn:d' xmlns:z='urn:z'><o:b x='o:q'><c/></o:b></o:a>";
    let document = parse(text).unwrap();
    let fragment = document.root().child("b").unwrap().fragment().unwrap();
    assert_eq!(
        fragment,
        "<o:b xmlns:o=\"urn:1\" xmlns=\"urn:d\" x='o:q'><c/></o:b>"
    );
    let again = parse(&fragment).unwrap();
    assert_eq!(again.root().namespace(), "urn:1");
    assert_eq!(again.root().child("c").unwrap().namespace(), "urn:d");
    assert_eq!(again.root().fragment().unwrap(), fragment);
}

#[test]
fn what_is_not_well_formed_is_malformed() {
    for text in [
        "",
        "text",
        "<a>",
        "<a></b>",
        "<a/><b/>",
        "<a/>x",
        "<a x='1' x='2'/>",
        "<a x=1/>",
        "<a x='<'/>",
        "<p:a/>",
        "<a>&#0;</a>",
        "<a>&#xD800;</a>",
        "<a>&#x110000;</a>",
        "<a>\u{1}</a>",
        "<a xmlns:p='u' xmlns:q='u' p:x='1' q:x='2'/>",
        "<a/><?xml version='1.0'?>",
    ] {
        assert_eq!(kind(text), ErrorKind::Malformed, "{text}");
    }
}

#[test]
fn an_attribute_of_no_namespace_is_told_and_nobodys() {
    let document = parse("<a p:x='1'/>").unwrap();
    assert_eq!(document.undeclared_prefixes(), ["p"]);
    assert_eq!(document.root().attribute("", "x"), None);
}

#[test]
fn dtds_and_entities_are_refused() {
    assert_eq!(
        kind("<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><a>&e;</a>"),
        ErrorKind::Refused
    );
    assert_eq!(kind("<a>&e;</a>"), ErrorKind::Refused);
    assert_eq!(kind("<a x='&e;'/>"), ErrorKind::Refused);
}

#[test]
fn depth_elements_attributes_and_prefixes_have_caps() {
    assert_eq!(kind(&"<a>".repeat(100_000)), ErrorKind::Limit);
    let wide = format!("<a>{}</a>", "<b/>".repeat(500_001));
    assert_eq!(kind(&wide), ErrorKind::Limit);
    let many: String = (0..300).map(|n| format!(" x{n}='1'")).collect();
    assert_eq!(kind(&format!("<a{many}/>")), ErrorKind::Limit);
    let bound: String = (0..200).map(|n| format!(" xmlns:x{n}='1'")).collect();
    assert_eq!(
        kind(&format!("<a{bound}><b{bound}/></a>")),
        ErrorKind::Limit
    );
}

#[test]
fn errors_say_the_line() {
    let document = parse("<a>\n\n<b/></a>").unwrap();
    let error = document.root().child("b").unwrap().malformed("no good");
    assert_eq!(error.to_string(), "b in line 3: no good");
}
