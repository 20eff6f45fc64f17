//! OVF descriptors as other software writes them. Not made with anything of diskferry's own.

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Vmware,
    /// OVF 0.9, of Workstation 6 and ovftool 1.
    Vmware09,
    /// OVF 2 with its own kinds of items.
    Ovf2,
    VirtualBox,
    XenCenter,
    XenOrchestra,
    Ganeti,
    OVirt,
    Microsoft,
}

impl Dialect {
    pub const ALL: [Dialect; 9] = [
        Dialect::Vmware,
        Dialect::Vmware09,
        Dialect::Ovf2,
        Dialect::VirtualBox,
        Dialect::XenCenter,
        Dialect::XenOrchestra,
        Dialect::Ganeti,
        Dialect::OVirt,
        Dialect::Microsoft,
    ];

    /// Whether it has words for BIOS and EFI.
    pub fn says_firmware(self) -> bool {
        matches!(self, Dialect::Vmware | Dialect::Ovf2 | Dialect::XenCenter)
    }

    fn old(self) -> bool {
        matches!(self, Dialect::Vmware09 | Dialect::OVirt)
    }
}

pub const STREAM_URI: &str =
    "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
pub const VHD_URI: &str = "http://www.microsoft.com/technet/virtualserver/downloads/vhdspec.mspx";
pub const RAW_URI: &str = "http://en.wikipedia.org/wiki/Byte";
pub const QCOW2_URI: &str = "http://www.gnome.org/~markmc/qcow-image-format.html";

/// A `File` of the references.
#[derive(Debug, Clone, Default)]
pub struct FileEntry {
    pub id: String,
    pub href: String,
    pub size: Option<u64>,
    pub compression: Option<&'static str>,
    pub chunk_size: Option<u64>,
}

/// A `Disk` of the section of disks.
#[derive(Debug, Clone, Default)]
pub struct DiskEntry {
    pub id: String,
    pub file: Option<String>,
    /// Bytes.
    pub capacity: u64,
    pub format: String,
    pub parent: Option<String>,
}

/// What a disk hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    Ide,
    Scsi,
    Sata,
}

/// A network adapter.
#[derive(Debug, Clone)]
pub struct Nic {
    pub network: String,
    pub mac: String,
    pub model: String,
}

/// A machine.
#[derive(Debug, Clone)]
pub struct Machine {
    pub id: String,
    pub name: String,
    pub cpus: u32,
    /// MiB.
    pub memory: u64,
    pub firmware: Option<&'static str>,
    pub bus: Bus,
    /// Ids of disks.
    pub disks: Vec<String>,
    pub nics: Vec<Nic>,
}

impl Machine {
    pub fn new(name: &str) -> Machine {
        Machine {
            id: name.to_owned(),
            name: name.to_owned(),
            cpus: 2,
            memory: 512,
            firmware: Some("efi"),
            bus: Bus::Scsi,
            disks: Vec::new(),
            nics: vec![Nic {
                network: "VM Network".to_owned(),
                mac: "00:50:56:aa:bb:cc".to_owned(),
                model: "E1000".to_owned(),
            }],
        }
    }
}

/// A descriptor to be.
#[derive(Debug, Clone)]
pub struct Descriptor {
    pub dialect: Dialect,
    pub files: Vec<FileEntry>,
    pub disks: Vec<DiskEntry>,
    pub machines: Vec<Machine>,
}

const RASD: &str =
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData";
const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_";

impl Descriptor {
    pub fn text(&self) -> String {
        let sections = [self.references(), self.disk_section(), self.networks()].concat();
        let systems: Vec<String> = self.machines.iter().map(|m| self.system(m)).collect();
        let systems = match systems.as_slice() {
            [one] => one.clone(),
            several => format!(
                "<VirtualSystemCollection ovf:id=\"group\"><Info>Machines</Info><Name>group</Name>{}\
                 </VirtualSystemCollection>",
                several.concat()
            ),
        };
        let text = format!("{}{sections}{systems}</Envelope>\n", self.head());
        match self.dialect {
            Dialect::XenCenter | Dialect::OVirt => prefixed(&text),
            _ => text,
        }
    }

    fn head(&self) -> String {
        let version = match self.dialect {
            Dialect::Vmware09 => "http://www.vmware.com/schema/ovf/1/envelope",
            Dialect::Ovf2 => "http://schemas.dmtf.org/ovf/envelope/2",
            Dialect::OVirt => "http://schemas.dmtf.org/ovf/envelope/1/",
            _ => "http://schemas.dmtf.org/ovf/envelope/1",
        };
        let own = match self.dialect {
            Dialect::Vmware | Dialect::Ovf2 => " xmlns:vmw=\"http://www.vmware.com/schema/ovf\"",
            Dialect::Vmware09 => "",
            Dialect::VirtualBox => {
                " ovf:version=\"1.0\" xml:lang=\"en-US\" xmlns:vbox=\"http://www.virtualbox.org/ovf/machine\""
            }
            Dialect::XenCenter => {
                " xmlns:xenovf=\"http://schemas.citrix.com/ovf/envelope/1\" xenovf:version=\"1.0.0\" xml:lang=\"en-US\""
            }
            Dialect::XenOrchestra => " xmlns:vmw=\"http://www.vmware.com/schema/ovf\"",
            Dialect::Ganeti => {
                " xmlns:gnt=\"http://ganeti\" xml:lang=\"en-US\" ovf:version=\"1.0\""
            }
            Dialect::OVirt => " ovf:version=\"0.9\"",
            Dialect::Microsoft => "",
        };
        let encoding = match self.dialect {
            // Which it is not.
            Dialect::XenCenter => "utf-16",
            _ => "UTF-8",
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"{encoding}\"?>\n<Envelope xmlns=\"{version}\" \
             xmlns:ovf=\"{version}\" xmlns:rasd=\"{RASD}\" xmlns:vssd=\"{CIM}VirtualSystemSettingData\" \
             xmlns:sasd=\"{CIM}StorageAllocationSettingData\" xmlns:epasd=\"{CIM}EthernetPortAllocationSettingData\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"{own}>"
        )
    }

    fn references(&self) -> String {
        let files = self.files.iter().map(|file| {
            let mut text = format!("<File ovf:id=\"{}\" ovf:href=\"{}\"", file.id, file.href);
            if let (Some(size), true) = (file.size, self.dialect != Dialect::VirtualBox) {
                text += &format!(" ovf:size=\"{size}\"");
            }
            if let Some(compression) = file.compression {
                text += &format!(" ovf:compression=\"{compression}\"");
            }
            if let Some(size) = file.chunk_size {
                text += &format!(" ovf:chunkSize=\"{size}\"");
            }
            text + "/>"
        });
        format!("<References>{}</References>", files.collect::<String>())
    }

    fn disk_section(&self) -> String {
        let disks: String = self.disks.iter().map(|disk| self.disk(disk)).collect();
        self.section("DiskSection", "", &disks)
    }

    fn disk(&self, disk: &DiskEntry) -> String {
        let mut text = format!("<Disk ovf:diskId=\"{}\"", disk.id);
        if let Some(file) = &disk.file {
            text += &format!(" ovf:fileRef=\"{file}\"");
        }
        let (mib, left) = (disk.capacity >> 20, disk.capacity % (1 << 20));
        text += &match (self.dialect, left) {
            (Dialect::Vmware | Dialect::Ovf2 | Dialect::XenOrchestra, 0) => {
                format!(" ovf:capacity=\"{mib}\" ovf:capacityAllocationUnits=\"byte * 2^20\"")
            }
            (Dialect::Vmware09, 0) => {
                format!(" ovf:capacity=\"{mib}\" ovf:capacityAllocationUnits=\"MegaBytes\"")
            }
            (Dialect::Ganeti, _) => format!(
                " ovf:capacity=\"{}\" ovf:capacityAllocationUnits=\"byte\"",
                disk.capacity
            ),
            _ => format!(" ovf:capacity=\"{}\"", disk.capacity),
        };
        if let Some(parent) = &disk.parent {
            text += &format!(" ovf:parentRef=\"{parent}\"");
        }
        if self.dialect == Dialect::XenCenter {
            text += " xenovf:isBootable=\"true\"";
        }
        format!("{text} ovf:format=\"{}\"/>", disk.format)
    }

    fn networks(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for nic in self.machines.iter().flat_map(|m| &m.nics) {
            if !names.contains(&nic.network.as_str()) {
                names.push(&nic.network);
            }
        }
        let description = match self.dialect {
            Dialect::XenOrchestra => "",
            _ => "<Description>A network</Description>",
        };
        let networks: String = names
            .iter()
            .map(|name| format!("<Network ovf:name=\"{name}\">{description}</Network>"))
            .collect();
        let own = match self.dialect {
            Dialect::Ganeti => {
                "<gnt:GanetiSection><gnt:Version>0</gnt:Version><gnt:DiskTemplate>plain</gnt:DiskTemplate>\
                 <gnt:AutoBalance>False</gnt:AutoBalance><gnt:Tags/><gnt:OperatingSystem><gnt:Name>debootstrap\
                 </gnt:Name></gnt:OperatingSystem><gnt:Network/><gnt:Hypervisor><gnt:Name>kvm</gnt:Name>\
                 <gnt:Parameters/></gnt:Hypervisor></gnt:GanetiSection>"
            }
            _ => "",
        };
        self.section("NetworkSection", "", &networks) + own
    }

    /// A section, or what OVF 0.9 has in its place.
    fn section(&self, name: &str, attributes: &str, content: &str) -> String {
        let inner = format!("<Info>{name}</Info>{content}");
        if self.dialect.old() {
            format!("<Section xsi:type=\"ovf:{name}_Type\"{attributes}>{inner}</Section>")
        } else {
            format!("<{name}{attributes}>{inner}</{name}>")
        }
    }

    fn system(&self, machine: &Machine) -> String {
        let id = &machine.id;
        let name = format!("<Name>{}</Name>", machine.name);
        let os = "<Description>Linux</Description>";
        let content = [
            self.section("OperatingSystemSection", " ovf:id=\"101\"", os),
            self.section("VirtualHardwareSection", "", &self.hardware(machine)),
        ]
        .concat();
        if self.dialect.old() {
            let info = if self.dialect == Dialect::OVirt {
                ""
            } else {
                "<Info>A machine</Info>"
            };
            return format!(
                "<Content ovf:id=\"{id}\" xsi:type=\"ovf:VirtualSystem_Type\">{info}{name}{content}</Content>"
            );
        }
        let own = match self.dialect {
            Dialect::VirtualBox => {
                "<vbox:Machine ovf:required=\"false\" version=\"1.16-linux\" OSType=\"Linux_64\">\
                 <ovf:Info>Complete VirtualBox machine configuration</ovf:Info></vbox:Machine>"
            }
            _ => "",
        };
        format!(
            "<VirtualSystem ovf:id=\"{id}\"><Info>A machine</Info>{name}{content}{own}</VirtualSystem>"
        )
    }

    fn hardware(&self, machine: &Machine) -> String {
        let family = match self.dialect {
            Dialect::Vmware | Dialect::Ovf2 => "vmx-10",
            Dialect::Vmware09 => "vmx-04",
            Dialect::VirtualBox => "virtualbox-2.2",
            Dialect::XenCenter => "hvm-3.0-unknown",
            Dialect::XenOrchestra => "vmx-11",
            Dialect::Ganeti => "ganeti-ovf",
            Dialect::OVirt => "ENGINE 4.2.0.0",
            Dialect::Microsoft => "301",
        };
        let id = if self.dialect.old() {
            "InstanceId"
        } else {
            "InstanceID"
        };
        let system = format!(
            "<System><vssd:ElementName>Virtual Hardware Family</vssd:ElementName><vssd:{id}>0</vssd:{id}>\
             <vssd:VirtualSystemIdentifier>{}</vssd:VirtualSystemIdentifier>\
             <vssd:VirtualSystemType>{family}</vssd:VirtualSystemType></System>",
            machine.name
        );
        system + &super::items::items(self, machine) + &self.firmware(machine)
    }

    fn firmware(&self, machine: &Machine) -> String {
        let Some(firmware) = machine.firmware else {
            return String::new();
        };
        match self.dialect {
            Dialect::Vmware | Dialect::Ovf2 => format!(
                "<vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"{firmware}\"/>"
            ),
            Dialect::XenCenter => {
                let word = if firmware == "efi" { "uefi" } else { firmware };
                format!(
                    "<xenovf:VirtualSystemOtherConfigurationData id=\"1\" Name=\"HVM_boot_params\"><xenovf:Info>x\
                     </xenovf:Info><xenovf:Value>order=dc;firmware={word}</xenovf:Value>\
                     </xenovf:VirtualSystemOtherConfigurationData>"
                )
            }
            _ => String::new(),
        }
    }
}

/// The same with `ovf:` before every element that has no prefix, and no default namespace.
fn prefixed(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        result += &rest[..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('/') {
            result.push('/');
            rest = after;
        }
        let end = rest.find([' ', '>', '/']).unwrap_or(rest.len());
        if !rest.starts_with('?') && !rest[..end].contains(':') {
            result += "ovf:";
        }
    }
    result += rest;
    let default = result.find(" xmlns=\"").expect("a namespace");
    let end = result[default + 8..].find('"').expect("its end") + default + 9;
    result.replace_range(default..end, "");
    result
}
