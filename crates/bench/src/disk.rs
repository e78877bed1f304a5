//! The disk alone: what one durable write costs, whoever does it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::fs::{FallocateFlags, fallocate, fdatasync};

use crate::percentiles::{ms, percentile};
use crate::report::Report;

/// Size of the file, as of a segment of the log.
const FILE_BYTES: u64 = 128 << 20;

/// A write of one block, and one as large as a group of some hundred callbacks.
const SIZES: [(usize, &str); 3] = [(4 << 10, "4 KiB"), (64 << 10, "64 KiB"), (512 << 10, "512 KiB")];

/// Durations of write and `fdatasync`, one after the other into a file whose space is reserved, as the log's is.
pub(crate) fn fdatasync_times(dir: &Path, bytes: usize, duration: Duration) -> Result<Vec<Duration>> {
    let path = dir.join("fdatasync");
    let file = File::options().create(true).truncate(true).write(true).open(&path)?;
    fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES)?;
    file.sync_all()?;
    let data = vec![7; bytes];
    let (mut times, mut at) = (Vec::new(), 0);
    let begun = Instant::now();
    while begun.elapsed() < duration && at + bytes as u64 <= FILE_BYTES {
        let start = Instant::now();
        file.write_all_at(&data, at)?;
        fdatasync(&file)?;
        times.push(start.elapsed());
        at += bytes as u64;
    }
    drop(file);
    std::fs::remove_file(path)?;
    Ok(times)
}

/// Reports bare `fdatasync`.
pub(crate) fn run(report: &mut Report, dir: &Path) -> Result<()> {
    report.section("disk", "write and fdatasync, one after the other, into a file whose space is reserved");
    let duration = Duration::from_millis(if report.quick() { 500 } else { 3_000 });
    for (bytes, label) in SIZES {
        let mut times = fdatasync_times(dir, bytes, duration)?;
        report.figure(format!("fdatasync {label} p50"), ms(percentile(&mut times, 0.5)), "ms");
        report.figure(format!("fdatasync {label} p99"), ms(percentile(&mut times, 0.99)), "ms");
    }
    Ok(())
}
