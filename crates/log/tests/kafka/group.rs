//! Members of a group on a real broker: partitions are handed over exactly, whoever comes, leaves, or stands still.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::common::{batch, open, options, until};
use barrage_event::{Offset, Partition, Position};
use barrage_kafka_fixture::Broker;
use barrage_log::{EventLog, Follow, Group, KafkaLog, KafkaOptions, Owner};

/// What all stores together hold: in a real installation the state stores and their snapshots.
type Stores = Arc<Mutex<BTreeMap<Partition, Offset>>>;

/// A model of the worker: one next offset a partition, and every record that was read.
#[derive(Debug, Default)]
struct State {
    owned: BTreeMap<Partition, Offset>,
    /// What was read, with the number in it.
    read: Vec<(Position, u64)>,
    /// Assigned and not yet open.
    late: Vec<(Partition, Arc<dyn Follow>)>,
    losses: usize,
    revocations: usize,
}

struct Model {
    stores: Stores,
    state: Mutex<State>,
    /// Whether the store of a partition is open at once.
    ready: fn(Partition) -> bool,
}

impl Owner for Model {
    fn assigned(&self, partitions: &[Partition], follow: &Arc<dyn Follow>) -> Vec<(Partition, Offset)> {
        let mut state = self.state.lock().unwrap();
        let stores = self.stores.lock().unwrap();
        let mut ready = Vec::new();
        for &partition in partitions {
            let next = stores.get(&partition).copied().unwrap_or_default();
            if (self.ready)(partition) {
                assert_eq!(state.owned.insert(partition, next), None, "{partition} is assigned once");
                ready.push((partition, next));
            } else {
                state.late.push((partition, Arc::clone(follow)));
            }
        }
        ready
    }

    fn revoked(&self, partitions: &[Partition], lost: bool) {
        // The reader holds this lock while it reads, so what it has read is in `owned`.
        let mut state = self.state.lock().unwrap();
        state.revocations += 1;
        state.losses += usize::from(lost);
        for partition in partitions {
            state.late.retain(|(late, _)| late != partition);
            let Some(next) = state.owned.remove(partition) else { continue };
            if !lost {
                self.stores.lock().unwrap().insert(*partition, next);
            }
        }
    }
}

struct Member {
    log: Arc<KafkaLog>,
    group: Option<Group>,
    model: Arc<Model>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Member {
    fn join(options: &KafkaOptions, stores: &Stores, ready: fn(Partition) -> bool) -> Self {
        let log = open(options);
        let model = Arc::new(Model { stores: Arc::clone(stores), state: Mutex::default(), ready });
        let group = log.join(Arc::clone(&model) as Arc<dyn Owner>).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let (log, model, stop) = (Arc::clone(&log), Arc::clone(&model), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seen = log.wait(0, Duration::ZERO);
                    read_on(&log, &model);
                    log.wait(seen, Duration::from_millis(50));
                }
            })
        };
        Self { log, group: Some(group), model, stop, reader: Some(reader) }
    }

    fn group(&self) -> &Group {
        self.group.as_ref().unwrap()
    }

    fn state<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.model.state.lock().unwrap())
    }

    fn owns(&self, partitions: usize) -> bool {
        self.state(|state| state.owned.len()) == partitions
    }

    fn leave(mut self) -> Vec<(Position, u64)> {
        self.group.take().unwrap().leave();
        self.stop.store(true, Ordering::Relaxed);
        self.reader.take().unwrap().join().unwrap();
        self.state(|state| std::mem::take(&mut state.read))
    }
}

/// Reads what there is of every partition that is owned; offsets go on where the store stands.
fn read_on(log: &KafkaLog, model: &Model) {
    let owned: Vec<Partition> = model.state.lock().unwrap().owned.keys().copied().collect();
    for partition in owned {
        let mut state = model.state.lock().unwrap();
        let State { owned, read, .. } = &mut *state;
        let Some(next) = owned.get_mut(&partition) else { continue };
        let mut expected = *next;
        *next = log
            .read(partition, *next, 10_000, &mut |record| {
                assert_eq!(record.offset, expected, "{partition} goes on where the store stands");
                expected = expected.next();
                let number = u64::from_be_bytes(record.bytes.try_into().unwrap());
                read.push((Position { partition, offset: record.offset }, number));
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(*next, expected);
    }
}

/// Appends numbers to all partitions in turn until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Load {
    fn start(options: &KafkaOptions) -> Self {
        let log = open(options);
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let partitions = log.all_partitions();
            let mut number = 0_u64;
            let mut turn = partitions.iter().cycle();
            while !told.load(Ordering::Relaxed) {
                let acks: Vec<_> = (0..100)
                    .map(|_| {
                        let partition = turn.next().unwrap();
                        let ack = log.append(&mut batch(*partition, &number.to_be_bytes())).unwrap();
                        number += 1;
                        ack
                    })
                    .collect();
                acks.into_iter().for_each(|ack| drop(ack.wait().unwrap()));
            }
            number
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn caught_up(log: &KafkaLog, members: &[&Member]) -> bool {
    log.all_partitions().into_iter().all(|partition| {
        let owners: Vec<_> =
            members.iter().filter_map(|m| m.state(|state| state.owned.get(&partition).copied())).collect();
        owners == [log.end(partition)]
    })
}

/// Every number was read exactly once, by whomever.
fn exactly_once(appended: u64, mut read: Vec<(Position, u64)>) {
    read.sort_unstable_by_key(|(position, _)| *position);
    let positions: BTreeSet<Position> = read.iter().map(|(position, _)| *position).collect();
    assert_eq!(positions.len(), read.len(), "no position was read twice");
    let numbers: BTreeSet<u64> = read.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers.len() as u64, appended, "nothing was left out");
    assert_eq!(read.len() as u64, appended);
}

fn group_options() -> KafkaOptions {
    KafkaOptions { room_partitions: 4, user_partitions: 4, feed_bytes_max: 64 << 10, ..options(Broker::shared()) }
}

#[test]
fn partitions_are_shared_out_handed_over_and_read_exactly_once() {
    let options = group_options();
    let stores = Stores::default();
    let load = Load::start(&options);
    let first = Member::join(&options, &stores, |_| true);
    until(&first.log, "the first owns all", || first.owns(8));
    assert_eq!(first.group().partitions(), first.log.all_partitions());
    assert!(first.log.all_partitions().into_iter().all(|partition| first.group().is_owner_now(partition)));
    let second = Member::join(&options, &stores, |_| true);
    until(&first.log, "they share", || first.owns(4) && second.owns(4));
    let rooms = |member: &Member| -> Vec<u16> {
        let owned = member.state(|state| state.owned.keys().copied().collect::<Vec<_>>());
        let (rooms, users): (Vec<_>, Vec<_>) = owned.into_iter().partition(|p| p.topic == barrage_event::Topic::Room);
        let indices = |list: Vec<Partition>| list.into_iter().map(|p| p.index).collect::<Vec<_>>();
        let rooms = indices(rooms);
        assert_eq!(rooms, indices(users), "a member has the same numbers of both topics");
        rooms
    };
    assert_ne!(rooms(&first), rooms(&second));
    let of_second = second.group().partitions();
    assert!(of_second.iter().all(|p| second.group().is_owner_now(*p) && !first.group().is_owner_now(*p)));
    let third = Member::join(&options, &stores, |_| true);
    until(&first.log, "three share", || {
        third.state(|s| s.owned.len()) > 0 && {
            first.state(|s| s.owned.len()) + second.state(|s| s.owned.len()) + third.state(|s| s.owned.len()) == 8
        }
    });
    let mut read = second.leave();
    until(&first.log, "two share", || first.owns(4) && third.owns(4));
    let appended = load.stop();
    until(&first.log, "all is read", || caught_up(&first.log, &[&first, &third]));
    assert_eq!(first.state(|state| state.losses), 0);
    read.extend(third.leave());
    read.extend(first.leave());
    exactly_once(appended, read);
}

#[test]
fn partitions_whose_stores_open_late_follow_later() {
    let options = group_options();
    let stores = Stores::default();
    let load = Load::start(&options);
    let member = Member::join(&options, &stores, |partition| partition.index % 2 == 0);
    until(&member.log, "half of them flow", || {
        member.state(|state| {
            let flowing: BTreeSet<_> = state.read.iter().map(|(position, _)| position.partition).collect();
            state.late.len() == 4 && flowing.len() == 4
        })
    });
    assert!(member.state(|state| state.read.iter().all(|(position, _)| position.partition.index % 2 == 0)));
    // One store at a time, as they open.
    while let Some((partition, follow)) = member.state(|state| state.late.pop()) {
        member.state(|state| state.owned.insert(partition, Offset(0)));
        follow.follow(partition, Offset(0));
    }
    until(&member.log, "all flow", || {
        member.state(|state| state.read.iter().map(|(position, _)| position.partition).collect::<BTreeSet<_>>().len())
            == 8
    });
    let appended = load.stop();
    until(&member.log, "all is read", || caught_up(&member.log, &[&member]));
    exactly_once(appended, member.leave());
}

#[test]
fn a_store_that_opens_after_the_partition_was_taken_away_follows_nothing() {
    let options = group_options();
    let stores = Stores::default();
    let first = Member::join(&options, &stores, |_| false);
    until(&first.log, "all are late", || first.state(|state| state.late.len()) == 8);
    let old: Vec<_> = first.state(|state| state.late.clone());
    let second = Member::join(&options, &stores, |_| true);
    until(&first.log, "they share", || first.state(|state| state.late.len()) == 4 && second.owns(4));
    // The stores of the first assignment open only now. Nothing may come of it, and nothing break.
    for (partition, follow) in old {
        follow.follow(partition, Offset(0));
    }
    let load = Load::start(&options);
    until(&second.log, "the second reads its own", || second.state(|state| state.read.len()) > 1_000);
    let late = first.state(|state| std::mem::take(&mut state.late));
    for (partition, follow) in late {
        first.state(|state| state.owned.insert(partition, Offset(0)));
        follow.follow(partition, Offset(0));
    }
    let appended = load.stop();
    until(&first.log, "all is read", || caught_up(&first.log, &[&first, &second]));
    let mut read = first.leave();
    read.extend(second.leave());
    exactly_once(appended, read);
}

const MEMBER: &str = "BARRAGE_LOG_GROUP_MEMBER";

/// A member in a process of its own: prints what it owns and what it reads.
fn member_process(described: &str) -> ! {
    let mut fields = described.split(' ').map(str::to_owned);
    let options = KafkaOptions {
        brokers: fields.next().unwrap(),
        topic_prefix: fields.next().unwrap(),
        group_id: fields.next().unwrap(),
        ..group_options_at(String::new(), String::new(), String::new())
    };
    let member = Member::join(&options, &Stores::default(), |_| true);
    let mut said = String::new();
    loop {
        let (owned, losses) = member.state(|state| (state.owned.len(), state.losses));
        let sure = member.log.all_partitions().into_iter().filter(|p| member.group().is_owner_now(*p)).count();
        let line = format!("\nmember owned={owned} sure={sure} losses={losses}\n");
        if line != said {
            let mut out = std::io::stdout();
            out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
            said = line;
        }
        let seen = member.log.wait(0, Duration::ZERO);
        member.log.wait(seen, Duration::from_millis(10));
    }
}

fn group_options_at(brokers: String, topic_prefix: String, group_id: String) -> KafkaOptions {
    KafkaOptions {
        brokers,
        topic_prefix,
        group_id,
        room_partitions: 4,
        user_partitions: 4,
        session_timeout_ms: 2_000,
        read_wait_ms: 30_000,
        ..KafkaOptions::default()
    }
}

struct Process {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Process {
    fn start(options: &KafkaOptions, test: &str) -> Self {
        let described = format!("{} {} {}", options.brokers, options.topic_prefix, options.group_id);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(MEMBER, described)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = std::sync::mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if line.starts_with("member ") && send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn says(&self, wanted: &str) {
        loop {
            let line = self.lines.recv_timeout(crate::common::PATIENCE).unwrap_or_else(|_| panic!("no {wanted}"));
            if line.contains(wanted) {
                return;
            }
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_member_that_stands_still_loses_its_partitions_and_knows_it() {
    if let Ok(described) = std::env::var(MEMBER) {
        member_process(&described);
    }
    let options = KafkaOptions { session_timeout_ms: 2_000, ..group_options() };
    let stores = Stores::default();
    let load = Load::start(&options);
    let stays = Member::join(&options, &stores, |_| true);
    until(&stays.log, "it owns all", || stays.owns(8));
    let test = "group::a_member_that_stands_still_loses_its_partitions_and_knows_it";
    let halted = Process::start(&options, test);
    halted.says("owned=4 sure=4 losses=0");
    until(&stays.log, "they share", || stays.owns(4));
    halted.signal(rustix::process::Signal::STOP);
    until(&stays.log, "its partitions are given away", || stays.owns(8));
    halted.signal(rustix::process::Signal::CONT);
    halted.says("sure=0");
    halted.says("losses=1");
    halted.says("owned=4");
    until(&stays.log, "they share again", || stays.owns(4));
    // Killed: nobody hears from it, and its partitions come back after the session.
    halted.signal(rustix::process::Signal::KILL);
    until(&stays.log, "it owns all again", || stays.owns(8));
    let appended = load.stop();
    until(&stays.log, "all is read", || caught_up(&stays.log, &[&stays]));
    // The other process kept its offsets to itself, so here everything was read once by one store.
    let log = Arc::clone(&stays.log);
    assert_eq!(stays.state(|state| state.losses), 0);
    let read = stays.leave();
    let mut last: BTreeMap<Partition, Offset> = BTreeMap::new();
    for (position, _) in &read {
        let expected = last.entry(position.partition).or_default();
        assert_eq!(position.offset, *expected, "each partition goes on where its store stands");
        *expected = expected.next();
    }
    assert!(log.all_partitions().into_iter().all(|p| last.get(&p) == Some(&log.end(p))));
    exactly_once(appended, read);
}

#[test]
fn a_consumer_that_gets_nothing_any_more_is_replaced() {
    let options = KafkaOptions { session_timeout_ms: 6_000, ..options(Broker::shared()) };
    let stores = Stores::default();
    let member = Member::join(&options, &stores, |_| true);
    let log = Arc::clone(&member.log);
    until(&log, "all is assigned", || member.owns(4));
    let append = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            log.append(&mut batch(Partition::room(0), &number.to_be_bytes())).unwrap().wait().unwrap();
        }
    };
    let read = |count: usize| member.state(|state| state.read.len()) == count;
    append(0..10);
    until(&log, "they are read", || read(10));
    member.group().halt(Duration::from_secs(1));
    // Those that were fetched ahead may still come; in the end something is there and does not.
    let before = member.state(|state| state.revocations);
    let mut next = 10;
    until(&log, "the consumer is replaced", || {
        append(next..next + 1);
        next += 1;
        member.state(|state| state.revocations) > before
    });
    append(next..next + 10);
    let count = usize::try_from(next).unwrap() + 10;
    until(&log, "everything comes after all", || read(count));
    assert_eq!(member.state(|state| state.losses), 0, "nothing was lost: it was given back");
    let read = member.leave();
    let numbers: Vec<u64> = read.into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, (0..next + 10).collect::<Vec<_>>(), "once each, in order");
}
