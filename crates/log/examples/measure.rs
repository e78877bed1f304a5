//! Measures the embedded log on this machine: `cargo run --release -p barrage-log --example measure [DIR] [append|1|64|512|half|read]`.
//!
//! Appends in a closed loop with 1, 64 and 512 waiting tasks, beside bare `write` and `fdatasync` of groups of the same
//! size into a file that was reserved in the same way; reads from memory and from files; opening with a million
//! records. Ratios of one run count; absolute numbers are the machine's.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "measurements are far from the limits of their types"
)]

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition};
use barrage_log::{AppendBatch, EmbeddedLog, EmbeddedOptions, EventLog, Metrics};

const ROOM_BYTES: usize = 700;
const USER_BYTES: usize = 300;
const RUN: Duration = Duration::from_secs(1);

fn open(dir: &Path, options: &EmbeddedOptions) -> EmbeddedLog {
    EmbeddedLog::open(dir, options, Metrics::default()).expect("the log opens")
}

/// CPU time of this process, user and system.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after = stat.rsplit(')').next().expect("the name is in brackets");
    let ticks: u64 = after.split(' ').skip(12).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

fn percentile(sorted: &[u64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0) as f64 / 1e6
}

/// Fills the first segment, which is never written ahead.
fn warm_up(log: &EmbeddedLog) {
    let mut batch = AppendBatch::new();
    for n in 0..34 {
        if n == 17 {
            // Time to write the next one ahead, as there is under any load that does not saturate the disk.
            std::thread::sleep(Duration::from_millis(1_500));
        }
        (0..4).for_each(|_| batch.push(Partition::room(0), |buffer| buffer.resize(1 << 20, 1)));
        log.append(&mut batch).expect("there is room").wait().expect("the disk works");
    }
}

fn appends(dir: &Path, waiters: usize, zero_ahead: bool) -> usize {
    let _ = std::fs::remove_dir_all(dir);
    let log = Arc::new(open(dir, &EmbeddedOptions { zero_ahead, ..EmbeddedOptions::default() }));
    warm_up(&log);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("threads");
    let in_append = Arc::new(AtomicU64::new(0));
    let groups_before = log.wait(0, Duration::ZERO);
    let (begun, cpu_before) = (Instant::now(), cpu());
    let mut latencies: Vec<u64> = runtime.block_on(async {
        let tasks: Vec<_> = (0..waiters)
            .map(|n| {
                let (log, in_append) = (Arc::clone(&log), Arc::clone(&in_append));
                tokio::spawn(async move {
                    let (room, user) = (vec![7; ROOM_BYTES], vec![8; USER_BYTES]);
                    let partition = u16::try_from(n % 4).expect("small");
                    let mut batch = AppendBatch::new();
                    let mut latencies = Vec::new();
                    while begun.elapsed() < RUN {
                        batch.push(Partition::room(partition), |buffer| buffer.extend_from_slice(&room));
                        batch.push(Partition::user(partition), |buffer| buffer.extend_from_slice(&user));
                        let start = Instant::now();
                        let ack = log.append(&mut batch).expect("there is room");
                        in_append.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                        ack.await.expect("the disk works");
                        latencies.push(start.elapsed().as_nanos() as u64);
                    }
                    latencies
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.expect("no panic"));
        }
        all
    });
    let (took, cpu) = (begun.elapsed(), cpu() - cpu_before);
    latencies.sort_unstable();
    let count = latencies.len() as f64;
    let groups = (log.wait(0, Duration::ZERO) - groups_before) as f64;
    let bytes = count * (ROOM_BYTES + USER_BYTES + 72) as f64;
    println!(
        "append, zeros ahead {zero_ahead:5}, {waiters:3} waiters: {:8.0} appends/s {:6.1} MB/s, p50 {:6.2} ms, p99 {:6.2} ms, {:6.1} appends a \
         group, {:5.2} µs CPU an append, {:4.0} ns in append()",
        count / took.as_secs_f64(),
        bytes / took.as_secs_f64() / 1e6,
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99),
        count / groups,
        cpu.as_secs_f64() * 1e6 / count,
        in_append.load(Ordering::Relaxed) as f64 / count,
    );
    (bytes / groups) as usize
}

/// An open loop at a fixed rate, with another writer on the same file system or without.
fn half_load(dir: &Path, zero_ahead: bool, disturbed: bool) {
    let _ = std::fs::remove_dir_all(dir);
    let log = Arc::new(open(dir, &EmbeddedOptions { zero_ahead, ..EmbeddedOptions::default() }));
    warm_up(&log);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("threads");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let other = std::thread::spawn({
        let (stop, path) = (Arc::clone(&stop), dir.join("other"));
        move || {
            let bytes = vec![3; 1 << 20];
            while disturbed && !stop.load(Ordering::Relaxed) {
                let file = File::create(&path).expect("the file opens");
                for n in 0..16_u64 {
                    file.write_all_at(&bytes, n << 20).expect("space");
                    std::thread::sleep(Duration::from_millis(20));
                }
                file.sync_all().expect("the disk works");
            }
        }
    });
    let latencies = Arc::new(std::sync::Mutex::new(Vec::new()));
    runtime.block_on(async {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let (room, user) = (vec![7; ROOM_BYTES], vec![8; USER_BYTES]);
        let mut batch = AppendBatch::new();
        for _ in 0..6_000 {
            let due = tick.tick().await;
            for n in 0..20 {
                batch.push(Partition::room(n % 4), |buffer| buffer.extend_from_slice(&room));
                batch.push(Partition::user(n % 4), |buffer| buffer.extend_from_slice(&user));
                let ack = log.append(&mut batch).expect("there is room");
                let latencies = Arc::clone(&latencies);
                tokio::spawn(async move {
                    ack.await.expect("the disk works");
                    latencies.lock().expect("no panic").push(due.elapsed().as_nanos() as u64);
                });
            }
        }
    });
    stop.store(true, Ordering::Relaxed);
    other.join().expect("no panic");
    let mut latencies = std::mem::take(&mut *latencies.lock().expect("no panic"));
    latencies.sort_unstable();
    println!(
        "20,000 appends/s, zeros ahead {zero_ahead:5}, disturbed {disturbed:5}: p50 {:6.2} ms, p99 {:6.2} ms, p99.9 {:6.2} ms",
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99),
        percentile(&latencies, 0.999),
    );
}

fn bare(dir: &Path, group_bytes: usize, zeroed: bool) {
    let path = dir.join("bare");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("the file opens");
    let size = 128_u64 << 20;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size).expect("space");
    if zeroed {
        let zeros = vec![0; 1 << 20];
        (0..size >> 20).for_each(|n| file.write_all_at(&zeros, n << 20).expect("space"));
    }
    file.sync_all().expect("the disk works");
    let group = vec![9; group_bytes];
    let mut latencies = Vec::new();
    let mut at = 4_096;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        if at + group_bytes as u64 > size {
            break;
        }
        let start = Instant::now();
        file.write_all_at(&group, at).expect("space");
        rustix::fs::fdatasync(&file).expect("the disk works");
        latencies.push(start.elapsed().as_nanos() as u64);
        at += group_bytes as u64;
    }
    let took: u64 = latencies.iter().sum();
    let count = latencies.len() as f64;
    latencies.sort_unstable();
    println!(
        "  bare write + fdatasync of {group_bytes:7} bytes, {}: {:6.0} /s {:6.1} MB/s, p50 {:5.2} ms, p99 {:5.2} ms",
        if zeroed { "zeros written" } else { "reserved     " },
        count * 1e9 / took as f64,
        count * group_bytes as f64 * 1e3 / took as f64,
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99),
    );
    let _ = std::fs::remove_file(path);
}

fn visit_all(log: &EmbeddedLog, from: Offset) -> (u64, u64) {
    let (mut records, mut sum) = (0, 0_u64);
    for partition in log.all_partitions() {
        let mut next = log.start(partition).max(from);
        let end = log.end(partition);
        while next < end {
            next = log
                .read(partition, next, 1 << 20, &mut |record| {
                    records += 1;
                    sum += u64::from(record.bytes.first().copied().unwrap_or(0));
                    ControlFlow::Continue(())
                })
                .expect("the log can be read");
        }
    }
    (records, sum)
}

fn reads(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
    let options = EmbeddedOptions { tail_bytes_max: 2 << 30, ..EmbeddedOptions::default() };
    let log = open(dir, &options);
    let payload = vec![7; ROOM_BYTES];
    let mut batch = AppendBatch::new();
    let mut last = None;
    let begun = Instant::now();
    for n in 0..1_000_000_u32 {
        let partition = Partition::room(u16::try_from(n % 4).expect("small"));
        let partition = if n % 8 < 4 { partition } else { Partition::user(partition.index) };
        batch.push(partition, |buffer| buffer.extend_from_slice(&payload));
        loop {
            match log.append(&mut batch) {
                Ok(ack) => break last = Some(ack),
                Err(_) => last.take().expect("something waits").wait().expect("the disk works"),
            };
        }
    }
    last.expect("records were appended").wait().expect("the disk works");
    let took = begun.elapsed().as_secs_f64();
    println!("1,000,000 records of 700 bytes, one frame each, appended without waiting: {took:.2} s");
    for _ in 0..2 {
        let begun = Instant::now();
        let (records, _) = visit_all(&log, Offset(0));
        println!("  read from memory: {:.2} M records/s", records as f64 / begun.elapsed().as_secs_f64() / 1e6);
    }
    drop(log);
    for what in ["opened", "opened again"] {
        let begun = Instant::now();
        let log = open(dir, &EmbeddedOptions::default());
        println!("  {what} in {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
        drop(log);
    }
    for number in 0..100 {
        let _ = std::fs::remove_file(dir.join(format!("{number:012}.index")));
    }
    let begun = Instant::now();
    let log = open(dir, &EmbeddedOptions::default());
    println!("  opened without any index in {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    let begun = Instant::now();
    let (records, _) = visit_all(&log, Offset(0));
    let took = begun.elapsed().as_secs_f64();
    println!("  read from files, one partition after the other: {:.2} M records/s", records as f64 / took / 1e6);
    let begun = Instant::now();
    let cpu_before = cpu();
    let total: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = log
            .all_partitions()
            .into_iter()
            .map(|partition| {
                let log = &log;
                scope.spawn(move || {
                    let (mut next, mut records) = (Offset(0), 0_u64);
                    while next < log.end(partition) {
                        let mut count = |_: barrage_log::Record<'_>| {
                            records += 1;
                            ControlFlow::Continue(())
                        };
                        next = log.read(partition, next, 64 << 10, &mut count).expect("the log can be read");
                    }
                    records
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
    });
    println!(
        "  read from files, 8 threads: {:.2} M records/s, {:.2} M a second of CPU",
        total as f64 / begun.elapsed().as_secs_f64() / 1e6,
        total as f64 / (cpu() - cpu_before).as_secs_f64() / 1e6,
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(std::env::temp_dir, Into::into).join("barrage-log-measure");
    let only = arguments.next();
    let wanted = |what: &str| only.as_deref().is_none_or(|only| only == what);
    for waiters in [1, 64, 512] {
        if wanted("append") || wanted(&waiters.to_string()) {
            appends(&dir.join("log"), waiters, false);
            let group = appends(&dir.join("log"), waiters, true);
            bare(&dir, group, false);
            bare(&dir, group, true);
        }
    }
    if wanted("half") {
        for (zero_ahead, disturbed) in [(false, false), (true, false), (false, true), (true, true)] {
            half_load(&dir.join("log"), zero_ahead, disturbed);
        }
    }
    if wanted("read") {
        reads(&dir.join("log"));
    }
    let _ = std::fs::remove_dir_all(dir);
}
