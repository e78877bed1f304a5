//! Places at which a test kills this process, for the proof that nothing is lost or done twice in between.

/// Environment variable that names a place, and at which time of coming by it the process ends: `derived.append:2`.
#[cfg(feature = "test-util")]
pub const FAULT: &str = "BARRAGE_WORKER_FAULT";

/// Every place, in the order in which a derived event and then a notification come by.
#[cfg(feature = "test-util")]
pub const PLACES: [&str; 12] = [
    BEFORE_COMMIT,
    AFTER_COMMIT,
    "derived.append",
    "derived.appended",
    "derived.acknowledged",
    "derived.taken",
    "intents.publish",
    "intents.published",
    "intents.acknowledged",
    "intents.taken",
    BEFORE_TAKEN_COMMIT,
    AFTER_TAKEN_COMMIT,
];

/// Rows of the outbox are about to be committed.
pub(crate) const BEFORE_COMMIT: &str = "commit.before";
/// They are.
pub(crate) const AFTER_COMMIT: &str = "commit.after";
/// Rows that were taken out are about to be gone for good.
pub(crate) const BEFORE_TAKEN_COMMIT: &str = "taken.before";
/// They are.
pub(crate) const AFTER_TAKEN_COMMIT: &str = "taken.after";

/// Kills this process as `kill -9` does, where a test wants it to end here.
#[cfg(feature = "test-util")]
pub fn place(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static COME_BY: AtomicU32 = AtomicU32::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var(FAULT).ok()?;
        let (place, time) = text.split_once(':')?;
        Some((place.to_owned(), time.parse().ok()?))
    });
    let Some((place, time)) = wanted else { return };
    if place == name && COME_BY.fetch_add(1, Ordering::Relaxed) + 1 == *time {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

/// Nothing: no process of a user ends here.
#[cfg(not(feature = "test-util"))]
pub(crate) fn place(_: &str) {}
