//! Sections of less structure: networks, the operating system, products, configurations, texts.

use std::collections::{HashMap, HashSet};

use formats::Result;

use super::envelope::Context;
use super::names::{filled, is_ovf, name_in_1};
use crate::machine::{Machine, Product, Property};
use crate::package::Network;
use crate::text::{clean_name, shown};
use crate::xml::Element;

/// Types of a property (DSP0243, "Property types"), and those that VMware adds.
const PROPERTY_TYPES: &[&str] = &[
    "uint8",
    "sint8",
    "uint16",
    "sint16",
    "uint32",
    "sint32",
    "uint64",
    "sint64",
    "string",
    "boolean",
    "real32",
    "real64",
    "password",
    "ip",
    "int",
    "expression",
];

/// The networks of a NetworkSection.
pub(super) fn networks(section: Element, context: &Context) -> Result<Vec<Network>> {
    let mut found = Vec::new();
    for network in section
        .children()
        .filter(|c| is_ovf(c) && c.name() == "Network")
    {
        let name = filled(network, "name").unwrap_or_default();
        found.push(Network {
            name: clean_name(name, "network name")?,
            description: network
                .child("Description")
                .map(|d| context.text(d).to_owned())
                .filter(|t| !t.is_empty()),
        });
    }
    Ok(found)
}

/// OperatingSystemSection.
pub(super) fn operating_system(
    section: Element,
    machine: &mut Machine,
    context: &mut Context,
) -> Result<()> {
    // oVirt puts the id of the machine here.
    machine.guest_os.cim = filled(section, "id").and_then(|id| id.parse().ok());
    if filled(section, "id").is_none() {
        context.violation(format!(
            "OperatingSystemSection in line {} has no id",
            section.line()
        ));
    }
    machine.guest_os.version = filled(section, "version").map(str::to_owned);
    machine.guest_os.vmware = section
        .attributes()
        .find(|(_, local, _)| *local == "osType")
        .map(|(_, _, value)| value.trim())
        .filter(|v| !v.is_empty())
        .map(str::to_owned);
    machine.guest_os.description = section
        .child("Description")
        .map(|d| context.text(d).to_owned())
        .filter(|t| !t.is_empty());
    Ok(())
}

/// ProductSection: what `info` shows, and the section itself.
pub(super) fn product(
    section: Element,
    machine: &mut Machine,
    context: &mut Context,
) -> Result<()> {
    let text = |name: &str| {
        section
            .child(name)
            .map(|c| context.text(c).to_owned())
            .filter(|t| !t.is_empty())
    };
    let mut product = Product {
        name: text("Product"),
        vendor: text("Vendor"),
        version: text("Version").or_else(|| text("FullVersion")),
        properties: Vec::new(),
        xml: section.fragment()?,
    };
    let class = filled(section, "class");
    let instance = filled(section, "instance");
    let mut keys = HashSet::new();
    for property in section.children().filter(|c| c.name() == "Property") {
        let line = property.line();
        let Some(key) = filled(property, "key") else {
            context.violation(format!("Property in line {line} has no key"));
            continue;
        };
        let name = shown(key);
        if !keys.insert(key) {
            context.violation(format!("Property \"{name}\" in line {line} is there twice"));
        }
        match filled(property, "type") {
            None => context.violation(format!("Property \"{name}\" in line {line} has no type")),
            Some(kind) if !is_property_type(kind) => context.violation(format!(
                "Property \"{name}\" in line {line} has an unknown type, \"{}\"",
                shown(kind)
            )),
            Some(_) => {}
        }
        let parts = [class, Some(key), instance];
        product.properties.push(Property {
            key: parts.into_iter().flatten().collect::<Vec<_>>().join("."),
            kind: filled(property, "type").unwrap_or_default().to_owned(),
            value: property_value(property).map(str::to_owned),
        });
    }
    machine.extra.products.push(product);
    Ok(())
}

/// VMware has types with arguments: `string(1..20)`, `ip:Network`, `password(8..)`.
fn is_property_type(kind: &str) -> bool {
    let word = kind
        .split(['(', ':', '['])
        .next()
        .unwrap_or_default()
        .trim();
    PROPERTY_TYPES.contains(&word) || kind.contains('"')
}

fn property_value(property: Element<'_>) -> Option<&str> {
    filled(property, "value").or_else(|| {
        property
            .child("Value")
            .and_then(|value| filled(value, "value"))
    })
}

/// What `${key}` stands for, anywhere in the package: the default values of properties.
pub(super) fn property_values(root: Element) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut waiting = vec![root];
    while let Some(element) = waiting.pop() {
        let is_product = name_in_1(element) == "ProductSection";
        for child in element.children() {
            if is_product && child.name() == "Property" {
                let value = property_value(child).map(str::to_owned);
                if let (Some(key), Some(value)) = (filled(child, "key"), value) {
                    let parts = [
                        filled(element, "class"),
                        Some(key),
                        filled(element, "instance"),
                    ];
                    let full = parts.into_iter().flatten().collect::<Vec<_>>().join(".");
                    found.insert(full, value);
                }
            } else if !is_product {
                waiting.push(child);
            }
        }
    }
    found
}

/// The configuration that a DeploymentOptionSection marks as the default, else its first.
pub(super) fn chosen_configuration(section: Element, notes: &mut Vec<String>) -> Option<String> {
    let all: Vec<Element> = section
        .children()
        .filter(|c| c.name() == "Configuration")
        .collect();
    let is_default = |c: &&Element| matches!(filled(**c, "default"), Some("true" | "1"));
    let chosen = all.iter().find(is_default).or_else(|| all.first())?;
    let names: Vec<&str> = all.iter().filter_map(|c| filled(*c, "id")).collect();
    if names.len() > 1 {
        notes.push(format!(
            "deployment configurations: {}; \"{}\" is taken",
            shown(&names.join(", ")),
            shown(filled(*chosen, "id").unwrap_or_default())
        ));
    }
    filled(*chosen, "id").map(str::to_owned)
}

/// Texts by `msgid`.
pub(super) fn strings(section: Element) -> HashMap<String, String> {
    section
        .children()
        .filter(|c| c.name() == "Msg")
        .filter_map(|c| Some((filled(c, "msgid")?.to_owned(), c.text().to_owned())))
        .collect()
}
