//! Which records came before: callbacks within minutes, business events within days.

use barrage_event::identity::Identity;
use barrage_event::rules::Windows;
use barrage_projection::{Backing, StoreError, Tables, minute_of};
use barrage_state::runtime::{BusinessBlocks, BusinessDays, IdentityBlocks, IdentityMinutes};

use crate::identities::{FILTER_BUCKETS, Identities, Layout, Place};

/// Fewest filters of callbacks that are kept; others are read in again when asked for.
const FILTERS_MIN: usize = 16;
const DAY_MS: i64 = 86_400_000;

/// Callbacks, by minute of `received_at`.
struct Callbacks;
impl Layout for Callbacks {
    type Blocks = IdentityBlocks;
    type Buckets = IdentityMinutes;
    const ENTRY_BYTES: usize = 16;
}

/// Business events, by day of the log's time, each with the digest of its content.
struct Business;
impl Layout for Business {
    type Blocks = BusinessBlocks;
    type Buckets = BusinessDays;
    const ENTRY_BYTES: usize = 32;
}

/// The windows of one partition.
#[derive(Debug, Default)]
pub(crate) struct DuplicateWindow {
    callbacks: Identities<Callbacks>,
    business: Identities<Business>,
}

/// What the business keys say of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BusinessKey {
    New,
    Same,
    OtherContent,
}

impl DuplicateWindow {
    /// Reads what there is; called after opening and after changes were discarded.
    pub(crate) fn load(&mut self, backing: &dyn Backing) -> Result<(), StoreError> {
        self.callbacks.load(backing)?;
        self.business.load(backing)
    }

    /// Whether the callback came before inside the window; if not, it is remembered.
    pub(crate) fn seen(
        &mut self,
        Identity(identity): Identity,
        received_at_ms: i64,
        log_time_ms: i64,
        windows: &Windows,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<bool, StoreError> {
        let reach_ms = i64::try_from(windows.duplicates_lookup_ms).unwrap_or(i64::MAX);
        let first = minute_of(received_at_ms.saturating_sub(reach_ms));
        let last = minute_of(received_at_ms.saturating_add(reach_ms));
        if self.callbacks.find(identity, first..=last, tables, backing)?.is_some() {
            return Ok(true);
        }
        let place = Place { bucket: minute_of(received_at_ms), log_time_ms };
        // All that a lookup asks, and some for records that come late: else every record would read some in again.
        let asked = (last / FILTER_BUCKETS - first / FILTER_BUCKETS) as usize + 1;
        let filters_max = FILTERS_MIN.max(asked + asked / 2);
        self.callbacks.remember((identity, &[]), place, filters_max, tables, backing)?;
        Ok(false)
    }

    /// Looks a business event up among all that are kept; remembers it when it is new.
    pub(crate) fn business_key(
        &mut self,
        (Identity(identity), content): (Identity, u128),
        log_time_ms: i64,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<BusinessKey, StoreError> {
        if let Some(known) = self.business.find(identity, 0..=u32::MAX, tables, backing)? {
            return Ok(if known == content { BusinessKey::Same } else { BusinessKey::OtherContent });
        }
        let day = u32::try_from(log_time_ms.max(0) / DAY_MS).unwrap_or(u32::MAX);
        let place = Place { bucket: day, log_time_ms };
        self.business.remember((identity, &content.to_le_bytes()), place, usize::MAX, tables, backing)?;
        Ok(BusinessKey::New)
    }

    /// Drops what the rules keep no longer, by the log's time.
    pub(crate) fn expire(
        &mut self,
        log_time_ms: i64,
        windows: &Windows,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<(), StoreError> {
        self.callbacks.expire(log_time_ms, windows.duplicates_keep_ms, tables, backing)?;
        self.business.expire(log_time_ms, windows.business_keep_ms, tables, backing)
    }

    /// The rules changed: what is due has to be looked at again.
    pub(crate) fn rules_changed(&mut self) {
        self.callbacks.rules_changed();
        self.business.rules_changed();
    }

    /// Memory of the filters, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.callbacks.bytes() + self.business.bytes()
    }
}

#[cfg(test)]
mod tests {
    use barrage_projection::memory::CountingStore;
    use barrage_projection::{StateHash, Table as _};
    use barrage_state::runtime;
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;

    const START_MS: i64 = 1_767_225_600_000;

    struct Rig {
        window: DuplicateWindow,
        tables: Tables,
        backing: CountingStore,
        hash: StateHash,
        windows: Windows,
    }
    impl Rig {
        fn new(windows: Windows) -> Self {
            let tables = Tables::new(&runtime::tables()).expect("ours do not clash");
            let (window, backing) = (DuplicateWindow::default(), CountingStore::default());
            Self { window, tables, backing, hash: StateHash::default(), windows }
        }
        fn gift(&mut self, key: u32, content: u128, log_ms: i64) -> BusinessKey {
            let identity = Identity(xxh3_128(&key.to_le_bytes()));
            let (tables, backing) = (&mut self.tables, &self.backing);
            self.window.expire(log_ms, &self.windows, tables, backing).expect("works");
            self.window.business_key((identity, content), log_ms, tables, backing).expect("works")
        }
        fn seen(&mut self, key: u32, received_ms: i64, log_ms: i64) -> bool {
            let identity = Identity(xxh3_128(&key.to_le_bytes()));
            let (tables, backing) = (&mut self.tables, &self.backing);
            self.window.expire(log_ms, &self.windows, tables, backing).expect("works");
            self.window.seen(identity, received_ms, log_ms, &self.windows, tables, backing).expect("works")
        }
        fn commit(&mut self) {
            self.tables.commit(&|_| true, &mut self.backing.store, &mut self.hash);
        }
        /// Everything is committed, and no row is in memory any more.
        fn forget(&mut self) {
            self.commit();
            self.tables.evict(0);
        }
        fn restart(&mut self) {
            self.forget();
            self.window = DuplicateWindow::default();
            self.window.load(&self.backing).expect("works");
        }
        /// Rows that are read from the store for one call.
        fn asked(&mut self, call: impl FnOnce(&mut Self)) -> usize {
            self.forget();
            let before = self.backing.asked.get();
            call(self);
            self.backing.asked.get() - before
        }
    }

    #[test]
    fn a_business_key_costs_the_same_however_many_and_old_the_others_are() {
        let mut rig = Rig::new(Windows { business_keep_ms: 90 * 86_400_000, ..Windows::default() });
        let day = |n: u32| START_MS + i64::from(n) * DAY_MS;
        for n in 0..60_000 {
            assert_eq!(rig.gift(n, u128::from(n), day(n / 1_000)), BusinessKey::New);
            if n % 500 == 0 {
                rig.forget();
            }
        }
        let asked: usize =
            (60_000..60_200).map(|n| rig.asked(|rig| assert_eq!(rig.gift(n, 0, day(60)), BusinessKey::New))).sum();
        // The day's row and the last block of its shard; a filter is wrong once in hundreds of questions.
        assert!(asked < 200 * 3, "{asked} rows for 200 new keys");
        let largest = rig.backing.store.rows.values().map(Vec::len).max().unwrap_or(0);
        assert!(largest < 1_100, "a row of {largest} bytes");
        let mut bytes = rig.window.bytes();
        assert!(bytes < 60_000 * 8, "filters of {bytes} bytes");
        // After a restart as well, once the filters are read; and after changes were discarded they are still there.
        rig.restart();
        assert_eq!(rig.gift(5, 5, day(61)), BusinessKey::Same);
        bytes = rig.tables.bytes();
        assert!(bytes < 2_000_000, "reading filters leaves {bytes} bytes of rows in memory");
        rig.forget();
        let before = rig.backing.asked.get();
        rig.tables.discard(&rig.backing).expect("works");
        rig.window.load(&rig.backing).expect("works");
        assert_eq!(rig.gift(70_000, 0, day(61)), BusinessKey::New);
        assert!(rig.backing.asked.get() - before < 4, "nothing is read anew");
        assert_eq!(rig.gift(59_999, 1, day(61)), BusinessKey::OtherContent);
    }

    /// Blocks of the callbacks' identities in the store.
    fn blocks(rig: &Rig) -> impl Iterator<Item = &Vec<u8>> {
        rig.backing.store.rows.iter().filter(|(row, _)| row[0] == IdentityBlocks::ID).map(|(_, value)| value)
    }

    #[test]
    fn a_minute_takes_as_many_rows_as_what_came_in_it_needs() {
        // Half of what the fullest form would have, at least, from one block a shard on.
        for (came, most) in [(1, 1), (100, 8), (833, 48), (5_000, 320), (20_000, 1_000)] {
            let mut rig = Rig::new(Windows::default());
            for n in 0..came {
                assert!(!rig.seen(n, START_MS, START_MS));
                if n % 100 == 0 {
                    rig.forget();
                }
            }
            rig.forget();
            let rows = blocks(&rig).count();
            assert!(rows <= most, "{rows} rows for {came} identities");
            let bytes: usize = blocks(&rig).map(Vec::len).sum();
            assert!(bytes >= came as usize * 16, "{bytes} bytes of {came} identities");
            assert!(blocks(&rig).all(|block| block.len() < 32 * 16 + 8));
        }
    }

    #[test]
    fn what_came_is_found_however_many_came_before_it_in_its_minute() {
        let mut rig = Rig::new(Windows::default());
        for n in 0..20_000 {
            assert!(!rig.seen(n, START_MS, START_MS));
        }
        rig.restart();
        for n in (0..20_000).step_by(7) {
            assert!(rig.seen(n, START_MS, START_MS), "the one after {n} others");
        }
        let asked = rig.asked(|rig| assert!(rig.seen(19_999, START_MS, START_MS)));
        assert!(asked <= 24, "{asked} rows to find one of 20,000");
    }

    #[test]
    fn business_keys_are_kept_for_as_long_as_the_rules_say() {
        let mut rig = Rig::new(Windows { business_keep_ms: 7 * 86_400_000, ..Windows::default() });
        for day in 0..20 {
            assert_eq!(rig.gift(day, 1, START_MS + i64::from(day) * DAY_MS), BusinessKey::New);
        }
        rig.restart();
        let now = START_MS + 19 * DAY_MS;
        assert_eq!(rig.gift(12, 1, now), BusinessKey::Same, "seven days");
        assert_eq!(rig.gift(11, 1, now), BusinessKey::New, "eight days");
        // Nothing of what is gone stays behind.
        let mut rows = rig.backing.store.rows.len();
        rig.gift(0, 1, now + 8 * DAY_MS);
        rig.forget();
        rows = rows.min(rig.backing.store.rows.len());
        assert_eq!(rows, 2, "the row of a day and one block");
    }

    #[test]
    fn a_wide_lookup_reads_no_filter_twice() {
        let day = 86_400_000;
        let windows = Windows { duplicates_lookup_ms: day, duplicates_keep_ms: day, ..Windows::default() };
        let mut rig = Rig::new(windows);
        for n in 0..1_440 {
            let at = START_MS + i64::from(n) * 60_000;
            assert!(!rig.seen(n, at, at));
        }
        let end = START_MS + 1_440 * 60_000;
        let asked: usize = (2_000..2_100).map(|n| rig.asked(|rig| assert!(!rig.seen(n, end, end)))).sum();
        assert!(asked < 100 * 3, "{asked} rows for 100 new callbacks");
        assert!(rig.seen(700, end, end));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        /// Against a list of all that came; and the rows do not depend on commits, evictions and restarts.
        #[test]
        fn keys_are_told_as_by_a_list_and_rows_depend_on_no_commit(
            gifts in prop::collection::vec((0_u32..60, 0_u128..2, 0_i64..40_000_000), 1..300),
            cuts in prop::collection::vec(0_u8..8, 300),
        ) {
            let windows = Windows { business_keep_ms: 2 * 86_400_000, ..Windows::default() };
            let (mut whole, mut cut) = (Rig::new(windows.clone()), Rig::new(windows));
            let mut list: Vec<(u32, u128, i64)> = Vec::new();
            let mut now = START_MS;
            for ((key, content, later), then) in gifts.into_iter().zip(cuts) {
                now += later;
                // A day stays until its last key is too old.
                let last_of = |at: i64| list.iter().filter(|g| g.2 / DAY_MS == at / DAY_MS).map(|g| g.2).max();
                let kept = |at: i64| last_of(at).is_some_and(|last| last + 2 * DAY_MS >= now);
                let expected = match list.iter().find(|g| g.0 == key && kept(g.2)) {
                    None => BusinessKey::New,
                    Some(g) if g.1 == content => BusinessKey::Same,
                    Some(_) => BusinessKey::OtherContent,
                };
                prop_assert_eq!(whole.gift(key, content, now), expected);
                prop_assert_eq!(cut.gift(key, content, now), expected);
                if expected == BusinessKey::New {
                    list.push((key, content, now));
                }
                match then {
                    0 => cut.restart(),
                    1 => cut.forget(),
                    2 => cut.commit(),
                    _ => {}
                }
            }
            whole.forget();
            cut.forget();
            prop_assert_eq!(whole.hash, cut.hash);
            prop_assert!(whole.backing.store == cut.backing.store);
        }
    }
}
