//! Topics that are not what they were.

use std::time::Duration;

use barrage_event::routes::partition_of;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use barrage_kafka_fixture::{Broker, prefix};

use crate::common::cluster::{Cluster, KEY, Process};
use crate::common::scene::{alone, evening, lines_of, rooms_of};
use crate::common::{escape, get_text, run_with, wait_until, wait_until_told};

/// How long a broker may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An administrator who does what should not be done.
pub(crate) struct Administrator {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Administrator {
    pub(crate) fn new(broker: &Broker) -> Self {
        let client = ClientConfig::new().set("bootstrap.servers", broker.brokers()).create().expect("a client");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { client, runtime }
    }

    /// Sets the largest batch that a topic takes, and all else back to what the cluster has, but for the time of records.
    pub(crate) fn limit(&self, topic: &str, bytes_max: usize) {
        let bytes_max = bytes_max.to_string();
        let new = AlterConfig::new(ResourceSpecifier::Topic(topic))
            .set("max.message.bytes", &bytes_max)
            .set("message.timestamp.type", "LogAppendTime")
            .set("retention.ms", "-1");
        let set = self.runtime.block_on(self.client.alter_configs([&new], &AdminOptions::new()));
        set.expect("answered")[0].as_ref().expect("set");
    }

    fn grow(&self, topic: &str, partitions: usize) {
        let new = NewPartitions::new(topic, partitions);
        let grown = self.runtime.block_on(self.client.create_partitions([&new], &AdminOptions::new()));
        grown.expect("answered")[0].as_ref().expect("grown");
    }

    /// Deletes all records that a partition has now, as a retention does that is shorter than an outage.
    fn truncate(&self, topic: &str, partition: i32) {
        let mut ends = TopicPartitionList::new();
        let (_, end) = self.client.inner().fetch_watermarks(topic, partition, PATIENCE).expect("answered");
        assert!(end > 0, "there is something to delete");
        ends.add_partition_offset(topic, partition, Offset::Offset(end)).expect("an offset");
        let gone = self.runtime.block_on(self.client.delete_records(&ends, &AdminOptions::new()));
        for element in gone.expect("answered").elements() {
            element.error().expect("deleted");
        }
    }

    /// Deletes a topic and makes an empty one in its place.
    fn recreate(&self, topic: &str, partitions: i32) {
        let gone = self.runtime.block_on(self.client.delete_topics(&[topic], &AdminOptions::new()));
        gone.expect("answered")[0].as_ref().expect("deleted");
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime")
            .set("max.message.bytes", "3145728");
        wait_until("the topic is made anew", || {
            let made = self.runtime.block_on(self.client.create_topics([&new], &AdminOptions::new()));
            match &made.expect("answered")[0] {
                Ok(_) => Some(()),
                // The old one is still on its way out.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => None,
                Err(error) => panic!("{error:?}"),
            }
        });
    }
}

fn play(cluster: &Cluster, file: &std::path::Path) {
    let (code, output) = run_with(
        ["replay", file.to_str().expect("UTF-8"), "--to", &cluster.balancer.url, "--query", cluster.query(), "--quiet"],
        &[("BARRAGE_API_KEY", KEY)],
    );
    assert_eq!(code, 0, "{output}");
}

/// Waits until a process says in its metrics and its log that a person must look. One that owns partitions is not ready;
/// callbacks are taken and reads answered all the same.
fn alarms(process: &Process, line: &str) {
    wait_until("it is noticed", || (process.metric("barrage_log_problem") > 0.0).then_some(()));
    wait_until("it is told", || process.log().contains(line).then_some(()));
    if process.callback.is_some() || process.query.is_some() {
        // Reads wait for the first owner of a partition.
        wait_until_told("it goes on", || match process.readiness() {
            (200, _) => Ok(()),
            (_, text) => Err(text),
        });
    } else {
        let (ready, text) = process.readiness();
        assert_eq!(ready, 503, "{text}");
        assert!(text.contains(line), "it says what to do: {text}");
    }
}

fn read(cluster: &Cluster, path: &str) -> (u16, String) {
    get_text(cluster.query(), path)
}

#[test]
fn a_topic_that_grew_is_refused_and_who_runs_goes_on_as_the_log_was_made() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let (file, truth) = evening(dir.path(), 13, "small");
    let broker = Broker::start(1);
    let cluster = Cluster::start_with(dir.path(), &broker.brokers(), &prefix(), (1, 1, 1), &|_, _| {
        crate::common::cluster::Own::default().with("BARRAGE_KAFKA_WATCH_TOPICS_MS", 1_000)
    });
    Administrator::new(&broker).grow(&format!("{}user", cluster.prefix), 5);
    for process in cluster.ingests.iter().chain(&cluster.projectors).chain(&cluster.queries) {
        alarms(process, "has 5 partitions now, the log was made with 4");
    }
    // Keys are placed as ever, so all is counted as ever.
    play(&cluster, &file);
    cluster.drained();
    let found = crate::common::differences_at(cluster.query(), &truth, true);
    assert!(found.is_empty(), "{} differences, the first: {:?}", found.len(), found.first());
    // Whoever starts is told, and told the same when the configuration is changed to fit.
    for count in ["4", "5"] {
        for role in ["ingest", "project", "query"] {
            let any = "127.0.0.1:0";
            let data = dir.path().join(format!("new-{role}-{count}"));
            let data = data.to_str().expect("UTF-8").to_owned();
            let listen = ["--callback-listen", any, "--query-listen", any, "--grpc-listen", any, "--admin-listen", any];
            let brokers = broker.brokers();
            let arguments = [role, "--brokers", &brokers, "--data-dir", &data].into_iter().chain(listen);
            let mut environment: Vec<(&str, &str)> =
                cluster.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            environment.extend([("BARRAGE_API_KEY", KEY), ("BARRAGE_KAFKA_USER_PARTITIONS", count)]);
            let (code, output) = run_with(arguments, &environment);
            assert_ne!(code, 0, "{role} started on a topic of another shape");
            assert!(output.contains("partition") && output.contains("topic prefix"), "{output}");
        }
    }
    cluster.stop();
}

#[test]
fn a_topic_made_anew_stops_its_partitions_and_no_others() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let (file, truth) = evening(dir.path(), 14, "small");
    let broker = Broker::start(1);
    let mut cluster = Cluster::start(dir.path(), &broker.brokers(), &prefix(), (1, 2, 1));
    play(&cluster, &file);
    cluster.drained();
    let users: Vec<String> = lines_of(&file)
        .iter()
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(crate::common::scene::body(line)).ok())
        .filter_map(|body| Some(body["From_Account"].as_str()?.to_owned()))
        .collect();
    let rooms: Vec<String> = rooms_of(&truth);
    let before: Vec<_> = rooms.iter().map(|room| read(&cluster, &format!("/v1/rooms/{}", escape(room)))).collect();
    assert!(before.iter().all(|(status, _)| *status == 200));
    let user = format!("/v1/users/{}", escape(&users[0]));
    assert_eq!(read(&cluster, &user).0, 200);

    Administrator::new(&broker).recreate(&format!("{}user", cluster.prefix), 4);
    for projector in &cluster.projectors {
        alarms(projector, "its topic was deleted and made anew");
        wait_until("a partition stops", || (!stops(projector).is_empty()).then_some(()));
        assert!(stops(projector).iter().all(|line| line.contains("user/")), "{:#?}", stops(projector));
    }
    let error = cluster.projectors[0].log();
    let error = error.lines().find(|line| line.contains("the partition has stopped")).unwrap_or_default();
    println!("{error}");
    // Users are not read any more; not even the numbers that were right.
    wait_until("users cannot be read", || {
        let (status, text) = read(&cluster, &user);
        println!("{status} {text}");
        (status != 200).then_some(())
    });
    // Rooms are, and go on.
    for (room, (_, answer)) in rooms.iter().zip(&before) {
        let (status, found) = read(&cluster, &format!("/v1/rooms/{}", escape(room)));
        assert_eq!(status, 200, "{found}");
        let count = |text: &str| {
            let answer: serde_json::Value = serde_json::from_str(text).expect("JSON");
            answer["messages"]["delivered"].clone()
        };
        assert_eq!(count(&found), count(answer));
    }
    let (_, status) = read(&cluster, "/v1/status");
    println!("{status}");
    // A restart mends nothing by itself: the stores remember what they saw. Alone, it has the partitions that it had.
    cluster.projectors.pop().expect("there are two").stop();
    let projector = &mut cluster.projectors[0];
    projector.stop();
    let before = stops(projector).len();
    projector.restart();
    wait_until("a partition stops again", || (stops(projector).len() > before).then_some(()));
    cluster.stop();
}

/// The lines of a log that say that a partition has stopped.
fn stops(process: &Process) -> Vec<String> {
    process.log().lines().filter(|line| line.contains("the partition has stopped")).map(str::to_owned).collect()
}

#[test]
fn records_that_are_deleted_before_they_are_read_stop_their_partition() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let (first, _) = evening(dir.path(), 15, "small");
    let (second, truth) = evening(dir.path(), 16, "small");
    let broker = Broker::start(1);
    let mut cluster = Cluster::start(dir.path(), &broker.brokers(), &prefix(), (1, 1, 1));
    play(&cluster, &first);
    cluster.drained();
    cluster.projectors[0].stop();
    // Callbacks come all the same; nobody reads them before they are gone.
    play(&cluster, &second);
    Administrator::new(&broker).truncate(&format!("{}user", cluster.prefix), 0);

    let app = barrage_simulator::Config::default().app;
    let users: Vec<(u16, String)> = truth["users"]
        .as_object()
        .expect("users")
        .keys()
        .map(|user| (partition_of(app, user, 4), format!("/v1/users/{}", escape(user))))
        .collect();
    let of = |wanted: &dyn Fn(u16) -> bool| {
        users.iter().find(|(partition, _)| wanted(*partition)).map(|(_, path)| path.clone()).expect("a user")
    };
    let (hit, spared) = (of(&|partition| partition == 0), of(&|partition| partition != 0));
    // With its own store, which lacks what is gone; again; and without one, from snapshots that lack it, too.
    for round in 1..=3 {
        let projector = &mut cluster.projectors[0];
        if round > 1 {
            projector.stop();
        }
        if round == 3 {
            std::fs::remove_dir_all(projector.dir.join("state")).expect("there");
        }
        projector.restart();
        let projector = &cluster.projectors[0];
        wait_until("the partition stops", || (stops(projector).len() >= round).then_some(()));
        let stops = stops(projector);
        assert!(stops.iter().all(|line| line.contains("user/0") && line.contains("starts at offset")), "{stops:#?}");
        let (ready, text) = projector.readiness();
        assert!(ready == 503 && text.contains("user/0"), "{text}");
        // Its users are not read, not even the numbers that were right once; others are.
        wait_until("other users are read", || (read(&cluster, &spared).0 == 200).then_some(()));
        assert_eq!(read(&cluster, &hit).0, 503, "round {round}");
    }
    cluster.stop();
}
