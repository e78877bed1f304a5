//! Everything on a real Kafka, which shares the cores with Barrage and the generator: so each one's processor time is
//! told apart, and shares by processor time count more than those by the clock.

mod http;
mod ingest;
mod probe;
mod process;
mod producer;
mod project;
mod readable;
mod rules;
mod spool;
mod takeover;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use barrage_kafka_fixture::Broker;
use barrage_log::{KafkaLog, KafkaMetrics, KafkaOptions};
use clap::ValueEnum;

use crate::clock::{ProcessTimes, process_time};
use crate::report::Report;
use crate::server;
use process::{Process, Role};

/// What is measured on Kafka, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Callbacks through `barrage ingest`, beside bare hyper and a bare producer.
    Ingest,
    /// What a projector's core applies.
    Project,
    /// From an answer to a number that holds it.
    Readable,
    /// A projector that dies or leaves.
    Takeover,
    /// A broker that stands still, and what waited for it.
    Spool,
    /// A change of rules, until every ingest follows it.
    Rules,
}

/// What all parts need.
struct Bench<'a> {
    broker: Broker,
    barrage: PathBuf,
    dir: &'a Path,
    quick: bool,
}

/// Reports Barrage on Kafka.
pub(crate) fn run(report: &mut Report, dir: &Path, parts: &[Part]) -> Result<()> {
    let Some(barrage) = server::barrage() else {
        report.section("kafka", "everything on Kafka");
        report.note("SKIPPED: `barrage` was not built beside this program");
        return Ok(());
    };
    if !Command::new("java").arg("-version").stdin(Stdio::null()).output().is_ok_and(|java| java.status.success()) {
        report.section("kafka", "everything on Kafka");
        report.note("SKIPPED: there is no Java to run a broker with; scripts/setup.sh installs it");
        return Ok(());
    }
    let bench = Bench { broker: Broker::start(1), barrage, dir, quick: report.quick() };
    let parts = if parts.is_empty() { Part::value_variants() } else { parts };
    for part in parts {
        match part {
            Part::Ingest => ingest::run(report, &bench)?,
            Part::Project => project::run(report, &bench)?,
            Part::Readable => readable::run(report, &bench)?,
            Part::Takeover => takeover::run(report, &bench)?,
            Part::Spool => spool::run(report, &bench)?,
            Part::Rules => rules::run(report, &bench)?,
        }
    }
    Ok(())
}

impl Bench<'_> {
    /// The options of the log under a prefix, as processes of the bench have them: the defaults.
    fn options(&self, prefix: &str) -> KafkaOptions {
        KafkaOptions { brokers: self.broker.brokers(), topic_prefix: prefix.to_owned(), ..KafkaOptions::default() }
    }

    /// Makes the topics under a prefix.
    fn make_topics(&self, prefix: &str) -> Result<()> {
        KafkaLog::open(&self.options(prefix), KafkaMetrics::default())?.close();
        Ok(())
    }

    /// Starts a process of a role on the topics under a prefix, with a data directory of its own.
    fn start(&self, role: Role, name: &str, prefix: &str, more: &[(&str, String)]) -> Result<Process> {
        let mut environment = vec![
            ("BARRAGE_KAFKA_TOPIC_PREFIX", prefix.to_owned()),
            ("BARRAGE_KAFKA_GROUP_ID", format!("{prefix}project")),
        ];
        environment.extend_from_slice(more);
        let dir = self.dir.join(format!("{prefix}{name}"));
        Process::start(&self.barrage, role, &dir, &self.broker.brokers(), &environment)
    }

    /// Processor time of the broker's threads so far, by name.
    fn broker_threads(&self) -> ProcessTimes {
        self.broker.process_id(1).map_or_else(ProcessTimes::default, ProcessTimes::of)
    }

    /// Processor time of the broker so far, without that of its compiler: a broker that has run for minutes has none.
    fn broker_time(&self) -> Duration {
        let all = self.broker.process_id(1).map_or(Duration::ZERO, process_time);
        all.saturating_sub(self.compiler_time())
    }

    /// Processor time of the broker's compiler so far.
    fn compiler_time(&self) -> Duration {
        let threads = self.broker_threads().since(&ProcessTimes::default());
        threads.iter().filter(|(name, _)| is_compiler(name)).map(|(_, spent)| *spent).sum()
    }
}

/// Whether a thread of the broker is one of Java's compilers.
fn is_compiler(thread: &str) -> bool {
    thread.starts_with("C1 Compiler") || thread.starts_with("C2 Compiler")
}

/// Microseconds of processor time for each of so many.
fn us_each(spent: Duration, count: u64) -> f64 {
    spent.as_secs_f64() * 1e6 / count.max(1) as f64
}
