//! Items: what CIM_ResourceAllocationSettingData says of one piece of hardware, before anybody interprets it.

use std::collections::{HashMap, HashSet};

use formats::{ErrorKind, Result};

use super::names::{attribute, filled, is_ovf, is_required};
use super::references::in_line;
use crate::machine::{Setting, SettingFamily};
use crate::text::{check_characters, shown};
use crate::units::number;
use crate::xml::Element;

/// Children of an Item that DSP0243 and CIM know, in all versions.
const KNOWN: &[&str] = &[
    "Access",
    "Address",
    "AddressOnParent",
    "AllocationUnits",
    "AutomaticAllocation",
    "AutomaticDeallocation",
    "BusNumber",
    "Caption",
    "ChangeableType",
    "CompressionEnabled",
    "Config",
    "ConfigurationName",
    "Connection",
    "ConsumerVisibility",
    "CoresPerSocket",
    "DefaultPortVID",
    "DefaultPriority",
    "Description",
    "DesiredVLANEndpointMode",
    "ElementName",
    "ExtraConfig",
    "Generation",
    "HostExtentName",
    "HostExtentNameFormat",
    "HostExtentNameNamespace",
    "HostExtentStartingAddress",
    "HostResource",
    "HostResourceBlockSize",
    "Icon",
    "InstanceID",
    "InstanceId",
    "Limit",
    "MappingBehavior",
    "NetworkPortProfileID",
    "NetworkPortProfileIDType",
    "NetworkPortProfileURI",
    "OtherEndpointMode",
    "OtherHostExtentNameFormat",
    "OtherHostExtentNameNamespace",
    "OtherNetworkPortProfileIDTypeInfo",
    "OtherResourceType",
    "Parent",
    "PoolID",
    "PortCorrelationID",
    "PortVID",
    "Promiscuous",
    "ReceiveBandwidthLimit",
    "ReceiveBandwidthReservation",
    "Reservation",
    "ResourceSubType",
    "ResourceType",
    "SourceMACFilteringEnabled",
    "VSITypeID",
    "VirtualQuantity",
    "VirtualQuantityUnits",
    "VirtualResourceBlockSize",
    "Weight",
];

/// Items of a hardware section: thousands more than any machine has devices.
const MAX_ITEMS: usize = 4096;

/// One Item.
#[derive(Debug, Clone, Default)]
pub(super) struct Item {
    /// Line of the element, for messages.
    pub line: usize,
    /// Unique in its section; other Items name it as their parent.
    pub instance: Option<String>,
    /// What sort of thing it is.
    pub resource_type: u16,
    /// Which of that sort: a list with blanks or commas.
    pub subtype: Option<String>,
    /// What people call it.
    pub name: Option<String>,
    /// `Caption`, where `name` comes from `ElementName`.
    pub caption: Option<String>,
    /// The Item it hangs on.
    pub parent: Option<String>,
    /// Number of a controller; MAC of a NIC.
    pub address: Option<String>,
    /// Unit on the parent.
    pub address_on_parent: Option<String>,
    /// What is behind it.
    pub host_resources: Vec<String>,
    /// Networks.
    pub connections: Vec<String>,
    /// Whether it is connected.
    pub automatic: Option<bool>,
    /// How much of it.
    pub quantity: Option<u64>,
    /// In which unit.
    pub units: Option<String>,
    /// At least so much.
    pub reservation: Option<u64>,
    /// At most so much.
    pub limit: Option<u64>,
    /// Shares.
    pub weight: Option<u64>,
    /// Cores of a socket (VMware), or sockets and cores (oVirt).
    pub cores_per_socket: Option<u64>,
    /// oVirt's `num_of_sockets`.
    pub sockets: Option<u64>,
    /// oVirt's `threads_per_cpu`.
    pub threads: Option<u64>,
    /// MAC where it has an element of its own (oVirt).
    pub mac: Option<String>,
    /// `min`, `max`, `normal`.
    pub bound: Option<String>,
    /// Deployment configurations it is for; all if empty.
    pub configurations: Vec<String>,
    /// Whether who does not know it must refuse.
    pub required: bool,
    /// VMware's settings of the device.
    pub settings: Vec<Setting>,
}

impl Item {
    /// What to call it in a message.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("Item \"{}\" in line {}", shown(name), self.line),
            None => format!("Item in line {}", self.line),
        }
    }

    /// The unit on the parent, where it is a number.
    pub fn unit(&self) -> Option<u32> {
        self.address_on_parent.as_deref()?.trim().parse().ok()
    }
}

/// The Items of a hardware section that are there in deployment configuration `chosen`, in order.
pub(super) fn read_all(
    section: Element,
    chosen: Option<&str>,
    violations: &mut Vec<String>,
) -> Result<Vec<Item>> {
    let mut items: Vec<Item> = Vec::new();
    let mut by_instance: HashMap<String, usize> = HashMap::new();
    let mut bounds: HashSet<(Option<String>, String)> = HashSet::new();
    for (count, element) in section.children().filter(is_item).enumerate() {
        if count >= MAX_ITEMS {
            return Err(element
                .error(ErrorKind::Limit, "too many Items")
                .expected(format!("at most {MAX_ITEMS}")));
        }
        let item = read(element, violations)?;
        let is_chosen = item.configurations.is_empty()
            || chosen.is_some_and(|c| item.configurations.iter().any(|i| i == c));
        if !is_chosen {
            continue;
        }
        if let Some(bound @ ("min" | "max")) = item.bound.as_deref() {
            if !bounds.insert((item.instance.clone(), bound.to_owned())) {
                violations.push(format!("{}: a second {bound} of the same", item.label()));
            }
            continue;
        }
        let Some(instance) = item.instance.clone() else {
            violations.push(format!("{} has no InstanceID", item.label()));
            items.push(item);
            continue;
        };
        match by_instance.get(&instance).and_then(|i| items.get_mut(*i)) {
            // What is said for one configuration counts more than what is said for all.
            Some(before) if before.configurations.is_empty() != item.configurations.is_empty() => {
                if before.configurations.is_empty() {
                    *before = item;
                }
            }
            Some(_) => {
                return Err(element
                    .malformed("two Items with one InstanceID")
                    .found(format!("{instance:?}")));
            }
            None => {
                by_instance.insert(instance, items.len());
                items.push(item);
            }
        }
    }
    Ok(items)
}

fn is_item(element: &Element) -> bool {
    is_ovf(element) && matches!(element.name(), "Item" | "StorageItem" | "EthernetPortItem")
}

fn read(element: Element, violations: &mut Vec<String>) -> Result<Item> {
    let text = |name: &str| element.child_text(name).map(str::to_owned);
    let quantity = |name: &str, what: &'static str| match element.child_text(name) {
        Some(words) => number(words, what)
            .map(Some)
            .map_err(|e| in_line(element, e)),
        None => Ok(None),
    };
    let kind = element
        .child_text("ResourceType")
        .ok_or_else(|| element.malformed("no ResourceType: nobody knows what it is"))?;
    let resource_type = kind.parse().map_err(|_| {
        element
            .malformed("ResourceType is not a number that fits")
            .found(format!("{kind:?}"))
    })?;
    let instance = text("InstanceID").or_else(|| text("InstanceId"));
    if let Some(instance) = &instance {
        check_characters(instance, "InstanceID")?;
    }
    let caption = text("Caption");
    let item = Item {
        line: element.line(),
        instance,
        resource_type,
        subtype: text("ResourceSubType"),
        name: text("ElementName").or_else(|| caption.clone()),
        caption,
        parent: text("Parent"),
        address: text("Address").or_else(|| text("BusNumber")),
        address_on_parent: text("AddressOnParent"),
        host_resources: all(element, "HostResource"),
        connections: all(element, "Connection"),
        automatic: element
            .child_text("AutomaticAllocation")
            .map(|t| t.eq_ignore_ascii_case("true") || t == "1"),
        quantity: quantity("VirtualQuantity", "VirtualQuantity")?,
        units: text("AllocationUnits"),
        reservation: quantity("Reservation", "Reservation")?,
        limit: quantity("Limit", "Limit")?,
        weight: quantity("Weight", "Weight")?,
        cores_per_socket: quantity("CoresPerSocket", "CoresPerSocket")?
            .or(quantity("cpu_per_socket", "cpu_per_socket")?),
        sockets: quantity("num_of_sockets", "num_of_sockets")?,
        threads: quantity("threads_per_cpu", "threads_per_cpu")?,
        mac: text("MACAddress"),
        bound: filled(element, "bound").map(str::to_owned),
        configurations: attribute(element, "configuration")
            .unwrap_or_default()
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect(),
        required: is_required(element),
        settings: settings(element),
    };
    for child in element.children() {
        if !KNOWN.contains(&child.name()) && is_required(child) {
            let name = shown(child.name());
            violations.push(format!("{}: unknown element \"{name}\"", item.label()));
        }
    }
    Ok(item)
}

fn all(element: Element, name: &str) -> Vec<String> {
    element
        .children()
        .filter(|c| c.name() == name && !c.text().is_empty())
        .map(|c| c.text().to_owned())
        .collect()
}

/// `vmw:Config` and `vmw:ExtraConfig` directly inside `element`.
pub(super) fn settings(element: Element) -> Vec<Setting> {
    let mut found = Vec::new();
    for child in element.children() {
        let family = match child.name() {
            "Config" => SettingFamily::Config,
            "ExtraConfig" => SettingFamily::Vmx,
            _ => continue,
        };
        let value = |name: &str| {
            child
                .attributes()
                .find(|(_, local, _)| *local == name)
                .map(|(_, _, value)| value)
        };
        if let Some(key) = value("key") {
            found.push(Setting {
                family,
                key: key.to_owned(),
                value: value("value").unwrap_or_default().to_owned(),
                required: is_required(child),
            });
        }
    }
    found
}
