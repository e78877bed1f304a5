//! The overlay against a map: whatever is asked of it, read, forgotten and read again.

use std::collections::BTreeMap;

use barrage_projection::memory::{MemoryStore, hash_of};
use barrage_projection::{StateHash, TableDef, Tables, table};
use proptest::prelude::*;

table!(
    /// A table.
    Numbers, 200, "tests.numbers", (u32,), u64
);
table!(
    /// Another one, so that they share a budget.
    Others, 201, "tests.others", (u32,), u64
);

#[derive(Debug, Clone, Copy)]
enum Step {
    Get(u32),
    Add(u32, u64),
    /// Only where it is there.
    AddToExisting(u32, u64),
    Set(u32, u64),
    Remove(u32),
    /// Made without asking when the model has none.
    New(u32, u64),
    /// Removed without asking when the model has it.
    RemoveKnown(u32),
    Commit,
    /// Commits and keeps at most so much.
    Evict(usize),
    /// Forgets everything since the last commit.
    Discard,
}

fn step() -> impl Strategy<Value = Step> {
    let (key, value) = (|| 0_u32..12, || 0_u64..4);
    prop_oneof![
        3 => key().prop_map(Step::Get),
        3 => (key(), value()).prop_map(|(key, value)| Step::Add(key, value)),
        2 => (key(), value()).prop_map(|(key, value)| Step::AddToExisting(key, value)),
        2 => (key(), value()).prop_map(|(key, value)| Step::Set(key, value)),
        2 => key().prop_map(Step::Remove),
        3 => (key(), value()).prop_map(|(key, value)| Step::New(key, value)),
        3 => key().prop_map(Step::RemoveKnown),
        2 => Just(Step::Commit),
        2 => (0_usize..2_000).prop_map(Step::Evict),
        1 => Just(Step::Discard),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_overlay_is_a_map_with_commits(steps in proptest::collection::vec(step(), 1..80)) {
        let mut tables = Tables::new(&[TableDef::of::<Numbers>(), TableDef::of::<Others>()]).expect("two ids");
        let (mut store, mut hash) = (MemoryStore::default(), StateHash::default());
        let (mut model, mut committed) = (BTreeMap::<u32, u64>::new(), BTreeMap::<u32, u64>::new());
        for step in steps {
            // Memory is shared with a table that is always asked for the same.
            tables.table::<Others>(&store).expect("declared").get(&(7,)).expect("works");
            let numbers = tables.table::<Numbers>(&store);
            let mut numbers = numbers.expect("declared");
            match step {
                Step::Get(key) => {
                    prop_assert_eq!(numbers.get(&(key,)).expect("works").copied(), model.get(&key).copied());
                }
                Step::Add(key, value) => {
                    *numbers.entry(&(key,)).expect("works") += value;
                    *model.entry(key).or_default() += value;
                }
                Step::AddToExisting(key, value) => {
                    let row = numbers.get_mut(&(key,)).expect("works");
                    prop_assert_eq!(row.as_deref().copied(), model.get(&key).copied());
                    if let (Some(row), Some(known)) = (row, model.get_mut(&key)) {
                        *row += value;
                        *known += value;
                    }
                }
                Step::Set(key, value) => {
                    numbers.set(&(key,), value).expect("works");
                    model.insert(key, value);
                }
                Step::Remove(key) => {
                    prop_assert_eq!(numbers.remove(&(key,)).expect("works"), model.remove(&key));
                }
                Step::New(key, value) => {
                    if let std::collections::btree_map::Entry::Vacant(entry) = model.entry(key) {
                        *numbers.entry_known_new(&(key,)) = value;
                        entry.insert(value);
                    }
                }
                Step::RemoveKnown(key) => {
                    if let Some(value) = model.remove(&key) {
                        numbers.remove_known(&(key,), &value);
                    }
                }
                Step::Commit | Step::Evict(_) => {
                    tables.commit(&|_| true, &mut store, &mut hash);
                    committed.clone_from(&model);
                    if let Step::Evict(bytes) = step {
                        tables.evict(bytes);
                    }
                    prop_assert_eq!(hash, hash_of(&store), "what is kept up is what the rows have");
                    prop_assert_eq!(store.0.len(), model.len());
                }
                Step::Discard => {
                    tables.discard(&store).expect("works");
                    model.clone_from(&committed);
                }
            }
            prop_assert!(tables.dirty_bytes() <= tables.bytes());
        }
        tables.commit(&|_| true, &mut store, &mut hash);
        prop_assert_eq!(hash, hash_of(&store));
        prop_assert_eq!(tables.dirty_bytes(), 0);
        let kept = store.clone();
        tables.evict(0);
        prop_assert_eq!(tables.bytes(), 0, "rows that did not change are not kept");
        for key in 0..12 {
            let mut numbers = tables.table::<Numbers>(&store).expect("declared");
            prop_assert_eq!(numbers.get(&(key,)).expect("works").copied(), model.get(&key).copied());
        }
        prop_assert_eq!(kept, store);
    }
}
