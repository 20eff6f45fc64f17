//! Disks, CD drives and floppies: what their HostResource refers to, and where they hang.

use formats::{Error, Result};

use super::envelope::Context;
use super::hardware::{Controllers, resource};
use super::item::Item;
use crate::machine::{CdDrive, ControllerId, Disk, DiskImage, FileReference, Floppy, Machine};
use crate::text::{check_characters, shown};

/// What a HostResource means.
enum Resource<'r> {
    /// A disk of the DiskSection.
    Disk(&'r str),
    /// A file of References.
    File(&'r str),
}

/// Takes `item` if it is a drive of any kind; whether it was one.
pub(super) fn read(
    item: &Item,
    controllers: &Controllers,
    machine: &mut Machine,
    context: &mut Context,
) -> Result<bool> {
    match item.resource_type {
        resource::CD | resource::DVD => cd(item, controllers, machine, context)?,
        resource::FLOPPY => floppy(item, machine, context)?,
        resource::DISK | resource::STORAGE_EXTENT => disk(item, controllers, machine, context)?,
        _ if is_memory(item) => return memory(item, machine, context),
        // Microsoft's flavour, and whatever else has a disk of the package behind it.
        _ => match disk_of(item, context)? {
            Some(_) if is_disc(item) => cd(item, controllers, machine, context)?,
            Some(_) => disk(item, controllers, machine, context)?,
            None => return Ok(false),
        },
    }
    Ok(true)
}

/// Memory that keeps its content, in an image of its own.
fn is_memory(item: &Item) -> bool {
    let subtype = item.subtype.as_deref().unwrap_or_default();
    subtype.to_ascii_lowercase().starts_with("vmware.nvdimm")
}

/// Says that the image of an NVDIMM is left out; the device is kept with the others.
fn memory(item: &Item, machine: &mut Machine, context: &mut Context) -> Result<bool> {
    if let Some(image) = disk_of(item, context)? {
        let id = image.id.unwrap_or_default();
        machine.note(format!(
            "{} is an NVDIMM: its image \"{}\" is no disk and is left out",
            item.label(),
            shown(&id)
        ));
        context.used_disks.insert(id);
    }
    Ok(false)
}

/// XenCenter tells CDs from disks by their captions.
fn is_disc(item: &Item) -> bool {
    let words = [&item.name, &item.caption, &item.subtype];
    words.into_iter().flatten().any(|w| {
        let lower = w.to_ascii_lowercase();
        lower.contains("iso") || lower.contains("cd") || lower.contains("dvd")
    })
}

/// The form of a HostResource: `ovf:/disk/ID`, `/disk/ID`, `ovf://disk/ID`, `ovf:/file/ID`.
fn form(text: &str) -> Option<Resource<'_>> {
    let path = text.strip_prefix("ovf:").unwrap_or(text);
    let path = path.trim_start_matches('/');
    if let Some(id) = path.strip_prefix("disk/") {
        return Some(Resource::Disk(id));
    }
    path.strip_prefix("file/").map(Resource::File)
}

/// The image that the item refers to, if it refers to a disk.
fn disk_of(item: &Item, context: &Context) -> Result<Option<DiskImage>> {
    let Some(text) = item.host_resources.first() else {
        return Ok(None);
    };
    match form(text) {
        Some(Resource::Disk(id)) => {
            check_characters(id, "disk id")?;
            let image = context.disks.image(id).ok_or_else(|| missing(item, text))?;
            image.map(Some)
        }
        Some(Resource::File(id)) => {
            let file = context.file(id).ok_or_else(|| missing(item, text))?;
            let is_drive = matches!(
                item.resource_type,
                resource::DISK | resource::STORAGE_EXTENT
            );
            Ok(is_drive.then(|| DiskImage {
                file: Some(file.clone()),
                ..DiskImage::default()
            }))
        }
        // oVirt: `group/volume`, of which the volume is the diskId.
        None => {
            let id = text.rsplit('/').next().unwrap_or_default();
            context.disks.image(id).transpose()
        }
    }
}

fn missing(item: &Item, text: &str) -> Error {
    Error::malformed(item.label(), "refers to what the package does not have")
        .found(format!("{text:?}"))
}

fn disk(
    item: &Item,
    controllers: &Controllers,
    machine: &mut Machine,
    context: &mut Context,
) -> Result<()> {
    if item.host_resources.len() > 1 {
        return Err(
            Error::malformed(item.label(), "several images behind one disk")
                .found(format!("{:?}", item.host_resources)),
        );
    }
    let image = match disk_of(item, context)? {
        Some(image) => image,
        None if item.host_resources.is_empty() => {
            return bare_disk(item, controllers, machine, context);
        }
        None => {
            let text = item.host_resources.first().map_or("", |t| t);
            return Err(missing(item, text));
        }
    };
    if let Some(id) = &image.id {
        // An empty disk may be a pattern for several; a file can only be one of them.
        let is_double = machine.disks.iter().any(|d| d.image.id == image.id);
        if is_double && image.file.is_some() {
            context.violation(format!("{}: disk \"{id}\" is used twice", item.label()));
        }
        context.used_disks.insert(id.clone());
    }
    attach(item, image, controllers, machine, context)
}

/// A disk without an image: its size is in the Item, or it is a device of the host.
fn bare_disk(
    item: &Item,
    controllers: &Controllers,
    machine: &mut Machine,
    context: &mut Context,
) -> Result<()> {
    let capacity = match (item.quantity, item.units.as_deref()) {
        (Some(quantity), Some(unit)) => crate::units::byte_unit(unit)
            .ok()
            .and_then(|unit| quantity.checked_mul(unit)),
        _ => None,
    };
    if capacity.is_none() {
        context.violation(format!("{} has no image and no size", item.label()));
    }
    let image = DiskImage {
        capacity,
        ..DiskImage::default()
    };
    attach(item, image, controllers, machine, context)
}

fn attach(
    item: &Item,
    image: DiskImage,
    controllers: &Controllers,
    machine: &mut Machine,
    context: &mut Context,
) -> Result<()> {
    let controller = controller(item, controllers, context);
    let unit = unit(item, context);
    if let (Some(controller), Some(unit)) = (controller, unit)
        && machine
            .disks
            .iter()
            .any(|d| d.controller == Some(controller) && d.unit == Some(unit))
    {
        context.violation(format!(
            "{}: unit {unit} of {controller} has a disk already",
            item.label()
        ));
    }
    machine.disks.push(Disk {
        name: item.name.clone(),
        controller,
        unit,
        bootable: None,
        read_only: false,
        image,
        settings: item.settings.clone(),
    });
    Ok(())
}

/// What the item hangs on. Parents that are no controller (XenCenter, oVirt name none) leave it open.
fn controller(
    item: &Item,
    controllers: &Controllers,
    context: &mut Context,
) -> Option<ControllerId> {
    let parent = item.parent.as_deref()?;
    // Hyper-V's flavour writes paths whose last part is the controller.
    let found = controllers.get(parent).copied();
    if found.is_none() && !parent.chars().all(|c| matches!(c, '0' | '-')) {
        context.violation(format!(
            "{}: its parent \"{}\" is no controller",
            item.label(),
            shown(parent)
        ));
    }
    found
}

fn unit(item: &Item, context: &mut Context) -> Option<u32> {
    let said = item.address_on_parent.as_deref()?;
    let unit = item.unit();
    if unit.is_none() {
        context.violation(format!(
            "{}: AddressOnParent \"{}\" is no number",
            item.label(),
            shown(said)
        ));
    }
    unit
}

/// The file behind a drive, where it is a file of the package.
fn medium(item: &Item, context: &mut Context) -> Result<Option<FileReference>> {
    let Some(text) = item.host_resources.first() else {
        return Ok(None);
    };
    match form(text) {
        Some(Resource::File(id)) => {
            let file = context.file(id).ok_or_else(|| missing(item, text))?;
            Ok(Some(file.clone()))
        }
        Some(Resource::Disk(id)) => {
            let image = context
                .disks
                .image(id)
                .ok_or_else(|| missing(item, text))??;
            context.used_disks.insert(id.to_owned());
            Ok(image.file)
        }
        None => Ok(None),
    }
}

fn cd(
    item: &Item,
    controllers: &Controllers,
    machine: &mut Machine,
    context: &mut Context,
) -> Result<()> {
    let drive = CdDrive {
        controller: controller(item, controllers, context),
        unit: unit(item, context),
        medium: medium(item, context)?,
        backing: item.subtype.clone(),
        connected: item.automatic,
        settings: item.settings.clone(),
    };
    machine.cd_drives.push(drive);
    Ok(())
}

fn floppy(item: &Item, machine: &mut Machine, context: &mut Context) -> Result<()> {
    let medium = medium(item, context)?;
    machine.floppies.push(Floppy {
        medium,
        backing: item.subtype.clone(),
        connected: item.automatic,
    });
    Ok(())
}
