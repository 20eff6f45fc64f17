//! Starting a disk in QEMU, and what it says over the serial line.

use std::path::Path;
use std::process::{Command, Stdio};

use super::peers::qemu_name;
use super::s;

/// What the boot image prints when its system has come up and found its own files unharmed.
const LINE: &str = "DIC-BOOT-OK";
/// Seconds until a boot without hardware help must be through.
const PATIENCE: &str = "240";

/// Boots `image` without changing it and answers what came over the serial line.
pub fn boot(format: &str, image: &Path) -> String {
    let drive = format!("file={},format={},if=virtio", s(image), qemu_name(format));
    let output = Command::new("timeout")
        .args([PATIENCE, "qemu-system-x86_64"])
        .args(["-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", "512"])
        .args(["-display", "none", "-monitor", "none", "-nic", "none"])
        .args([
            "-no-reboot",
            "-snapshot",
            "-serial",
            "stdio",
            "-drive",
            &drive,
        ])
        .stdin(Stdio::null())
        .output()
        .expect("qemu-system-x86_64");
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}

/// Whether the system came up, by what it told.
pub fn is_up(told: &str) -> bool {
    told.lines().any(|line| line == LINE)
}
