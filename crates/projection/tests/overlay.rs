//! The overlay against a map: whatever is asked of it, read, forgotten and read again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use barrage_projection::memory::{CountingStore, MemoryStore, hash_of};
use barrage_projection::{ReaderExt as _, StateHash, Table, TableDef, TableRef, Tables, table};
use proptest::prelude::*;

table!(
    /// A table with rows of its own.
    Own, 200, "tests.own", (u32, &'a str), u64
);
table!(
    /// A table whose values are parts of accounts' rows.
    First, 202, "tests.first", of Account, u64
);
table!(
    /// Another one: their rows are the same.
    Second, 201, "tests.second", of Account, u64
);

#[derive(Debug, Clone, Copy)]
enum Step {
    Get,
    Add(u64),
    /// Only where it is there.
    AddToExisting(u64),
    Set(u64),
    Remove,
    /// So many rows, beginning with this one.
    RemoveNeighbours(u32),
    /// Made without asking when the model has none.
    New(u64),
    /// Removed without asking when the model has it.
    RemoveKnown,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    /// Of one table and one of its rows.
    Row(u8, u32, Step),
    Commit,
    /// Commits and keeps at most so much.
    Evict(usize),
    /// Forgets everything since the last commit.
    Discard,
}

fn action() -> impl Strategy<Value = Action> {
    let value = || 0_u64..4;
    let step = prop_oneof![
        3 => Just(Step::Get),
        3 => value().prop_map(Step::Add),
        2 => value().prop_map(Step::AddToExisting),
        2 => value().prop_map(Step::Set),
        2 => Just(Step::Remove),
        2 => (0_u32..6).prop_map(Step::RemoveNeighbours),
        3 => value().prop_map(Step::New),
        3 => Just(Step::RemoveKnown),
    ];
    prop_oneof![
        18 => (0_u8..3, 0_u32..8, step).prop_map(|(table, key, step)| Action::Row(table, key, step)),
        2 => Just(Action::Commit),
        2 => (0_usize..2_000).prop_map(Action::Evict),
        1 => Just(Action::Discard),
    ]
}

const ACCOUNT: &str = "an account";

/// What the tables should hold.
type Model = BTreeMap<(u8, u32), u64>;

fn change<T>(mut rows: TableRef<'_, T>, place: (u8, u32), step: Step, model: &mut Model) -> Result<(), TestCaseError>
where
    T: for<'a> Table<Key<'a> = (u32, &'a str), Value = u64>,
{
    let key = &(place.1, ACCOUNT);
    match step {
        Step::Get => prop_assert_eq!(rows.get(key).expect("works").copied(), model.get(&place).copied()),
        Step::Add(value) => {
            *rows.entry(key).expect("works") += value;
            *model.entry(place).or_default() += value;
        }
        Step::AddToExisting(value) => {
            let row = rows.get_mut(key).expect("works");
            prop_assert_eq!(row.as_deref().copied(), model.get(&place).copied());
            if let (Some(row), Some(known)) = (row, model.get_mut(&place)) {
                *row += value;
                *known += value;
            }
        }
        Step::Set(value) => {
            rows.set(key, value).expect("works");
            model.insert(place, value);
        }
        Step::Remove => prop_assert_eq!(rows.remove(key).expect("works"), model.remove(&place)),
        Step::RemoveNeighbours(count) => {
            let keys: Vec<_> = (place.1..place.1 + count).map(|number| (number, ACCOUNT)).collect();
            let known: Vec<u64> = keys.iter().filter_map(|(number, _)| model.remove(&(place.0, *number))).collect();
            let mut values = Vec::new();
            rows.remove_neighbours(&keys, |value| values.push(value)).expect("works");
            prop_assert_eq!(values, known);
        }
        Step::New(value) => {
            if let std::collections::btree_map::Entry::Vacant(entry) = model.entry(place) {
                *rows.entry_known_new(key).expect("works") = value;
                entry.insert(value);
            }
        }
        Step::RemoveKnown => {
            if let Some(value) = model.remove(&place) {
                rows.remove_known(key, &value).expect("works");
            }
        }
    }
    Ok(())
}

/// What reads of committed rows find in one table.
fn read<T>(store: &MemoryStore, table: u8) -> Model
where
    T: for<'a> Table<Key<'a> = (u32, &'a str), Value = u64>,
{
    let mut found = Model::new();
    let visit = |(number, _): (u32, &str), value| {
        found.insert((table, number), value);
        ControlFlow::Continue(())
    };
    store.scan::<T>(&(), visit).expect("works");
    for (&(_, number), value) in &found {
        assert_eq!(store.get::<T>(&(number, ACCOUNT)).expect("works").as_ref(), Some(value));
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_overlay_is_a_map_with_commits(actions in proptest::collection::vec(action(), 1..80)) {
        let defs = [TableDef::of::<First>(), TableDef::of::<Own>(), TableDef::of::<Second>()];
        let mut tables = Tables::new(&defs).expect("ids of their own");
        let (mut store, mut hash) = (MemoryStore::default(), StateHash::default());
        let (mut model, mut committed) = (Model::new(), Model::new());
        for action in actions {
            match action {
                Action::Row(0, key, step) => {
                    change::<Own>(tables.table(&store).expect("declared"), (0, key), step, &mut model)?;
                }
                Action::Row(1, key, step) => {
                    change::<First>(tables.table(&store).expect("declared"), (1, key), step, &mut model)?;
                }
                Action::Row(table, key, step) => {
                    change::<Second>(tables.table(&store).expect("declared"), (table, key), step, &mut model)?;
                }
                Action::Commit | Action::Evict(_) => {
                    tables.commit(&|_| true, &mut store, &mut hash);
                    committed.clone_from(&model);
                    if let Action::Evict(bytes) = action {
                        tables.evict(bytes);
                    }
                    prop_assert_eq!(hash, hash_of(&store), "what is kept up is what the rows have");
                    let rows: BTreeSet<(bool, u32)> = model.keys().map(|&(table, key)| (table == 0, key)).collect();
                    prop_assert_eq!(store.rows.len(), rows.len());
                    let mut found = read::<Own>(&store, 0);
                    found.extend(read::<First>(&store, 1));
                    found.extend(read::<Second>(&store, 2));
                    prop_assert_eq!(&found, &model);
                }
                Action::Discard => {
                    tables.discard(&store).expect("works");
                    model.clone_from(&committed);
                }
            }
            prop_assert!(tables.dirty_bytes() <= tables.bytes());
        }
        tables.commit(&|_| true, &mut store, &mut hash);
        prop_assert_eq!(hash, hash_of(&store));
        prop_assert_eq!(tables.dirty_bytes(), 0);
        tables.evict(0);
        prop_assert_eq!(tables.bytes(), 0, "rows that did not change are not kept");
        for key in 0..8 {
            change::<Own>(tables.table(&store).expect("declared"), (0, key), Step::Get, &mut model)?;
            change::<First>(tables.table(&store).expect("declared"), (1, key), Step::Get, &mut model)?;
            change::<Second>(tables.table(&store).expect("declared"), (2, key), Step::Get, &mut model)?;
        }
    }
}

/// Memory that many rows needed is given back, and what stays is what it was.
#[test]
fn overlays_shrink() {
    let defs = [TableDef::of::<Own>(), TableDef::of::<First>(), TableDef::of::<Second>()];
    let mut tables = Tables::new(&defs).expect("ids of their own");
    let (mut store, mut hash, mut model) = (MemoryStore::default(), StateHash::default(), Model::new());
    let mut change = |tables: &mut Tables, store: &MemoryStore, key: u32, step: Step| {
        change::<Own>(tables.table(store).expect("declared"), (0, key), step, &mut model).expect("as the model");
        if !key.is_multiple_of(3) {
            change::<First>(tables.table(store).expect("declared"), (1, key), step, &mut model).expect("as the model");
        }
        if !key.is_multiple_of(5) {
            change::<Second>(tables.table(store).expect("declared"), (2, key), step, &mut model).expect("as the model");
        }
    };
    for key in 0..10_000 {
        change(&mut tables, &store, key, Step::Add(key.into()));
    }
    for (round, target) in [400_000, 100_000, 20_000, 0].into_iter().enumerate() {
        tables.commit(&|_| true, &mut store, &mut hash);
        tables.evict(target);
        assert!(tables.bytes() <= target, "{} bytes in round {round}", tables.bytes());
        // Some in memory, some not, some of both.
        for key in (0..10_000).step_by(7 + round) {
            change(&mut tables, &store, key, Step::Get);
            change(&mut tables, &store, key + 1, Step::Add(1));
        }
    }
    tables.commit(&|_| true, &mut store, &mut hash);
    assert_eq!(hash, hash_of(&store));
    let mut found = read::<Own>(&store, 0);
    found.extend(read::<First>(&store, 1));
    found.extend(read::<Second>(&store, 2));
    assert_eq!(found, model);
}

table!(
    /// A table whose rows take much more decoded than as bytes.
    Texts, 203, "tests.texts", of Account, String
);

/// A budget that holds all rows as bytes, but half of them decoded, spares nearly all reads.
#[test]
fn rows_that_fit_as_bytes_are_seldom_read_again() {
    const ROWS: u32 = 2_000;
    let mut tables = Tables::new(&[TableDef::of::<Texts>()]).expect("an id of its own");
    let (mut backing, mut hash) = (CountingStore::default(), StateHash::default());
    for number in 0..ROWS {
        let text = "x".repeat(100);
        tables.table::<Texts>(&backing).expect("declared").set(&(number, ACCOUNT), text).expect("works");
    }
    tables.commit(&|_| true, &mut backing.store, &mut hash);
    let target = tables.bytes() / 2;
    let (mut read, mut asked, mut number) = (0, 0, 1_u32);
    for round in 0..200 {
        let before = backing.asked.get();
        for _ in 0..100 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut rows = tables.table::<Texts>(&backing).expect("declared");
            let text = rows.get(&((number >> 8) % ROWS, ACCOUNT)).expect("works").expect("a row");
            assert_eq!(text.len(), 100);
        }
        // The first rounds are those of rows that were never asked for.
        if round >= 100 {
            (read, asked) = (read + backing.asked.get() - before, asked + 100);
        }
        tables.commit(&|_| true, &mut backing.store, &mut hash);
        tables.evict(target);
        assert!(tables.bytes() <= target);
    }
    assert!(read * 20 < asked, "{read} of {asked} were read");
}

#[test]
fn neighbours_are_taken_out_in_few_walks() {
    let mut tables = Tables::new(&[TableDef::of::<Own>()]).expect("one table");
    let (mut backing, mut hash) = (CountingStore::default(), StateHash::default());
    for number in 0..1_000 {
        tables.table::<Own>(&backing).expect("declared").set(&(number, ACCOUNT), u64::from(number)).expect("works");
    }
    tables.commit(&|_| true, &mut backing.store, &mut hash);
    tables.evict(0);
    // One of them lies in memory again, with a change; half of the keys have no row.
    tables.table::<Own>(&backing).expect("declared").set(&(950, ACCOUNT), 1).expect("works");
    let asked = backing.asked.get();
    let keys: Vec<_> = (400..1_600).map(|number| (number, ACCOUNT)).collect();
    let mut values = Vec::new();
    let mut rows = tables.table::<Own>(&backing).expect("declared");
    rows.remove_neighbours(&keys, |value| values.push(value)).expect("works");
    let expected = (400..1_000).map(|number| if number == 950 { 1 } else { number });
    assert_eq!(values, expected.collect::<Vec<_>>());
    assert_eq!((backing.asked.get() - asked, backing.walks.get()), (0, 5));
    tables.commit(&|_| true, &mut backing.store, &mut hash);
    assert_eq!(hash, hash_of(&backing.store));
    assert_eq!(read::<Own>(&backing.store, 0).len(), 400);
}

/// Same changes, same bytes, whatever of a row was read and whenever it was committed.
#[test]
fn parts_lie_in_the_order_of_their_tables() {
    let defs = [TableDef::of::<First>(), TableDef::of::<Second>()];
    let stores = [false, true].map(|turned| {
        let mut tables = Tables::new(&defs).expect("ids of their own");
        let (mut store, mut hash) = (MemoryStore::default(), StateHash::default());
        for first in [turned, !turned] {
            if first {
                *tables.table::<First>(&store).expect("declared").entry(&(7, ACCOUNT)).expect("works") = 3;
            } else {
                *tables.table::<Second>(&store).expect("declared").entry(&(7, ACCOUNT)).expect("works") = 4;
            }
            tables.commit(&|_| true, &mut store, &mut hash);
            tables.discard(&store).expect("works");
        }
        store.rows
    });
    assert_eq!(stores[0], stores[1]);
    assert_eq!(stores[0].values().collect::<Vec<_>>(), [&[201, 2, 8, 4, 202, 2, 8, 3]]);
}

/// What was read and not changed is taken from the committed row: a value that is encoded anew would lose its second byte
/// here.
#[test]
fn a_part_that_did_not_change_is_not_encoded_again() {
    let defs = [TableDef::of::<First>(), TableDef::of::<Second>()];
    let mut tables = Tables::new(&defs).expect("ids of their own");
    let (mut store, mut hash) = (MemoryStore::default(), StateHash::default());
    tables.table::<Second>(&store).expect("declared").set(&(7, ACCOUNT), 4).expect("works");
    tables.commit(&|_| true, &mut store, &mut hash);
    for value in store.rows.values_mut() {
        assert_eq!(value, &[201, 2, 8, 4]);
        *value = vec![201, 3, 8, 0x84, 0];
    }
    let mut hash = hash_of(&store);
    tables.discard(&store).expect("works");
    let second = tables.table::<Second>(&store).expect("declared").get(&(7, ACCOUNT)).expect("works").copied();
    assert_eq!(second, Some(4));
    for (first, part) in [(3, [202, 2, 8, 3]), (5, [202, 2, 8, 5])] {
        tables.table::<First>(&store).expect("declared").set(&(7, ACCOUNT), first).expect("works");
        tables.commit(&|_| true, &mut store, &mut hash);
        let expected = [&[201, 3, 8, 0x84, 0][..], &part].concat();
        assert_eq!(store.rows.values().collect::<Vec<_>>(), [&expected]);
        assert_eq!(hash, hash_of(&store));
    }
}

#[test]
fn rows_that_cannot_be_read_are_errors() {
    let key = {
        let mut tables = Tables::new(&[TableDef::of::<First>()]).expect("an id of its own");
        let (mut store, mut hash) = (MemoryStore::default(), StateHash::default());
        *tables.table::<First>(&store).expect("declared").entry(&(7, ACCOUNT)).expect("works") = 3;
        tables.commit(&|_| true, &mut store, &mut hash);
        store.rows.into_keys().next().expect("one row")
    };
    for (value, problem) in [
        (vec![202, 9, 8, 4], "longer than the row"),
        (vec![202], "longer than the row"),
        (vec![201, 2, 8, 4], "which no projection declares"),
        (vec![202, 1, 8], "damaged row"),
    ] {
        let mut store = MemoryStore::default();
        store.rows.insert(key.clone(), value);
        let mut tables = Tables::new(&[TableDef::of::<First>()]).expect("an id of its own");
        let mut rows = tables.table::<First>(&store).expect("declared");
        let error = rows.get(&(7, ACCOUNT)).expect_err("damaged").to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn ids_belong_to_one_table() {
    table!(
        /// With the id of another one.
        Thief, 200, "tests.thief", (u32,), u64
    );
    table!(
        /// With the id of the accounts' rows.
        Intruder, 242, "tests.intruder", (u32,), u64
    );
    for (defs, first) in [
        ([TableDef::of::<Own>(), TableDef::of::<Thief>()], "tests.own"),
        ([TableDef::of::<Own>(), TableDef::of::<Intruder>()], "accounts"),
    ] {
        assert_eq!(Tables::new(&defs).expect_err("a clash").first, first);
    }
    Tables::new(&[TableDef::of::<Own>(), TableDef::of::<Own>()]).expect("declared by two projections");
}
