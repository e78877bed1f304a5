//! Bucket tables against a map.

use std::collections::BTreeMap;

use barrage_projection::memory::{MemoryStore, hash_of};
use barrage_projection::{BucketTable, StateHash, TableDef, Tables};
use proptest::prelude::*;

#[derive(Debug)]
struct Waiting;
impl BucketTable for Waiting {
    const ID: u8 = 200;
    const NAME: &'static str = "tests.waiting";
    const ROWS_MAX: usize = 6;
    type Value = u64;
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Get(u128),
    Insert(u32, u128, u64),
    Add(u128, u64),
    Remove(u128),
    ExpireBelow(u32),
    Commit,
    /// Everything since the last commit is forgotten, and what is committed is read in.
    Discard,
}

fn step() -> impl Strategy<Value = Step> {
    let hash = || (0_u128..9).prop_map(|n| n << 64 | n);
    prop_oneof![
        2 => hash().prop_map(Step::Get),
        6 => (0_u32..5, hash(), 0_u64..4).prop_map(|(bucket, hash, value)| Step::Insert(bucket, hash, value)),
        4 => (hash(), 0_u64..3).prop_map(|(hash, value)| Step::Add(hash, value)),
        3 => hash().prop_map(Step::Remove),
        1 => (0_u32..6).prop_map(Step::ExpireBelow),
        3 => Just(Step::Commit),
        1 => Just(Step::Discard),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_bucket_table_is_a_map_whose_oldest_rows_go(steps in proptest::collection::vec(step(), 1..80)) {
        let mut tables = Tables::new(&[TableDef::buckets::<Waiting>()]).expect("one id");
        let (mut store, mut hash) = (MemoryStore::default(), StateHash::default());
        let mut model = BTreeMap::<u128, (u32, u64)>::new();
        let mut committed = model.clone();
        for step in steps {
            let mut rows = tables.buckets::<Waiting>().expect("declared");
            match step {
                Step::Get(hash) => prop_assert_eq!(rows.get(hash).copied(), model.get(&hash).map(|row| row.1)),
                Step::Insert(bucket, hash, value) => {
                    let found = rows.insert(bucket, hash, value);
                    model.remove(&hash);
                    let mut gone = None;
                    while model.len() >= Waiting::ROWS_MAX {
                        let oldest = model.values().map(|row| row.0).min().expect("rows");
                        model.retain(|_, row| row.0 != oldest);
                        gone = Some(oldest);
                    }
                    prop_assert_eq!(found, gone);
                    model.insert(hash, (bucket, value));
                }
                Step::Add(hash, value) => {
                    let (row, known) = (rows.get_mut(hash), model.get_mut(&hash));
                    prop_assert_eq!(row.as_deref().copied(), known.as_deref().map(|row| row.1));
                    if let (Some(row), Some(known)) = (row, known) {
                        *row += value;
                        known.1 += value;
                    }
                }
                Step::Remove(hash) => prop_assert_eq!(rows.remove(hash), model.remove(&hash).map(|row| row.1)),
                Step::ExpireBelow(floor) => {
                    let before = model.len();
                    model.retain(|_, row| row.0 >= floor);
                    prop_assert_eq!(rows.expire_below(floor), (before - model.len()) as u64);
                }
                Step::Commit => {
                    tables.commit(&|_| true, &mut store, &mut hash);
                    committed.clone_from(&model);
                    prop_assert_eq!(hash, hash_of(&store), "what is kept up is what the rows have");
                    prop_assert_eq!((store.rows.len(), tables.dirty_bytes()), (model.len(), 0));
                }
                Step::Discard => {
                    tables.discard(&store).expect("works");
                    model.clone_from(&committed);
                }
            }
            let rows = tables.buckets::<Waiting>().expect("declared");
            prop_assert_eq!((rows.len(), rows.is_empty()), (model.len(), model.is_empty()));
        }
    }
}
