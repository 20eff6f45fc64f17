//! Machines in TOML: what people write by hand, and what `info` can be asked for.
//!
//! ```toml
//! name = "web"
//! cpus = 2
//! memory = "4G"
//! firmware = "efi"
//!
//! [[disks]]
//! controller = "scsi0"
//! unit = 0
//! image.capacity = "20G"
//!
//! [[nics]]
//! network = "VM Network"
//! model = "vmxnet3"
//! ```

use formats::{Error, Result};

use crate::machine::{MAX_CPUS, Machine};
use crate::text::{check_characters, decode_text, mac, shown, uuid};

const WHAT: &str = "machine in TOML";

/// Most bytes of one. Parsing takes many times as much memory.
const MAX_TEXT: usize = 1 << 20;

/// Examples for messages.
const UUID: &str = "564d96af-e646-bd86-5c4d-654e7736ef31";
const MAC: &str = "00:0c:29:12:34:56";

/// Reads one machine. Keys that do not exist are errors: a misspelt one would be lost in silence.
///
/// # Errors
/// `Malformed` for what is no TOML, keys that do not exist, values of the wrong kind, UUIDs and MACs that are none, and names with control characters; `Limit` above
/// 1 MiB.
pub fn read(bytes: &[u8]) -> Result<Machine> {
    if bytes.len() > MAX_TEXT {
        return Err(Error::limit(WHAT, "larger than anybody writes one")
            .found(format!("{} bytes", bytes.len()))
            .expected(format!("at most {MAX_TEXT}")));
    }
    let text = decode_text(bytes, None, WHAT)?;
    let mut machine: Machine = toml::from_str(&text).map_err(|e| {
        let error = Error::malformed(WHAT, e.message().to_owned());
        match e.span() {
            Some(span) => error.at(span.start as u64),
            None => error,
        }
    })?;
    if machine.name.trim().is_empty() {
        return Err(Error::malformed(WHAT, "no name").expected("name = \"…\""));
    }
    check_characters(&machine.name, "name of a machine")?;
    for network in machine.nics.iter().filter_map(|n| n.network.as_deref()) {
        check_characters(network, "name of a network")?;
    }
    if let Some(said) = machine.uuid.take() {
        machine.uuid = Some(uuid(&said).ok_or_else(|| no_such("UUID", &said, UUID))?);
    }
    for nic in &mut machine.nics {
        if let Some(said) = nic.mac.take() {
            nic.mac = Some(mac(&said).ok_or_else(|| no_such("MAC", &said, MAC))?);
        }
    }
    let files = machine.disks.iter().filter_map(|d| d.image.file.as_ref());
    let discs = machine.cd_drives.iter().filter_map(|d| d.medium.as_ref());
    if files
        .chain(discs)
        .any(|f| f.href.as_str().trim().is_empty())
    {
        return Err(Error::malformed(WHAT, "a file without a name").expected("href = \"…\""));
    }
    for count in [machine.cpus, machine.cores_per_socket]
        .into_iter()
        .flatten()
    {
        if Machine::cpu_count(count.into()).is_none() {
            return Err(Error::malformed(WHAT, "not a number of CPUs")
                .found(count)
                .expected(format!("1 to {MAX_CPUS}")));
        }
    }
    if machine.memory.is_some_and(|m| m > i64::MAX as u64) {
        return Err(Error::limit(WHAT, "more memory than 63 bits can say"));
    }
    Ok(machine)
}

fn no_such(what: &str, said: &str, example: &str) -> Error {
    Error::malformed(WHAT, format!("not a {what}"))
        .found(shown(said))
        .expected(format!("one like {example}"))
}

/// Writes one machine. Notes are left out: they are about what was read, not about the machine.
///
/// # Errors
/// `Limit` for numbers above 2^63, which TOML does not have.
pub fn write(machine: &Machine) -> Result<String> {
    let machine = Machine {
        notes: Vec::new(),
        ..machine.clone()
    };
    toml::to_string(&machine)
        .map_err(|e| Error::limit(WHAT, "cannot be said in TOML").found(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Firmware;
    use formats::ErrorKind;

    #[test]
    fn what_people_write_is_read() {
        let machine = read(
            b"name = \"web\"\ncpus = 2\nmemory = \"4G\"\nfirmware = \"uefi\"\n\
              [[controllers]]\nid = \"scsi0\"\nmodel = \"pvscsi\"\n\
              [[disks]]\ncontroller = \"scsi0\"\nunit = 1\nimage.capacity = \"20G\"\nimage.file = { href = \"a.vmdk\" }\n\
              [[nics]]\nnetwork = \"VM Network\"\nmac = \"00:0c:29:12:34:56\"\n",
        )
        .unwrap();
        assert_eq!(machine.memory, Some(4 << 30));
        assert_eq!(machine.firmware, Some(Firmware::Efi));
        assert_eq!(machine.disks[0].image.capacity, Some(20 << 30));
        assert_eq!(machine.disks[0].controller.unwrap().to_string(), "scsi0");
        assert_eq!(read(write(&machine).unwrap().as_bytes()).unwrap(), machine);
    }

    #[test]
    fn what_nobody_knows_is_malformed() {
        for text in [
            "",
            "cpus = 2",
            "name = \"\"",
            "name = \"a\"\nmemroy = \"4G\"",
            "name = \"a\"\nmemory = \"4X\"",
            "name = \"a\"\nmemory = -1",
            "name = \"a\"\ncpus = 0",
            "name = \"a\"\ncpus = 99999999999",
            "name = \"a\"\nfirmware = \"coreboot\"",
            "name = \"a\\u001b[2J\"",
            "name = \"a\"\n[[disks]]\ncontroller = \"floppy0\"",
            "name = \"a\"\n[[disks]]\nimage.size = 3",
            "name = \"a\"\n[[disks]]\nimage.file = {}",
            "name = [",
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{text:?}: {error}");
        }
    }
}
