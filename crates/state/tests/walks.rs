//! Walks over a store's rows, beside those over a map.

use std::collections::BTreeMap;

use barrage_projection::{Backing as _, CommitSink as _};
use barrage_state::{Changes, Meta, StateEnv, StateOptions, Store};
use proptest::prelude::*;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn row() -> impl Strategy<Value = Vec<u8>> {
    // Of few values, so that one is often the beginning of another. No row of the runtime's own, as the meta row.
    (16_u8..18, proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(255)], 0..4))
        .prop_map(|(table, key)| [vec![table], key].concat())
}

fn rows() -> impl Strategy<Value = Rows> {
    proptest::collection::btree_map(row(), proptest::collection::vec(any::<u8>(), 0..4), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_walk_visits_what_lies_inside_its_bounds(
        old in rows(),
        new in rows(),
        gone in proptest::collection::vec(row(), 0..30),
        bounds in proptest::collection::vec((row(), row()), 20),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&StateEnv::new(StateOptions::default()), dir.path()).expect("opens");
        let (mut changes, mut all) = (Changes::default(), old);
        all.iter().for_each(|(row, value)| changes.put(row, value));
        store.commit(&mut changes, &Meta::default()).expect("commits");
        // What comes next lies in memory, in front of these.
        store.flush().expect("flushes");
        gone.iter().for_each(|row| changes.delete(row));
        all.retain(|row, _| !gone.contains(row));
        new.iter().for_each(|(row, value)| changes.put(row, value));
        all.extend(new);
        store.commit(&mut changes, &Meta::default()).expect("commits");
        for (first, last) in bounds {
            let mut found = Vec::new();
            store.scan_range(&first, &last, &mut |row, value| {
                found.push((row.to_vec(), value.to_vec()));
                Ok(())
            }).expect("works");
            let inside = all.iter().filter(|(row, _)| **row >= first && **row <= last);
            let inside: Vec<_> = inside.map(|(row, value)| (row.clone(), value.clone())).collect();
            prop_assert_eq!(found, inside);

            let mut found = Rows::new();
            store.scan(&first, &mut |row, value| {
                found.insert(row.to_vec(), value.to_vec());
                Ok(())
            }).expect("works");
            let mut below = all.clone();
            below.retain(|row, _| row.starts_with(&first));
            prop_assert_eq!(found, below);
        }
    }
}
