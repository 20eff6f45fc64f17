//! Large texts made to cost more than they are long: each is answered soon, within the memory that a description may take.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use machines::manifest::Manifest;
use machines::{ovf, toml_file, vmx, xva};

/// Processor time that one text may take.
const PATIENCE: Duration = Duration::from_secs(6);

/// Memory that reading one may take, in KiB.
const MEMORY: u64 = 256 << 10;

const OVF: &str = r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:o="http://schemas.dmtf.org/ovf/envelope/1">"#;

/// Processor time of this thread: how long a busy machine lets it wait says nothing.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux /proc");
    let nanoseconds = stat.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

/// A line of what the kernel knows of this process, in KiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux /proc");
    let line = status.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.expect("a number of KiB")
}

/// One text at a time: memory is that of all threads.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

#[track_caller]
fn soon(what: &str, text: &str, read: impl FnOnce(&[u8]) -> String) {
    assert!(text.len() <= 16 << 20, "{what}: {}", text.len());
    // The peak begins anew (proc(5), "clear_refs").
    std::fs::write("/proc/self/clear_refs", "5").expect("a Linux /proc");
    let before = memory("VmRSS:");
    let started = processor_time();
    let answer = read(text.as_bytes());
    let took = processor_time() - started;
    let peak = memory("VmHWM:").saturating_sub(before);
    let len = text.len();
    eprintln!("{what}: {len} bytes, {took:?}, {peak} KiB: {answer:.100}");
    assert!(took < PATIENCE, "{what}: {took:?}");
    assert!(peak < MEMORY, "{what}: {peak} KiB");
}

fn repeat(count: usize, one: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for n in 0..count {
        text += &one(n);
        if text.len() > (16 << 20) - 4096 {
            break;
        }
    }
    text
}

fn read_ovf(bytes: &[u8]) -> String {
    match ovf::read(bytes) {
        Ok(package) => format!("{} machines", package.machines.len()),
        Err(error) => error.to_string(),
    }
}

fn system(items: &str) -> String {
    format!(
        "<VirtualSystem><Info/><VirtualHardwareSection><Info/>{items}</VirtualHardwareSection></VirtualSystem>"
    )
}

fn item(n: usize, kind: u16, more: &str) -> String {
    format!("<Item><InstanceID>{n}</InstanceID><ResourceType>{kind}</ResourceType>{more}</Item>")
}

fn envelope(inside: &str) -> String {
    format!("{OVF}{inside}</Envelope>")
}

fn machine(sections: &str) -> String {
    format!("<VirtualSystem o:id='a'><Info/>{sections}</VirtualSystem>")
}

#[test]
fn machines_of_as_many_items_as_there_may_be() {
    let _alone = alone();
    let items = system(&repeat(100_000, |n| item(n, 17, "")));
    soon("100 000 items", &envelope(&items), read_ovf);
    for kind in [6, 5, 20, 17, 15, 10, 3, 4, 35, 99] {
        let one = system(&repeat(4096, |n| item(n, kind, "")));
        let all = envelope(&one.repeat(40));
        soon(&format!("40 machines of {kind}"), &all, read_ovf);
    }
    let one = |n| {
        format!(
            "<Item o:bound='min'><InstanceID>{n}</InstanceID><ResourceType>4</ResourceType></Item>"
        )
    };
    let all = system(&repeat(4096, one)).repeat(40);
    soon("bounds", &envelope(&all), read_ovf);
    let name = "n".repeat(2000);
    let more = format!("<ElementName>{name}</ElementName><Parent>x</Parent>");
    let all = system(&repeat(4000, |n| item(n, 17, &more)));
    soon("long names", &envelope(&all), read_ovf);
}

#[test]
fn references_to_the_last_of_many() {
    let _alone = alone();
    let files = repeat(9_999, |n| format!("<File o:id='f{n}' o:href='h{n}'/>"));
    let disk = |n| {
        format!(
            "<Disk o:diskId='d{n}' o:capacity='1' o:fileRef='f{}'/>",
            9_998 - n
        )
    };
    let disks = repeat(9_999, disk);
    let text = format!("<References>{files}</References><DiskSection><Info/>{disks}</DiskSection>");
    soon(
        "files and disks",
        &envelope(&(text + &system(""))),
        read_ovf,
    );
    let disc = |n| item(n, 15, "<HostResource>ovf:/file/f9998</HostResource>");
    let discs = system(&repeat(4000, disc)).repeat(28);
    let text = format!("<References>{files}</References>{discs}");
    soon("discs", &envelope(&text), read_ovf);
    let networks = repeat(100_000, |n| format!("<Network o:name='a{n}'/>"));
    let nics = |m: usize| {
        let nic = |n| {
            format!("<Item><ResourceType>10</ResourceType><Connection>b{m}_{n}</Connection></Item>")
        };
        system(&repeat(4000, nic))
    };
    let nics = repeat(33, nics);
    let text = format!("<NetworkSection><Info/>{networks}</NetworkSection>{nics}");
    soon("networks", &envelope(&text), read_ovf);
}

#[test]
fn as_much_of_one_thing_as_there_may_be() {
    let _alone = alone();
    let texts = [
        ("elements", "<a>\n</a>".repeat(499_000)),
        ("machines", "<VirtualSystem/>".repeat(300_000)),
        (
            "sections",
            machine(&"<FooSection o:a='1' b='2'/>\n".repeat(400_000)),
        ),
        ("prefixes", repeat(400_000, |n| format!("<a q{n}:b='1'/>"))),
        (
            "references",
            format!("<a>{}</a>", "&amp;".repeat(3_000_000)),
        ),
        ("ampersands", format!("<a b='{}'/>", "&".repeat(10_000_000))),
        ("comments", "<!---->".repeat(2_000_000)),
        (
            "text",
            machine(&format!(
                "<AnnotationSection><Annotation>{}</Annotation></AnnotationSection>",
                "x".repeat(15 << 20)
            )),
        ),
        (
            "name",
            format!("<VirtualSystem o:id='{}'/>", "x ".repeat(7 << 20)),
        ),
        (
            "properties",
            machine(&format!(
                "<ProductSection>{}</ProductSection>",
                repeat(400_000, |n| format!("<Property o:key='k{n}'/>"))
            )),
        ),
        (
            "configurations",
            format!(
                "<DeploymentOptionSection>{}</DeploymentOptionSection>{}",
                repeat(100_000, |n| format!("<Configuration o:id='k{n}'/>")),
                system("")
            ),
        ),
    ];
    for (what, text) in texts {
        soon(what, &envelope(&text), read_ovf);
    }
    soon("deep", &"<a>".repeat(5_000_000), read_ovf);
}

#[test]
fn as_many_prefixes_and_attributes_as_there_may_be() {
    let _alone = alone();
    let prefixes = repeat(120, |n| format!(" xmlns:p{n}='u{n}'"));
    let root = format!("<Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1'{prefixes}>");
    let attributes = |prefix: &str| {
        let all = repeat(250, |n| format!(" {prefix}b{n}=''"));
        repeat(100_000, |_| format!("<{prefix}a{all}/>"))
    };
    let sections = "<p0:Section p1:x='1'/>".repeat(300_000);
    for inside in [sections, attributes(""), attributes("p0:")] {
        soon("prefixes", &format!("{root}{inside}</Envelope>"), read_ovf);
    }
}

fn object(n: usize, class: &str, fields: &[(&str, String)]) -> String {
    let mut text = format!(
        "<value><struct><member><name>class</name><value>{class}</value></member><member><name>id</name><value>Ref:{n}</value></member><member><name>snapshot</name><value><struct>"
    );
    for (name, value) in fields {
        let _ = write!(
            text,
            "<member><name>{name}</name><value>{value}</value></member>"
        );
    }
    text + "</struct></value></member></struct></value>"
}

fn export(objects: &str) -> String {
    format!(
        "<value><struct><member><name>version</name><value><struct/></value></member><member><name>objects</name><value><array><data>{objects}</data></array></value></member></struct></value>"
    )
}

fn read_xva(bytes: &[u8]) -> String {
    match xva::read(bytes) {
        Ok(appliance) => {
            let machine = &appliance.package.machines[0];
            format!(
                "{} machines, {} disks",
                appliance.package.machines.len(),
                machine.disks.len()
            )
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn exports_of_many_objects() {
    let _alone = alone();
    let vm = |n| object(n, "VM", &[("name_label", "a".to_owned())]);
    let vbd = |n, fields: &[(&str, String)]| {
        object(n, "VBD", &[&[("VM", "Ref:0".to_owned())], fields].concat())
    };
    soon(
        "lost disks",
        &export(&(vm(0) + &repeat(24_000, |n| vbd(n + 1, &[("userdevice", n.to_string())])))),
        read_xva,
    );
    let disc = |n: usize| {
        vbd(
            2 * n + 1,
            &[
                ("type", "CD".to_owned()),
                ("VDI", format!("Ref:{}", 2 * n + 2)),
            ],
        ) + &object(2 * n + 2, "VDI", &[("name_label", format!("disc{n}"))])
    };
    soon("discs", &export(&(vm(0) + &repeat(11_000, disc))), read_xva);
    let disk = |n: usize| {
        vbd(
            2 * n + 1,
            &[
                ("VDI", format!("Ref:{}", 2 * n + 2)),
                (
                    "other_config",
                    format!(
                        "<struct><member><name>diskferry-attachment</name><value>scsi{n}:0</value></member></struct>"
                    ),
                ),
            ],
        ) + &object(2 * n + 2, "VDI", &[("virtual_size", "1".to_owned())])
    };
    soon("disks", &export(&(vm(0) + &repeat(8_000, disk))), read_xva);
    soon("machines", &export(&repeat(1000, vm)), read_xva);
    soon(
        "machines and objects",
        &export(&(repeat(999, vm) + &repeat(30_000, |n| object(n + 1000, "VTPM", &[])))),
        read_xva,
    );
    soon(
        "objects",
        &export(&repeat(100_000, |n| object(n, "x", &[]))),
        read_xva,
    );
    let fields = vec![("f", "v".to_owned()); 100_000];
    soon("fields", &export(&object(0, "VM", &fields)), read_xva);
    soon(
        "deep",
        &export(&"<value><array><data>".repeat(400_000)),
        read_xva,
    );
    soon("plain", &"<value>".repeat(2_000_000), read_xva);
    soon(
        "one text",
        &export(&object(0, "VM", &[("name_label", "x".repeat(15 << 20))])),
        read_xva,
    );
}

#[test]
fn many_lines() {
    let _alone = alone();
    let read_manifest = |bytes: &[u8]| match Manifest::parse(bytes) {
        Ok(manifest) => format!("{} entries", manifest.entries.len()),
        Err(error) => error.to_string(),
    };
    let digest = "0".repeat(40);
    soon(
        "manifest",
        &repeat(1_000_000, |n| format!("SHA1({n:x})={digest}\n")),
        read_manifest,
    );
    soon(
        "unknown digests",
        &repeat(2_000_000, |_| "X(a)=00\n".to_owned()),
        read_manifest,
    );
    soon(
        "parentheses",
        &format!("SHA1({}", "()=".repeat(5_000_000)),
        read_manifest,
    );
    soon(
        "blanks",
        &format!("SHA1(a)={}0", " ".repeat(16_000_000)),
        read_manifest,
    );
    let read_vmx = |bytes: &[u8]| match vmx::read(bytes) {
        Ok(package) => format!("{} settings", package.machines[0].extra.settings.len()),
        Err(error) => error.to_string(),
    };
    let head = "config.version = \"8\"\n";
    soon(
        "VMX",
        &(head.to_owned() + &repeat(99_000, |n| format!("scsi0:1.a{n} = \"b\"\n"))),
        read_vmx,
    );
    soon(
        "VMX disks",
        &(head.to_owned()
            + &repeat(99_000, |n| {
                format!("scsi0:{n}.present = \"TRUE\"\nscsi0:{n}.fileName=\"a\"\n")
            })),
        read_vmx,
    );
    soon(
        "VMX bars",
        &(head.to_owned() + "a = \"" + &"|".repeat(15_000_000) + "\""),
        read_vmx,
    );
    soon(
        "VMX long key",
        &(head.to_owned() + &"a".repeat(15_000_000) + "=1"),
        read_vmx,
    );
    let read_toml = |bytes: &[u8]| match toml_file::read(bytes) {
        Ok(machine) => format!("{} disks", machine.disks.len()),
        Err(error) => error.to_string(),
    };
    // As much of it as a text may have.
    let fill = |one: &str| one.repeat((1 << 20) / one.len() - 8);
    let keys = repeat(90_000, |n| format!("a{n}=1\n"));
    let tables = repeat(60_000, |n| format!("[disks.a{n}]\n"));
    for (what, text) in [
        ("disks", format!("name='a'\n{}", fill("[[disks]]\n"))),
        ("keys", format!("name='a'\n{keys}")),
        ("arrays", format!("name={}", fill("["))),
        ("dots", format!("a{}=1", fill(".a"))),
        ("dotted tables", format!("[a{}]", fill(".a"))),
        ("inline tables", fill("a={")),
        ("tables", tables),
        ("far too much", "#".repeat(16 << 20)),
    ] {
        soon(&format!("TOML {what}"), &text, read_toml);
    }
}
