//! Dialects that nobody publishes samples of, written after what is known of them, and texts that want to do harm.

use formats::ErrorKind;

use super::*;
use crate::machine::{Firmware, SettingFamily};

const HEAD: &str = r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">"#;

/// A descriptor with these files, disks and Items.
fn descriptor(files: &str, disks: &str, items: &str) -> String {
    format!(
        "{HEAD}<References>{files}</References><DiskSection><Info>x</Info>{disks}</DiskSection>\
         <VirtualSystem ovf:id=\"vm\"><Info>x</Info><Name>vm</Name><VirtualHardwareSection><Info>x</Info>{items}\
         </VirtualHardwareSection></VirtualSystem></Envelope>"
    )
}

fn item(fields: &[(&str, &str)]) -> String {
    let fields: String = fields
        .iter()
        .map(|(name, value)| format!("<rasd:{name}>{value}</rasd:{name}>"))
        .collect();
    format!("<Item>{fields}</Item>")
}

const FILE: &str = r#"<File ovf:id="file1" ovf:href="a.vmdk" ovf:size="10"/>"#;
const DISK: &str = r#"<Disk ovf:diskId="d1" ovf:fileRef="file1" ovf:capacity="64" ovf:capacityAllocationUnits="byte * 2^20"/>"#;

fn machine(text: &str) -> crate::Machine {
    read(text.as_bytes()).unwrap().machines.remove(0)
}

fn kind(text: &str) -> ErrorKind {
    match read(text.as_bytes()) {
        Ok(package) => panic!("was read: {package:?}\n{text}"),
        Err(error) => error.kind(),
    }
}

#[test]
fn xencenter_is_read() {
    let text = r#"<?xml version="1.0" encoding="utf-16"?>
<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:xenovf="http://schemas.citrix.com/ovf/envelope/1" xenovf:version="1.0.0">
 <ovf:References><ovf:File ovf:id="1f2e" ovf:href="1f2e.vhd" ovf:size="4096"/></ovf:References>
 <ovf:DiskSection><ovf:Info>x</ovf:Info><ovf:Disk ovf:diskId="1f2e" ovf:fileRef="1f2e" ovf:capacity="8589934592" ovf:format="http://www.microsoft.com/technet/virtualserver/downloads/vhdspec.mspx" xenovf:isBootable="true"/></ovf:DiskSection>
 <ovf:NetworkSection><ovf:Info>x</ovf:Info><ovf:Network ovf:name="net-uuid"><ovf:Description>eth0</ovf:Description></ovf:Network></ovf:NetworkSection>
 <ovf:VirtualSystem ovf:id="vm-uuid"><ovf:Info>x</ovf:Info><ovf:Name>Über VM</ovf:Name>
  <ovf:VirtualHardwareSection><ovf:Info>x</ovf:Info>
   <ovf:System><vssd:ElementName>Virtual Hardware Family</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID><vssd:VirtualSystemType>hvm-3.0-unknown</vssd:VirtualSystemType></ovf:System>
   <ovf:Item><rasd:ElementName>CPU</rasd:ElementName><rasd:InstanceID>{aa}</rasd:InstanceID><rasd:Limit>100000</rasd:Limit><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></ovf:Item>
   <ovf:Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>Memory</rasd:ElementName><rasd:InstanceID>{bb}</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>2048</rasd:VirtualQuantity></ovf:Item>
   <ovf:Item><rasd:Address>aa:bb:cc:dd:ee:ff</rasd:Address><rasd:Connection>net-uuid</rasd:Connection><rasd:ElementName>Ethernet</rasd:ElementName><rasd:InstanceID>{cc}</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType></ovf:Item>
   <ovf:Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:Caption>Hard Disk Image</rasd:Caption><rasd:Connection>1f2e,device=0</rasd:Connection><rasd:ElementName>Hard Disk Image</rasd:ElementName><rasd:HostResource>ovf:/disk/1f2e</rasd:HostResource><rasd:InstanceID>{dd}</rasd:InstanceID><rasd:ResourceType>19</rasd:ResourceType></ovf:Item>
   <xenovf:VirtualSystemOtherConfigurationData id="1" Name="HVM_boot_params"><xenovf:Info>x</xenovf:Info><xenovf:Value>order=dc;firmware=uefi</xenovf:Value></xenovf:VirtualSystemOtherConfigurationData>
   <xenovf:VirtualSystemOtherConfigurationData id="2" Name="platform"><xenovf:Info>x</xenovf:Info><xenovf:Value>nx=true;secureboot=true</xenovf:Value></xenovf:VirtualSystemOtherConfigurationData>
  </ovf:VirtualHardwareSection></ovf:VirtualSystem></ovf:Envelope>"#;
    let package = read(text.as_bytes()).unwrap();
    assert_eq!(package.producer.as_deref(), Some("XenCenter"));
    let machine = &package.machines[0];
    assert_eq!(machine.name, "Über VM");
    assert_eq!((machine.cpus, machine.memory), (Some(2), Some(2 << 30)));
    assert_eq!(machine.disks[0].image.capacity, Some(8 << 30));
    assert_eq!(
        (machine.disks[0].controller, machine.disks[0].unit),
        (None, Some(0))
    );
    assert_eq!(machine.nics[0].mac.as_deref(), Some("aa:bb:cc:dd:ee:ff"));
    assert_eq!(machine.firmware, Some(Firmware::Efi));
    assert_eq!(machine.secure_boot, Some(true));
    assert!(machine.setting(SettingFamily::Xen, "platform").is_some());
}

#[test]
fn microsofts_flavour_is_read() {
    let system = "<System><vssd:InstanceID>0</vssd:InstanceID><vssd:VirtualSystemType>301</vssd:VirtualSystemType></System>";
    let items = [
        item(&[("InstanceID", "Microsoft:A\\0"), ("ResourceType", "5")]),
        item(&[
            ("ElementName", "Hard Disk Image"),
            ("HostResource", "ovf:/disk/d1"),
            ("InstanceID", "Microsoft:A\\0\\0"),
            ("Parent", "Microsoft:A\\0"),
            ("AddressOnParent", "0"),
            ("ResourceType", "21"),
        ]),
        item(&[
            ("ElementName", "Synthetic Disk Drive"),
            ("InstanceID", "Microsoft:B"),
            ("ResourceType", "22"),
        ]),
    ];
    let text = descriptor(FILE, DISK, &(system.to_owned() + &items.concat()));
    let machine = machine(&text);
    assert_eq!(machine.disks.len(), 1);
    assert_eq!(machine.disks[0].controller.unwrap().to_string(), "ide0");
    assert!(machine.serial_ports.is_empty() && machine.parallel_ports.is_empty());
}

#[test]
fn ovirt_is_read() {
    let text = r#"<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1/" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" ovf:version="0.9">
 <References><File ovf:href="group/volume" ovf:id="volume" ovf:size="100"/></References>
 <Section xsi:type="ovf:DiskSection_Type"><Info>x</Info><Disk ovf:diskId="volume" ovf:size="1" ovf:capacity="536870912" ovf:fileRef="group/volume" ovf:parentRef="" ovf:format="http://en.wikipedia.org/wiki/Byte"/></Section>
 <Content ovf:id="out" xsi:type="ovf:VirtualSystem_Type"><Name>windows</Name><Description>d</Description><BiosType>3</BiosType>
  <Section xsi:type="ovf:VirtualHardwareSection_Type"><Info>x</Info>
   <Item><rasd:InstanceId>1</rasd:InstanceId><rasd:ResourceType>3</rasd:ResourceType><rasd:num_of_sockets>1</rasd:num_of_sockets><rasd:cpu_per_socket>2</rasd:cpu_per_socket></Item>
   <Item><rasd:InstanceId>9</rasd:InstanceId><rasd:ResourceType>20</rasd:ResourceType><Type>video</Type></Item>
   <Item><rasd:InstanceId>volume</rasd:InstanceId><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>group/volume</rasd:HostResource><rasd:Parent>00000000-0000-0000-0000-000000000000</rasd:Parent></Item>
   <Item><rasd:InstanceId>3</rasd:InstanceId><rasd:ResourceType>10</rasd:ResourceType><rasd:ResourceSubType>3</rasd:ResourceSubType><rasd:Connection>default</rasd:Connection><rasd:MACAddress>00:11:22:33:44:55</rasd:MACAddress></Item>
  </Section></Content></ovf:Envelope>"#;
    let machine = machine(text);
    assert_eq!(machine.cpus, Some(2));
    assert_eq!(machine.disks[0].image.capacity, Some(512 << 20));
    assert_eq!(machine.nics[0].model.as_deref(), Some("virtio"));
    assert_eq!(machine.nics[0].mac.as_deref(), Some("00:11:22:33:44:55"));
    assert_eq!(
        (machine.firmware, machine.secure_boot),
        (Some(Firmware::Efi), Some(true))
    );
    assert_eq!(machine.description.as_deref(), Some("d"));
}

#[test]
fn every_form_of_a_reference_to_a_disk_is_read() {
    for form in ["ovf:/disk/d1", "/disk/d1", "ovf://disk/d1"] {
        let items = item(&[
            ("HostResource", form),
            ("InstanceID", "1"),
            ("ResourceType", "17"),
        ]);
        let machine = machine(&descriptor(FILE, DISK, &items));
        assert_eq!(machine.disks[0].image.capacity, Some(64 << 20), "{form}");
    }
}

#[test]
fn parents_of_disks_are_followed() {
    let disks = r#"<Disk ovf:diskId="base" ovf:fileRef="file1" ovf:capacity="64"/><Disk ovf:diskId="top" ovf:capacity="64" ovf:parentRef="base"/>"#;
    let items = item(&[
        ("HostResource", "ovf:/disk/top"),
        ("InstanceID", "1"),
        ("ResourceType", "17"),
    ]);
    let machine = machine(&descriptor(FILE, disks, &items));
    let parent = machine.disks[0].image.parent.as_ref().unwrap();
    assert_eq!(parent.file.as_ref().unwrap().href.as_str(), "a.vmdk");
}

#[test]
fn collections_list_their_machines() {
    let system =
        |id: &str| format!("<VirtualSystem ovf:id=\"{id}\"><Info>x</Info></VirtualSystem>");
    let text = format!(
        "{HEAD}<References/><VirtualSystemCollection ovf:id=\"c\"><Info>x</Info><Name>two</Name>{}\
         <VirtualSystemCollection ovf:id=\"inner\"><Info>x</Info>{}</VirtualSystemCollection></VirtualSystemCollection></Envelope>",
        system("a"),
        system("b")
    );
    let package = read(text.as_bytes()).unwrap();
    let names: Vec<&str> = package.machines.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(
        package.collection.as_ref().unwrap().name.as_deref(),
        Some("two")
    );
    assert!(package.machine("b").is_some());
    let twins = text.replace("ovf:id=\"b\"", "ovf:id=\"a\"");
    assert_eq!(kind(&twins), ErrorKind::Malformed);
}

#[test]
fn what_contradicts_itself_is_malformed() {
    let disk = |rest: &str| format!("<Disk ovf:diskId=\"d1\" {rest}/>");
    let attached = item(&[
        ("HostResource", "ovf:/disk/d1"),
        ("InstanceID", "1"),
        ("ResourceType", "17"),
    ]);
    let file = |rest: &str| format!("<File ovf:id=\"file1\" {rest}/>");
    for (files, disks, items) in [
        (format!("{FILE}{FILE}"), DISK.to_owned(), attached.clone()),
        (file(""), DISK.to_owned(), attached.clone()),
        (
            file("ovf:href=\"a\" ovf:size=\"-2\""),
            DISK.to_owned(),
            attached.clone(),
        ),
        (
            file("ovf:href=\"a\" ovf:size=\"1e9\""),
            DISK.to_owned(),
            attached.clone(),
        ),
        (
            file("ovf:href=\"a\" ovf:chunkSize=\"0\""),
            DISK.to_owned(),
            attached.clone(),
        ),
        (FILE.to_owned(), format!("{DISK}{DISK}"), attached.clone()),
        (
            FILE.to_owned(),
            disk("ovf:fileRef=\"file2\" ovf:capacity=\"1\""),
            attached.clone(),
        ),
        (
            FILE.to_owned(),
            disk("ovf:capacity=\"-1\""),
            attached.clone(),
        ),
        (
            FILE.to_owned(),
            disk("ovf:capacity=\"1\" ovf:capacityAllocationUnits=\"parsec\""),
            attached.clone(),
        ),
        (
            FILE.to_owned(),
            disk("ovf:capacity=\"1\" ovf:parentRef=\"gone\""),
            attached.clone(),
        ),
        (FILE.to_owned(), String::new(), attached.clone()),
        (FILE.to_owned(), DISK.to_owned(), attached.repeat(2)),
        (FILE.to_owned(), DISK.to_owned(), "<Item/>".to_owned()),
        (
            FILE.to_owned(),
            DISK.to_owned(),
            item(&[("ResourceType", "99999999")]),
        ),
        (
            FILE.to_owned(),
            DISK.to_owned(),
            item(&[
                ("ResourceType", "4"),
                ("AllocationUnits", "furlong"),
                ("VirtualQuantity", "1"),
            ]),
        ),
        (
            FILE.to_owned(),
            DISK.to_owned(),
            item(&[("ResourceType", "3"), ("VirtualQuantity", "-4")]),
        ),
        (
            FILE.to_owned(),
            DISK.to_owned(),
            item(&[("ResourceType", "3"), ("VirtualQuantity", "4294967297")]),
        ),
    ] {
        assert_eq!(
            kind(&descriptor(&files, &disks, &items)),
            ErrorKind::Malformed
        );
    }
}

#[test]
fn what_is_too_much_is_a_limit() {
    let memory = item(&[
        ("AllocationUnits", "byte * 2^40"),
        ("InstanceID", "1"),
        ("ResourceType", "4"),
        ("VirtualQuantity", "99999999999"),
    ]);
    assert_eq!(kind(&descriptor("", "", &memory)), ErrorKind::Limit);
    let circle = r#"<Disk ovf:diskId="a" ovf:capacity="1" ovf:parentRef="b"/><Disk ovf:diskId="b" ovf:capacity="1" ovf:parentRef="a"/>"#;
    let attached = item(&[
        ("HostResource", "ovf:/disk/a"),
        ("InstanceID", "1"),
        ("ResourceType", "17"),
    ]);
    assert_eq!(kind(&descriptor("", circle, &attached)), ErrorKind::Limit);
    let huge = r#"<Disk ovf:diskId="a" ovf:capacity="18446744073709551615" ovf:capacityAllocationUnits="byte * 2^40"/>"#;
    assert_eq!(kind(&descriptor("", huge, "")), ErrorKind::Limit);
    assert_eq!(
        kind(&descriptor("", "", &"<Item/>".repeat(5000))),
        ErrorKind::Malformed
    );
    let many: String = (0..5000)
        .map(|n| item(&[("InstanceID", &n.to_string()), ("ResourceType", "1")]))
        .collect();
    assert_eq!(kind(&descriptor("", "", &many)), ErrorKind::Limit);
    let long = format!("<File ovf:id=\"f\" ovf:href=\"{}\"/>", "x".repeat(5000));
    assert_eq!(kind(&descriptor(&long, "", "")), ErrorKind::Limit);
}

#[test]
fn a_chain_that_is_asked_for_often_has_a_cap() {
    let chain: String = (0..60)
        .map(|n| {
            format!(
                "<Disk ovf:diskId=\"d{n}\" ovf:capacity=\"1\" ovf:parentRef=\"{}\"/>",
                if n == 0 {
                    String::new()
                } else {
                    format!("d{}", n - 1)
                }
            )
        })
        .collect();
    let items: String = (0..1000)
        .map(|n| {
            item(&[
                ("HostResource", "ovf:/disk/d59"),
                ("InstanceID", &n.to_string()),
                ("ResourceType", "17"),
            ])
        })
        .collect();
    assert_eq!(kind(&descriptor("", &chain, &items)), ErrorKind::Limit);
}

#[test]
fn control_characters_in_names_are_malformed() {
    let good = descriptor(FILE, DISK, "");
    for bad in [
        good.replace("<Name>vm<", "<Name>v&#x9b;m<"),
        good.replace("ovf:id=\"vm\"", "ovf:id=\"v&#x7f;m\""),
        good.replace("ovf:id=\"file1\"", "ovf:id=\"fi&#x85;le1\""),
        good.replace("ovf:diskId=\"d1\"", "ovf:diskId=\"d&#x202e;1\""),
    ] {
        assert_eq!(kind(&bad), ErrorKind::Malformed, "{bad}");
    }
    let network = item(&[
        ("Connection", "a&#x9b;b"),
        ("InstanceID", "1"),
        ("ResourceType", "10"),
    ]);
    assert_eq!(kind(&descriptor("", "", &network)), ErrorKind::Malformed);
}

#[test]
fn references_out_of_the_folder_are_read_and_not_given_out() {
    for (href, expected) in [
        ("../../etc/passwd", ErrorKind::Refused),
        ("/etc/passwd", ErrorKind::Refused),
        ("http://host/a.vmdk", ErrorKind::Refused),
        ("file:///etc/passwd", ErrorKind::Refused),
        ("C:\\disk.vmdk", ErrorKind::Refused),
        ("", ErrorKind::Malformed),
    ] {
        let files = format!("<File ovf:id=\"file1\" ovf:href=\"{href}\"/>");
        let package = read(descriptor(&files, DISK, "").as_bytes()).unwrap();
        let error = package.files[0].href.relative().unwrap_err();
        assert_eq!(error.kind(), expected, "{href}");
    }
}

#[test]
fn other_roots_and_versions_are_told() {
    assert_eq!(kind("<html/>"), ErrorKind::Malformed);
    assert_eq!(kind("<Envelope/>"), ErrorKind::Unsupported);
    assert_eq!(
        kind("<Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/3'/>"),
        ErrorKind::Unsupported
    );
    assert_eq!(kind(&format!("{HEAD}</Envelope>")), ErrorKind::Malformed);
    assert_eq!(
        kind(&format!("<!DOCTYPE a>{HEAD}</Envelope>")),
        ErrorKind::Refused
    );
}

#[test]
fn a_configuration_is_chosen_and_told() {
    let item = |configuration: &str, quantity: &str| {
        format!(
            "<Item ovf:configuration=\"{configuration}\"><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>{quantity}</rasd:VirtualQuantity></Item>"
        )
    };
    let text = descriptor("", "", &(item("small", "1") + &item("large huge", "8"))).replace(
        "<VirtualSystem ",
        "<DeploymentOptionSection><Info>x</Info><Configuration ovf:id=\"small\"/><Configuration ovf:id=\"large\" ovf:default=\"true\"/></DeploymentOptionSection><VirtualSystem ",
    );
    let package = read(text.as_bytes()).unwrap();
    assert_eq!(package.machines[0].cpus, Some(8));
    assert!(package.notes[0].contains("small, large"));
}
