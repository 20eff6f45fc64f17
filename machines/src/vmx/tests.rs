//! What VMX files say, what they must not say, and back.

use formats::ErrorKind;

use super::*;
use crate::machine::{Firmware, SettingFamily};

const VMX: &str = r#"#!/usr/bin/vmware
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "13"
displayName = "Web |22one|22 |7C two"
annotation = "first|0Asecond"
guestOS = "windows9srv-64"
memsize = "4096"
numvcpus = "4"
cpuid.coresPerSocket = "2"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
uuid.bios = "56 4d 96 af e6 46 bd 86-5c 4d 65 4e 77 36 ef 31"
SCSI0.Present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "web.vmdk"
scsi0:1.present = "FALSE"
scsi0:1.fileName = "gone.vmdk"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "tools.iso"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.generatedAddress = "00:0C:29:12:34:56"
ethernet0.pciSlotNumber = "192"
disk.EnableUUID = "TRUE"
"#;

fn machine(text: &str) -> crate::Machine {
    read(text.as_bytes()).unwrap().machines.remove(0)
}

#[test]
fn facts_are_read() {
    let machine = machine(VMX);
    assert_eq!(machine.name, "Web \"one\" | two");
    assert_eq!(machine.description.as_deref(), Some("first\nsecond"));
    assert_eq!(machine.memory, Some(4 << 30));
    assert_eq!((machine.cpus, machine.cores_per_socket), (Some(4), Some(2)));
    assert_eq!(machine.firmware, Some(Firmware::Efi));
    assert_eq!(machine.secure_boot, Some(true));
    assert_eq!(
        machine.guest_os.vmware.as_deref(),
        Some("windows9Server64Guest")
    );
    assert_eq!(machine.hardware_version.as_deref(), Some("vmx-13"));
    assert_eq!(machine.disks.len(), 1);
    assert_eq!(machine.controllers[1].model.as_deref(), Some("pvscsi"));
    assert_eq!(
        machine.cd_drives[0].medium.as_ref().unwrap().href.as_str(),
        "tools.iso"
    );
    assert_eq!(machine.nics[0].mac.as_deref(), Some("00:0c:29:12:34:56"));
    assert_eq!(machine.nics[0].settings[0].key, "pciSlotNumber");
    assert_eq!(
        machine.setting(SettingFamily::Vmx, "DISK.enableuuid"),
        Some("TRUE")
    );
}

#[test]
fn what_is_written_reads_the_same() {
    let first = machine(VMX);
    let written = write(&first).unwrap();
    // The file of a disk that is not there is a name of the host.
    assert_eq!(written.notes.len(), 1, "{:?}", written.notes);
    assert!(written.notes[0].contains("scsi0:1.fileName"));
    let mut second = machine(&written.text);
    // Bridges and an absent floppy are written out.
    second
        .extra
        .settings
        .retain(|s| !s.key.starts_with("pciBridge") && !s.key.starts_with("floppy"));
    assert_eq!(second.nics[0].mac, first.nics[0].mac);
    let mut first = first;
    first.extra.settings.retain(|s| s.key != "scsi0:1.fileName");
    first.cd_drives[0].connected = Some(true);
    assert_eq!(second, first);
}

#[test]
fn settings_from_elsewhere_name_nothing_of_a_host() {
    let mut machine = machine(VMX);
    for (key, value) in [
        ("scsi0:5.fileName", "/dev/sda"),
        ("vmx.log.filename", "/etc/cron.d/x"),
        ("a\nfloppy0.present", "TRUE"),
        ("serial0.fileName", "/dev/ttyS0"),
        ("good.key", "kept"),
    ] {
        machine.extra.settings.push(crate::machine::Setting {
            family: SettingFamily::Vmx,
            key: key.to_owned(),
            value: value.to_owned(),
            required: false,
        });
    }
    let text = write(&machine).unwrap().text;
    assert!(text.contains("good.key = \"kept\""));
    for bad in ["/dev/", "/etc/", "floppy0.present = \"TRUE\""] {
        assert!(!text.contains(bad), "{bad}: {text}");
    }
}

#[test]
fn code_pages_of_old_hosts_are_read() {
    let named = b".encoding = \"windows-1252\"\ndisplayName = \"M\xfcller\"\n";
    assert_eq!(read(named).unwrap().machines[0].name, "Müller");
    let silent = b"displayName = \"M\xfcller\"\n";
    assert_eq!(read(silent).unwrap().machines[0].name, "Müller");
    let japanese = b".encoding = \"Shift_JIS\"\ndisplayName = \"\x83\x65\"\n";
    assert_eq!(read(japanese).unwrap().machines[0].name, "テ");
}

#[test]
fn hostile_texts_are_refused() {
    for (text, kind) in [
        ("", ErrorKind::Malformed),
        ("hello", ErrorKind::Malformed),
        ("<xml/>", ErrorKind::Malformed),
        ("displayName = \"open", ErrorKind::Malformed),
        (
            "displayName = \"a\"\nDISPLAYNAME = \"b\"",
            ErrorKind::Malformed,
        ),
        ("displayName = \"a|1B[2J\"", ErrorKind::Malformed),
        ("guestOS = \"x\"\nmemsize = \"-4\"", ErrorKind::Malformed),
        (
            "guestOS = \"x\"\nmemsize = \"18446744073709551615\"",
            ErrorKind::Limit,
        ),
        ("guestOS = \"x\"\nnumvcpus = \"0\"", ErrorKind::Malformed),
        (
            "guestOS = \"x\"\nnumvcpus = \"4294967297\"",
            ErrorKind::Malformed,
        ),
        (
            "guestOS = \"x\"\nfirmware = \"coreboot\"",
            ErrorKind::Unsupported,
        ),
        (
            "guestOS = \"x\"\nscsi0:0.present = \"TRUE\"",
            ErrorKind::Malformed,
        ),
        (
            "guestOS = \"x\"\nencryption.keySafe = \"vmware:key\"",
            ErrorKind::Unsupported,
        ),
        (
            ".encoding = \"EBCDIC-9\"\nguestOS = \"x\"",
            ErrorKind::Unsupported,
        ),
    ] {
        assert_eq!(read(text.as_bytes()).unwrap_err().kind(), kind, "{text:?}");
    }
    let long = "a = \"b\"\n".repeat(200_000);
    assert_eq!(read(long.as_bytes()).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn files_of_elsewhere_are_named_and_not_given_out() {
    let text = "guestOS = \"x\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"/vmfs/volumes/a/b.vmdk\"";
    let file = machine(text).disks[0].image.file.clone().unwrap();
    assert_eq!(file.href.as_str(), "/vmfs/volumes/a/b.vmdk");
    assert_eq!(file.href.relative().unwrap_err().kind(), ErrorKind::Refused);
}
