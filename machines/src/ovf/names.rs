//! Namespaces of OVF descriptors, and how sections are called in each version.

use crate::xml::Element;

/// OVF 1.0 and 1.1.
pub const OVF_1: &str = "http://schemas.dmtf.org/ovf/envelope/1";
/// OVF 2.0 and 2.1.
pub const OVF_2: &str = "http://schemas.dmtf.org/ovf/envelope/2";
/// OVF 0.9, VMware's draft.
pub const OVF_0_9: &str = "http://www.vmware.com/schema/ovf/1/envelope";
/// VMware's additions.
pub const VMW: &str = "http://www.vmware.com/schema/ovf";
/// Types of XML Schema.
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// VirtualBox's machine.
pub const VBOX: &str = "http://www.virtualbox.org/ovf/machine";
/// Ganeti's section.
pub const GANETI: &str = "http://ganeti";
/// XenCenter's additions, in both spellings.
pub const XENOVF: [&str; 2] = [
    "http://schemas.citrix.com/ovf/envelope/1",
    "http://www.citrix.com/xenclient/ovf/1",
];

/// `OVF 1.x` and so on, if the namespace is one of OVF's. oVirt ends it with a slash.
pub fn standard(namespace: &str) -> Option<&'static str> {
    match namespace.trim_end_matches('/') {
        OVF_1 => Some("OVF 1.x"),
        OVF_2 => Some("OVF 2.x"),
        OVF_0_9 => Some("OVF 0.9"),
        _ => None,
    }
}

/// Whether an element is OVF's own. In OVF 0.9 many have no namespace at all.
pub fn is_ovf(element: &Element) -> bool {
    element.namespace().is_empty() || standard(element.namespace()).is_some()
}

/// The OVF attribute `name`, with any of OVF's namespaces or with none.
pub fn attribute<'d>(element: Element<'d>, name: &str) -> Option<&'d str> {
    let own = element
        .attributes()
        .find(|(space, local, _)| *local == name && standard(space).is_some());
    own.map(|(_, _, value)| value)
        .or_else(|| element.attribute("", name))
}

/// As [`attribute`], without blanks at the ends, `None` if nothing is left.
pub fn filled<'d>(element: Element<'d>, name: &str) -> Option<&'d str> {
    attribute(element, name)
        .map(str::trim)
        .filter(|v| !v.is_empty())
}

/// The name of a section or a content in OVF 1: of `<Section xsi:type="ovf:DiskSection_Type">` too.
pub fn name_in_1<'d>(element: Element<'d>) -> &'d str {
    if !matches!(element.name(), "Section" | "Content") {
        return element.name();
    }
    let kind = element.attribute(XSI, "type").unwrap_or_default().trim();
    let local = kind.rsplit(':').next().unwrap_or_default();
    match local.strip_suffix("_Type") {
        Some(name) => name,
        None => element.name(),
    }
}

/// Whether who does not know this element must refuse the descriptor.
pub fn is_required(element: Element) -> bool {
    !matches!(filled(element, "required"), Some("false" | "0"))
}
