//! Where is measured: processor, file system, commit.

use std::path::Path;
use std::process::{Command, Stdio};

/// System, processor, cores and memory, in a line.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (cpu, memory) = (field(&read("/proc/cpuinfo"), "model name"), field(&read("/proc/meminfo"), "MemTotal"));
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!("Linux {}, {cpu}, {cores} cores, {memory}, load {load}", read("/proc/sys/kernel/osrelease").trim())
}

/// The file system of a directory; a warning when it is memory.
pub(crate) fn file_system(dir: &Path) -> String {
    const TMPFS: u64 = 0x0102_1994;
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const OVERLAY: u64 = 0x794c_7630;
    let kind = rustix::fs::statfs(dir).map_or(0, |stat| u64::try_from(stat.f_type).unwrap_or(0));
    let name = match kind {
        TMPFS => "tmpfs: memory, so durability costs nothing here; use --dir on a disk".to_owned(),
        EXT4 => "ext4".to_owned(),
        XFS => "xfs".to_owned(),
        BTRFS => "btrfs".to_owned(),
        OVERLAY => "overlayfs".to_owned(),
        other => format!("of type {other:#x}"),
    };
    format!("{name}, in {}", dir.display())
}

/// The commit of the working directory, with a mark when files differ from it.
pub(crate) fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    if changed { format!("{commit}, with changes") } else { commit }
}
