//! Operating systems: one row for each, in the words of everybody who names them.
//!
//! CIM numbers are those of CIM_OperatingSystem.OSType, VMware's those of vSphere's API (`osType` of an OVF) and of a VMX
//! (`guestOS`). XenServer asks only whether Windows is inside: it gets the interfaces that Hyper-V offers.

use crate::machine::GuestOs;

/// What kind of system it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Microsoft Windows.
    Windows,
    /// Linux.
    Linux,
    /// Everything else.
    Other,
}

/// One operating system.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// CIM number.
    pub cim: u16,
    /// VMware's `osType`.
    pub vmware: &'static str,
    /// `guestOS` of a VMX.
    pub vmx: &'static str,
    /// Kind.
    pub family: Family,
    /// Words for people.
    pub description: &'static str,
}

const fn row(
    cim: u16,
    vmware: &'static str,
    vmx: &'static str,
    family: Family,
    description: &'static str,
) -> Row {
    Row {
        cim,
        vmware,
        vmx,
        family,
        description,
    }
}

use Family::{Linux, Other, Windows};

/// All rows; of several with one CIM number, the first is what the number means.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row(1, "otherGuest", "other", Other, "Other (32-bit)"),
    row(102, "otherGuest64", "other-64", Other, "Other (64-bit)"),
    row(14, "dosGuest", "dos", Other, "MS-DOS"),
    row(15, "win31Guest", "win31", Windows, "Microsoft Windows 3.1"),
    row(16, "win95Guest", "win95", Windows, "Microsoft Windows 95"),
    row(17, "win98Guest", "win98", Windows, "Microsoft Windows 98"),
    row(18, "winNTGuest", "winnt", Windows, "Microsoft Windows NT"),
    row(37, "winMeGuest", "winme", Windows, "Microsoft Windows ME"),
    row(58, "win2000ServGuest", "win2000serv", Windows, "Microsoft Windows 2000 Server"),
    row(58, "win2000AdvServGuest", "win2000advserv", Windows, "Microsoft Windows 2000 Advanced Server"),
    row(58, "win2000ProGuest", "win2000pro", Windows, "Microsoft Windows 2000 Professional"),
    row(67, "winXPProGuest", "winxppro", Windows, "Microsoft Windows XP Professional (32-bit)"),
    row(67, "winXPHomeGuest", "winxphome", Windows, "Microsoft Windows XP Home Edition"),
    row(68, "winXPPro64Guest", "winxppro-64", Windows, "Microsoft Windows XP Professional (64-bit)"),
    row(69, "winNetStandardGuest", "winnetstandard", Windows, "Microsoft Windows Server 2003 Standard (32-bit)"),
    row(69, "winNetEnterpriseGuest", "winnetenterprise", Windows, "Microsoft Windows Server 2003 (32-bit)"),
    row(69, "winNetDatacenterGuest", "winnetdatacenter", Windows, "Microsoft Windows Server 2003 Datacenter (32-bit)"),
    row(69, "winNetWebGuest", "winnetweb", Windows, "Microsoft Windows Server 2003 Web Edition (32-bit)"),
    row(69, "winNetBusinessGuest", "winnetbusiness", Windows, "Microsoft Small Business Server 2003"),
    row(70, "winNetStandard64Guest", "winnetstandard-64", Windows, "Microsoft Windows Server 2003 Standard (64-bit)"),
    row(70, "winNetEnterprise64Guest", "winnetenterprise-64", Windows, "Microsoft Windows Server 2003 (64-bit)"),
    row(70, "winNetDatacenter64Guest", "winnetdatacenter-64", Windows, "Microsoft Windows Server 2003 Datacenter (64-bit)"),
    row(73, "winVistaGuest", "winvista", Windows, "Microsoft Windows Vista (32-bit)"),
    row(74, "winVista64Guest", "winvista-64", Windows, "Microsoft Windows Vista (64-bit)"),
    row(76, "winLonghornGuest", "longhorn", Windows, "Microsoft Windows Server 2008 (32-bit)"),
    row(77, "winLonghorn64Guest", "longhorn-64", Windows, "Microsoft Windows Server 2008 (64-bit)"),
    row(103, "windows7Server64Guest", "windows7srv-64", Windows, "Microsoft Windows Server 2008 R2 (64-bit)"),
    row(105, "windows7_64Guest", "windows7-64", Windows, "Microsoft Windows 7 (64-bit)"),
    row(105, "windows7Guest", "windows7", Windows, "Microsoft Windows 7 (32-bit)"),
    row(112, "windows8Server64Guest", "windows8srv-64", Windows, "Microsoft Windows Server 2012 (64-bit)"),
    row(113, "windows8_64Guest", "windows8-64", Windows, "Microsoft Windows 8 (64-bit)"),
    row(113, "windows8Guest", "windows8", Windows, "Microsoft Windows 8 (32-bit)"),
    row(115, "windows8Server64Guest", "windows8srv-64", Windows, "Microsoft Windows Server 2012 R2 (64-bit)"),
    row(116, "windows9Server64Guest", "windows9srv-64", Windows, "Microsoft Windows Server 2016 (64-bit)"),
    row(119, "windows9Guest", "windows9", Windows, "Microsoft Windows 10 (32-bit)"),
    row(120, "windows9_64Guest", "windows9-64", Windows, "Microsoft Windows 10 (64-bit)"),
    row(121, "windows2019srv_64Guest", "windows2019srv-64", Windows, "Microsoft Windows Server 2019 (64-bit)"),
    row(122, "windows11_64Guest", "windows11-64", Windows, "Microsoft Windows 11 (64-bit)"),
    row(123, "windows2019srvNext_64Guest", "windows2019srvnext-64", Windows, "Microsoft Windows Server 2022 (64-bit)"),
    row(36, "otherLinuxGuest", "otherlinux", Linux, "Other Linux (32-bit)"),
    row(101, "otherLinux64Guest", "otherlinux-64", Linux, "Other Linux (64-bit)"),
    row(97, "other24xLinuxGuest", "other24xlinux", Linux, "Other 2.4.x Linux (32-bit)"),
    row(98, "other24xLinux64Guest", "other24xlinux-64", Linux, "Other 2.4.x Linux (64-bit)"),
    row(99, "other26xLinuxGuest", "other26xlinux", Linux, "Other 2.6.x Linux (32-bit)"),
    row(100, "other26xLinux64Guest", "other26xlinux-64", Linux, "Other 2.6.x Linux (64-bit)"),
    row(36, "other3xLinuxGuest", "other3xlinux", Linux, "Other 3.x Linux (32-bit)"),
    row(101, "other3xLinux64Guest", "other3xlinux-64", Linux, "Other 3.x Linux (64-bit)"),
    row(36, "other4xLinuxGuest", "other4xlinux", Linux, "Other 4.x Linux (32-bit)"),
    row(101, "other4xLinux64Guest", "other4xlinux-64", Linux, "Other 4.x Linux (64-bit)"),
    row(36, "other5xLinuxGuest", "other5xlinux", Linux, "Other 5.x Linux (32-bit)"),
    row(101, "other5xLinux64Guest", "other5xlinux-64", Linux, "Other 5.x Linux (64-bit)"),
    row(101, "other6xLinux64Guest", "other6xlinux-64", Linux, "Other 6.x Linux (64-bit)"),
    row(93, "ubuntuGuest", "ubuntu", Linux, "Ubuntu Linux (32-bit)"),
    row(94, "ubuntu64Guest", "ubuntu-64", Linux, "Ubuntu Linux (64-bit)"),
    row(95, "debian5Guest", "debian5", Linux, "Debian GNU/Linux 5 (32-bit)"),
    row(96, "debian5_64Guest", "debian5-64", Linux, "Debian GNU/Linux 5 (64-bit)"),
    row(79, "rhel6Guest", "rhel6", Linux, "Red Hat Enterprise Linux 6 (32-bit)"),
    row(80, "rhel7_64Guest", "rhel7-64", Linux, "Red Hat Enterprise Linux 7 (64-bit)"),
    row(106, "centosGuest", "centos", Linux, "CentOS 4/5 (32-bit)"),
    row(107, "centos64Guest", "centos-64", Linux, "CentOS 4/5 or later (64-bit)"),
    row(108, "oracleLinuxGuest", "oraclelinux", Linux, "Oracle Linux 4/5 (32-bit)"),
    row(109, "oracleLinux64Guest", "oraclelinux-64", Linux, "Oracle Linux 4/5 or later (64-bit)"),
    row(82, "suseGuest", "suse", Linux, "SUSE Linux (32-bit)"),
    row(83, "suse64Guest", "suse-64", Linux, "SUSE Linux (64-bit)"),
    row(84, "sles11Guest", "sles11", Linux, "SUSE Linux Enterprise 11 (32-bit)"),
    row(85, "sles12_64Guest", "sles12-64", Linux, "SUSE Linux Enterprise 12 (64-bit)"),
    row(36, "fedoraGuest", "fedora", Linux, "Fedora (32-bit)"),
    row(101, "fedora64Guest", "fedora-64", Linux, "Fedora (64-bit)"),
    row(101, "vmwarePhoton64Guest", "vmware-photon-64", Linux, "VMware Photon OS (64-bit)"),
    row(101, "coreos64Guest", "coreos-64", Linux, "CoreOS Linux (64-bit)"),
    row(42, "freebsdGuest", "freebsd", Other, "FreeBSD (32-bit)"),
    row(78, "freebsd64Guest", "freebsd-64", Other, "FreeBSD (64-bit)"),
    row(104, "vmkernel5Guest", "vmkernel5", Other, "VMware ESXi 5"),
    row(104, "vmkernel6Guest", "vmkernel6", Other, "VMware ESXi 6"),
    row(104, "vmkernel65Guest", "vmkernel65", Other, "VMware ESXi 6.5"),
    row(104, "vmkernel7Guest", "vmkernel7", Other, "VMware ESXi 7"),
];

/// Words at the beginning of VMware's names of families with a version in them, the CIM numbers of 32 and 64 bits, and
/// the kind.
#[rustfmt::skip]
const VERSIONED: &[(&str, [u16; 2], Family)] = &[
    ("rhel", [79, 80], Linux),
    ("debian", [95, 96], Linux),
    ("centos", [106, 107], Linux),
    ("oraclelinux", [108, 109], Linux),
    ("sles", [84, 85], Linux),
    ("ubuntu", [93, 94], Linux),
    ("freebsd", [42, 78], Other),
    ("windows", [105, 105], Windows),
    ("win", [67, 67], Windows),
    ("rockylinux", [36, 101], Linux),
    ("almalinux", [36, 101], Linux),
    ("amazonlinux", [36, 101], Linux),
    ("asianux", [36, 101], Linux),
    ("opensuse", [82, 83], Linux),
    ("other", [36, 101], Linux),
    ("vmkernel", [104, 104], Other),
    ("darwin", [2, 2], Other),
    ("solaris", [29, 29], Other),
];

fn by_vmware(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|r| r.vmware.eq_ignore_ascii_case(name))
}

fn by_cim(number: u16) -> Option<&'static Row> {
    ROWS.iter().find(|r| r.cim == number)
}

/// VMware's `osType` for the `guestOS` of a VMX: by the table, else by how the names are made.
pub fn vmware_of_vmx(guest: &str) -> String {
    if let Some(row) = ROWS.iter().find(|r| r.vmx.eq_ignore_ascii_case(guest)) {
        return row.vmware.to_owned();
    }
    match guest.strip_suffix("-64") {
        Some(name) if name.ends_with(|c: char| c.is_ascii_digit()) => format!("{name}_64Guest"),
        Some(name) => format!("{name}64Guest"),
        None => format!("{guest}Guest"),
    }
}

/// The `guestOS` of a VMX for VMware's `osType`.
pub fn vmx_of_vmware(kind: &str) -> String {
    if let Some(row) = by_vmware(kind) {
        return row.vmx.to_owned();
    }
    let name = kind.strip_suffix("Guest").unwrap_or(kind);
    let bare = name.strip_suffix("_64").or_else(|| name.strip_suffix("64"));
    match bare {
        Some(bare) => format!("{}-64", bare.to_ascii_lowercase()),
        None => name.to_ascii_lowercase(),
    }
}

impl GuestOs {
    /// VMware's `osType`: as it was said, else by the CIM number, else nobody's in 64 bits.
    pub fn vmware_or_other(&self) -> String {
        let by_number = || self.cim.and_then(by_cim).map(|r| r.vmware.to_owned());
        self.vmware
            .clone()
            .or_else(by_number)
            .unwrap_or_else(|| "otherGuest64".to_owned())
    }

    /// CIM number: as it was said, else by VMware's name, else 102, nobody's in 64 bits.
    pub fn cim_or_other(&self) -> u16 {
        if let Some(number) = self.cim {
            return number;
        }
        let Some(name) = &self.vmware else { return 102 };
        let lower = name.to_ascii_lowercase();
        let is_64 = lower.contains("64");
        let versioned = VERSIONED
            .iter()
            .find(|(word, _, _)| lower.starts_with(word))
            .map(|(_, [short, long], _)| if is_64 { *long } else { *short });
        by_vmware(name)
            .map(|r| r.cim)
            .or(versioned)
            .unwrap_or(if is_64 { 102 } else { 1 })
    }

    /// Words for people.
    pub fn describe(&self) -> String {
        let by_name = self.vmware.as_deref().and_then(by_vmware);
        let row = by_name.or_else(|| self.cim.and_then(by_cim));
        self.description
            .clone()
            .or_else(|| row.map(|r| r.description.to_owned()))
            .or_else(|| self.vmware.clone())
            .unwrap_or_else(|| "Other (64-bit)".to_owned())
    }

    /// What kind of system it is.
    pub fn family(&self) -> Family {
        let by_name = self.vmware.as_deref().and_then(by_vmware);
        if let Some(row) = by_name.or_else(|| self.cim.and_then(by_cim)) {
            return row.family;
        }
        let said = [&self.vmware, &self.description];
        let words = said.into_iter().flatten().map(|s| s.to_ascii_lowercase());
        let mut kinds = words.filter_map(|w| {
            let versioned = VERSIONED.iter().find(|(word, _, _)| w.starts_with(word));
            versioned
                .map(|(_, _, kind)| *kind)
                .or_else(|| w.contains("windows").then_some(Windows))
                .or_else(|| w.contains("linux").then_some(Linux))
        });
        kinds.next().unwrap_or(Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_vmware_go_both_ways() {
        for (vmx, api) in [
            ("ubuntu-64", "ubuntu64Guest"),
            ("rhel8-64", "rhel8_64Guest"),
            ("windows9-64", "windows9_64Guest"),
            ("windows9srv-64", "windows9Server64Guest"),
            ("debian11-64", "debian11_64Guest"),
            ("winnetstandard", "winNetStandardGuest"),
            ("other-64", "otherGuest64"),
            ("rhel5", "rhel5Guest"),
        ] {
            assert_eq!(vmware_of_vmx(vmx), api);
            assert_eq!(vmx_of_vmware(api), vmx);
        }
    }

    #[test]
    fn numbers_and_kinds_follow_from_names() {
        let named = |name: &str| GuestOs {
            vmware: Some(name.to_owned()),
            ..GuestOs::default()
        };
        assert_eq!(named("rhel8_64Guest").cim_or_other(), 80);
        assert_eq!(named("debian12_64Guest").cim_or_other(), 96);
        assert_eq!(named("nobodysGuest").cim_or_other(), 1);
        assert_eq!(GuestOs::default().cim_or_other(), 102);
        assert_eq!(
            named("windows2022srvNext_64Guest").family(),
            Family::Windows
        );
        assert_eq!(named("rhel9_64Guest").family(), Family::Linux);
        let numbered = GuestOs {
            cim: Some(116),
            ..GuestOs::default()
        };
        assert_eq!(numbered.vmware_or_other(), "windows9Server64Guest");
        assert_eq!(numbered.family(), Family::Windows);
    }
}
