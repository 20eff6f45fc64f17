//! VirtualSystem: one machine.

use formats::{ErrorKind, Result};

use super::envelope::{Context, check_info, kept};
use super::names::{filled, is_ovf, name_in_1};
use super::{foreign, hardware, item, sections};
use crate::machine::{Machine, Section};
use crate::text::{clean_name, shown};
use crate::xml::Element;

/// Machines of a package.
const MAX_MACHINES: usize = 1000;

/// Sections that belong to the envelope or to a collection.
const MISPLACED: &[&str] = &[
    "DiskSection",
    "NetworkSection",
    "ResourceAllocationSection",
    "StartupSection",
    "DeploymentOptionSection",
];

/// Children of a `System` or hardware section that are read elsewhere.
const HARDWARE_CHILDREN: &[&str] = &[
    "Info",
    "System",
    "Item",
    "StorageItem",
    "EthernetPortItem",
    "Config",
    "ExtraConfig",
    "VirtualSystemOtherConfigurationData",
];

/// Reads a machine.
pub(super) fn read(element: Element, context: &mut Context) -> Result<Machine> {
    check_info(element, context);
    context.count += 1;
    if context.count > MAX_MACHINES {
        return Err(element
            .error(ErrorKind::Limit, "too many machines")
            .expected(format!("at most {MAX_MACHINES}")));
    }
    let mut machine = Machine::default();
    if let Some(id) = filled(element, "id") {
        let id = clean_name(id, "id of a machine")?;
        if !context.machines.insert(id.clone()) {
            return Err(element
                .malformed("two machines with one id")
                .found(format!("{id:?}")));
        }
        machine.id = Some(id);
    } else {
        context.violation(format!(
            "VirtualSystem in line {} has no id",
            element.line()
        ));
    }
    let hardware = pick_hardware(element, &mut machine);
    if let Some(section) = hardware {
        read_hardware(section, &mut machine, context)?;
    } else {
        context.violation(format!(
            "VirtualSystem in line {} has no VirtualHardwareSection",
            element.line()
        ));
    }
    for child in element.children() {
        section(child, hardware, &mut machine, context)?;
    }
    name(element, hardware, &mut machine)?;
    foreign::finish(element, &mut machine);
    if let Some(configuration) = &context.configuration {
        let note = format!(
            "deployment configuration \"{}\" is taken",
            shown(configuration)
        );
        machine.note(note);
    }
    Ok(machine)
}

/// The name for people: `Name`, else the id, else what the hardware calls the system.
fn name(element: Element, hardware: Option<Element>, machine: &mut Machine) -> Result<()> {
    let said = element
        .children()
        .find(|c| is_ovf(c) && c.name() == "Name" && !c.text().is_empty())
        .map(|c| c.text());
    let identifier = hardware
        .and_then(|h| h.child("System"))
        .and_then(|s| s.child_text("VirtualSystemIdentifier"));
    let name = said
        .or(machine.id.as_deref())
        .or(identifier)
        .unwrap_or("machine");
    machine.name = clean_name(name, "name of a machine")?;
    if machine.id.as_ref() == Some(&machine.name) {
        machine.id = None;
    }
    Ok(())
}

/// Of several hardware sections the one for VMware, else the first.
fn pick_hardware<'d>(element: Element<'d>, machine: &mut Machine) -> Option<Element<'d>> {
    let all: Vec<Element> = element
        .children()
        .filter(|c| is_ovf(c) && name_in_1(*c) == "VirtualHardwareSection")
        .collect();
    let kind = |section: &Element<'d>| {
        section
            .child("System")
            .and_then(|s| s.child_text("VirtualSystemType"))
            .unwrap_or_default()
    };
    let picked = all
        .iter()
        .find(|s| kind(s).contains("vmx-"))
        .or_else(|| all.first())
        .copied();
    if all.len() > 1 {
        let kinds: Vec<String> = all.iter().map(|s| shown(kind(s))).collect();
        let picked = shown(picked.as_ref().map(kind).unwrap_or_default());
        machine.note(format!(
            "of {} hardware sections ({}) the one for {picked} is taken",
            all.len(),
            kinds.join("; ")
        ));
    }
    picked
}

fn read_hardware(section: Element, machine: &mut Machine, context: &mut Context) -> Result<()> {
    let system = section.child("System");
    machine.hardware_version = system
        .and_then(|s| s.child_text("VirtualSystemType"))
        .map(str::to_owned);
    machine.extra.transports = filled(section, "transport")
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect();
    let chosen = context.configuration.clone();
    let mut violations = Vec::new();
    let items = item::read_all(section, chosen.as_deref(), &mut violations)?;
    violations.into_iter().for_each(|v| context.violation(v));
    hardware::read(&items, machine, context)?;
    machine.extra.settings.extend(item::settings(section));
    machine
        .extra
        .settings
        .extend(foreign::xen_settings(section));
    let strangers = section
        .children()
        .filter(|c| !HARDWARE_CHILDREN.contains(&c.name()));
    for stranger in strangers {
        machine.extra.hardware_sections.push(kept(stranger)?);
    }
    Ok(())
}

/// Everything in a machine besides its hardware.
fn section(
    child: Element,
    hardware: Option<Element>,
    machine: &mut Machine,
    context: &mut Context,
) -> Result<()> {
    let name = name_in_1(child);
    if !is_ovf(&child) {
        machine.extra.sections.push(kept(child)?);
        return Ok(());
    }
    if name.ends_with("Section") {
        check_info(child, context);
    }
    match name {
        "Info" | "Name" => {}
        "VirtualHardwareSection" => {
            let is_picked = hardware.is_some_and(|h| h.is(child));
            if !is_picked {
                machine.extra.sections.push(kept(child)?);
            }
        }
        "OperatingSystemSection" => sections::operating_system(child, machine, context)?,
        "ProductSection" => sections::product(child, machine, context)?,
        "AnnotationSection" => {
            let text = child
                .child("Annotation")
                .map(|a| context.text(a).to_owned());
            machine.description = text.filter(|t| !t.is_empty());
        }
        "Description" => machine.description = Some(child.text().to_owned()),
        "EulaSection" => {
            let text = child.child("License").map(|l| context.text(l).to_owned());
            machine.extra.eulas.extend(text);
        }
        misplaced if MISPLACED.contains(&misplaced) => {
            context.violation(format!("{name} stands inside of a VirtualSystem"));
            machine.extra.sections.push(kept(child)?);
        }
        _ if name.ends_with("Section") => machine.extra.sections.push(kept(child)?),
        // oVirt's plain elements.
        _ => machine.extra.sections.push(Section {
            required: false,
            ..kept(child)?
        }),
    }
    Ok(())
}
