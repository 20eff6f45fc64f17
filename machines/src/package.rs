//! What one descriptor describes: machines, the files they need, and the networks they name.

use serde::{Deserialize, Serialize};

use crate::machine::{FileReference, Machine, Section};

/// Everything that a descriptor says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Package {
    /// The dialect: `OVF 1.x`, `XVA`, `VMX`.
    pub standard: String,
    /// Who seems to have written it: `VMware`, `VirtualBox`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// The collection around several machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collection: Option<Collection>,
    /// The machines, in the order of the descriptor.
    pub machines: Vec<Machine>,
    /// Networks that are described.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// All files of the package, also those that no machine uses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileReference>,
    /// Sections about the whole package.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<Section>,
    /// Where the descriptor is not what its standard asks for, though it can be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<String>,
    /// What of it is not in the machines, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Several machines that belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Collection {
    /// What the package calls it.
    pub id: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Sections about it: the order of starting, products.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<Section>,
}

/// A network that machines name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// A text for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl Package {
    /// The machine that people or the package call `name`.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines
            .iter()
            .find(|m| m.name == name)
            .or_else(|| self.machines.iter().find(|m| m.id.as_deref() == Some(name)))
    }
}
