//! Every field that xapi asks for when it takes a row in, and what it says when nobody has said anything.
//!
//! xapi 1.20 refuses a row without one of the fields that its schema gives no default ("Field X not present in rpc"). The others are
//! written too: older hosts asked for more.

use super::{NULL, Value};

/// The value of a field that nobody has set.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unsaid {
    /// A text.
    Text(&'static str),
    /// A yes or no.
    Flag(bool),
    /// An empty map.
    Map,
    /// An empty set.
    Set,
    /// No object.
    Null,
    /// The beginning of time.
    Never,
}

use Unsaid::{Flag, Map, Never, Null, Set, Text};

impl Unsaid {
    fn value(self) -> Value {
        match self {
            Text(text) => text.into(),
            Flag(flag) => flag.into(),
            Map => Value::Struct(Vec::new()),
            Set => Value::Array(Vec::new()),
            Null => NULL.into(),
            Never => Value::Date("19700101T00:00:00Z".to_owned()),
        }
    }
}

/// Fields of a VM.
#[rustfmt::skip]
pub(super) const VM: &[(&str, Unsaid)] = &[
    ("uuid", Text("")), ("name_label", Text("")), ("name_description", Text("")),
    ("allowed_operations", Set), ("current_operations", Map), ("power_state", Text("Halted")),
    ("user_version", Text("1")), ("is_a_template", Flag(false)), ("is_default_template", Flag(false)),
    ("suspend_VDI", Null), ("suspend_SR", Null), ("resident_on", Null), ("affinity", Null),
    ("scheduled_to_be_resident_on", Null), ("memory_overhead", Text("0")), ("memory_target", Text("0")),
    ("memory_static_max", Text("0")), ("memory_dynamic_max", Text("0")),
    ("memory_dynamic_min", Text("0")), ("memory_static_min", Text("0")), ("VCPUs_params", Map),
    ("VCPUs_max", Text("1")), ("VCPUs_at_startup", Text("1")),
    ("actions_after_shutdown", Text("destroy")), ("actions_after_reboot", Text("restart")),
    ("actions_after_crash", Text("restart")), ("consoles", Set), ("VIFs", Set), ("VBDs", Set),
    ("VUSBs", Set), ("crash_dumps", Set), ("VTPMs", Set), ("PV_bootloader", Text("")),
    ("PV_kernel", Text("")), ("PV_ramdisk", Text("")), ("PV_args", Text("")),
    ("PV_bootloader_args", Text("")), ("PV_legacy_args", Text("")),
    ("HVM_boot_policy", Text("BIOS order")), ("HVM_boot_params", Map),
    ("HVM_shadow_multiplier", Text("1")), ("platform", Map), ("PCI_bus", Text("")),
    ("other_config", Map), ("domid", Text("-1")), ("domarch", Text("")),
    ("last_boot_CPU_flags", Map), ("is_control_domain", Flag(false)), ("metrics", Null),
    ("guest_metrics", Null), ("last_booted_record", Text("")), ("recommendations", Text("")),
    ("xenstore_data", Map), ("ha_always_run", Flag(false)), ("ha_restart_priority", Text("")),
    ("is_a_snapshot", Flag(false)), ("snapshot_of", Null), ("snapshots", Set),
    ("snapshot_time", Never), ("transportable_snapshot_id", Text("")), ("blobs", Map), ("tags", Set),
    ("blocked_operations", Map), ("snapshot_info", Map), ("snapshot_metadata", Text("")),
    ("parent", Null), ("children", Set), ("bios_strings", Map), ("protection_policy", Null),
    ("is_snapshot_from_vmpp", Flag(false)), ("snapshot_schedule", Null),
    ("is_vmss_snapshot", Flag(false)), ("appliance", Null), ("start_delay", Text("0")),
    ("shutdown_delay", Text("0")), ("order", Text("0")), ("VGPUs", Set), ("attached_PCIs", Set),
    ("suspend_SR", Null), ("version", Text("0")), ("generation_id", Text("")),
    ("hardware_platform_version", Text("0")), ("has_vendor_device", Flag(false)),
    ("requires_reboot", Flag(false)), ("reference_label", Text("")), ("domain_type", Text("hvm")),
    ("NVRAM", Map),
];

/// Fields of a VBD.
#[rustfmt::skip]
pub(super) const VBD: &[(&str, Unsaid)] = &[
    ("uuid", Text("")), ("allowed_operations", Set), ("current_operations", Map), ("VM", Null),
    ("VDI", Null), ("device", Text("")), ("userdevice", Text("")), ("bootable", Flag(false)),
    ("mode", Text("RW")), ("type", Text("Disk")), ("unpluggable", Flag(true)),
    ("storage_lock", Flag(false)), ("empty", Flag(false)), ("other_config", Map),
    ("currently_attached", Flag(false)), ("status_code", Text("0")), ("status_detail", Text("")),
    ("runtime_properties", Map), ("qos_algorithm_type", Text("")), ("qos_algorithm_params", Map),
    ("qos_supported_algorithms", Set), ("metrics", Null),
];

/// Fields of a VDI.
#[rustfmt::skip]
pub(super) const VDI: &[(&str, Unsaid)] = &[
    ("uuid", Text("")), ("name_label", Text("")), ("name_description", Text("")),
    ("allowed_operations", Set), ("current_operations", Map), ("SR", Null), ("VBDs", Set),
    ("crash_dumps", Set), ("virtual_size", Text("0")), ("physical_utilisation", Text("0")),
    ("type", Text("user")), ("sharable", Flag(false)), ("read_only", Flag(false)),
    ("other_config", Map), ("storage_lock", Flag(false)), ("location", Text("")),
    ("managed", Flag(true)), ("missing", Flag(false)), ("parent", Null), ("xenstore_data", Map),
    ("sm_config", Map), ("is_a_snapshot", Flag(false)), ("snapshot_of", Null), ("snapshots", Set),
    ("snapshot_time", Never), ("tags", Set), ("allow_caching", Flag(false)),
    ("on_boot", Text("persist")), ("metadata_of_pool", Text("")),
    ("metadata_latest", Flag(false)), ("is_tools_iso", Flag(false)), ("cbt_enabled", Flag(false)),
];

/// Fields of an SR.
#[rustfmt::skip]
pub(super) const SR: &[(&str, Unsaid)] = &[
    ("uuid", Text("")), ("name_label", Text("Local storage")), ("name_description", Text("")),
    ("allowed_operations", Set), ("current_operations", Map), ("VDIs", Set), ("PBDs", Set),
    ("virtual_allocation", Text("0")), ("physical_utilisation", Text("0")),
    ("physical_size", Text("0")), ("type", Text("ext")), ("content_type", Text("user")),
    ("shared", Flag(false)), ("other_config", Map), ("tags", Set),
    ("default_vdi_visibility", Flag(true)), ("sm_config", Map), ("blobs", Map),
    ("local_cache_enabled", Flag(false)), ("introduced_by", Null), ("clustered", Flag(false)),
    ("is_tools_sr", Flag(false)),
];

/// Fields of a VIF.
#[rustfmt::skip]
pub(super) const VIF: &[(&str, Unsaid)] = &[
    ("uuid", Text("")), ("allowed_operations", Set), ("current_operations", Map),
    ("device", Text("0")), ("network", Null), ("VM", Null), ("MAC", Text("")), ("MTU", Text("1500")),
    ("other_config", Map), ("currently_attached", Flag(false)), ("status_code", Text("0")),
    ("status_detail", Text("")), ("runtime_properties", Map), ("qos_algorithm_type", Text("")),
    ("qos_algorithm_params", Map), ("qos_supported_algorithms", Set), ("metrics", Null),
    ("MAC_autogenerated", Flag(false)), ("locking_mode", Text("network_default")),
    ("ipv4_allowed", Set), ("ipv6_allowed", Set), ("ipv4_configuration_mode", Text("None")),
    ("ipv4_addresses", Set), ("ipv4_gateway", Text("")), ("ipv6_configuration_mode", Text("None")),
    ("ipv6_addresses", Set), ("ipv6_gateway", Text("")),
];

/// Fields of a network.
#[rustfmt::skip]
pub(super) const NETWORK: &[(&str, Unsaid)] = &[
    ("uuid", Text("")), ("name_label", Text("")), ("name_description", Text("")),
    ("allowed_operations", Set), ("current_operations", Map), ("VIFs", Set), ("PIFs", Set),
    ("MTU", Text("1500")), ("other_config", Map), ("bridge", Text("")), ("managed", Flag(true)),
    ("blobs", Map), ("tags", Set), ("default_locking_mode", Text("unlocked")), ("assigned_ips", Map),
    ("purpose", Set),
];

/// A row of `class`: its defaults, with `said` in their places.
pub(super) fn object(
    class: &str,
    reference: &str,
    defaults: &[(&str, Unsaid)],
    said: Vec<(&str, Value)>,
) -> Value {
    let mut fields: Vec<(String, Value)> = Vec::new();
    for (name, default) in defaults {
        if !fields.iter().any(|(n, _)| n == name) {
            fields.push(((*name).to_owned(), default.value()));
        }
    }
    for (name, value) in said {
        match fields.iter_mut().find(|(n, _)| n == name) {
            Some(field) => field.1 = value,
            None => fields.push((name.to_owned(), value)),
        }
    }
    Value::Struct(vec![
        ("class".to_owned(), class.into()),
        ("id".to_owned(), reference.into()),
        ("snapshot".to_owned(), Value::Struct(fields)),
    ])
}
