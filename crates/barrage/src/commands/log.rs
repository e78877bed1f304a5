//! `barrage log`: shows records readably. Reads the files only, or Kafka beside its consumers, so a running server is not
//! disturbed. `barrage log trim` asks a running server.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use barrage_event::{Offset, Partition, Topic};
use barrage_log::embedded::{Ending, LogReader};
use barrage_log::{KafkaReader, Record};
use bytes::Bytes;

use super::log_records::{as_json, as_text};
use crate::cli::{ConfigArgs, LogArgs, LogCommand, ServerArgs};
use crate::client::{Client, runtime};
use crate::config;
use crate::exit::{Exit, Failure};

/// Records of each partition when neither `--limit` nor `--follow` is there.
const LIMIT_DEFAULT: u64 = 20;
/// Time between two looks for new records.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a trim may take: a snapshot of every partition is read back first.
const TRIM_WITHIN: Duration = Duration::from_secs(6 * 3_600);

/// Shows records, or trims.
pub(crate) fn log(args: &LogArgs, environment: impl Iterator<Item = (String, String)>) -> Result<Exit, Failure> {
    if let Some(LogCommand::Trim { server }) = &args.command {
        return trim(server);
    }
    let source = match &args.data_dir {
        Some(dir) => Source::open_files(dir)?,
        None => {
            let place =
                ConfigArgs { config: args.config.clone(), brokers: args.brokers.clone(), ..ConfigArgs::default() };
            let config = config::load(&place, environment).map_err(Failure::configuration)?.config;
            match &config.kafka {
                Some(options) => Source::Kafka(Box::new(KafkaReader::open(options)?)),
                None => Source::open_files(&config.data_dir)?,
            }
        }
    };
    Look::new(args, source)?.show()?;
    Ok(Exit::Done)
}

fn trim(server: &ServerArgs) -> Result<Exit, Failure> {
    let client = Client::of(server)?;
    let trimmed = runtime()?.block_on(client.post_patiently("/v1/log/trim", "", Bytes::new(), TRIM_WITHIN))?;
    super::line("the log begins at:")?;
    for start in trimmed["starts"].as_array().into_iter().flatten().filter_map(|start| start.as_str()) {
        super::line(&format!("  {start}"))?;
    }
    Ok(Exit::Done)
}

/// Where records are read.
enum Source {
    Files(LogReader),
    Kafka(Box<KafkaReader>),
}

impl Source {
    fn open_files(data_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self::Files(LogReader::open(&data_dir.join("log"))?))
    }

    fn partitions(&self, topic: Topic) -> u16 {
        match self {
            Self::Files(reader) => reader.partitions(topic),
            Self::Kafka(reader) => reader.partitions(topic),
        }
    }

    /// One past the last record.
    fn end(&self, partition: Partition) -> anyhow::Result<Offset> {
        match self {
            Self::Kafka(reader) => Ok(reader.bounds(partition)?.1),
            Self::Files(reader) => {
                let mut end = Offset(0);
                reader.read(partition, Offset(0), &mut |record| {
                    end = record.offset.next();
                    ControlFlow::Continue(())
                })?;
                Ok(end)
            }
        }
    }

    /// Visits what is there from an offset on.
    fn read(
        &self,
        partition: Partition,
        from: Offset,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Kafka(reader) => reader.read(partition, from, visit)?,
            Self::Files(reader) => {
                if let Ending::Invalid { path, position, reason } = reader.read(partition, from, visit)? {
                    let path = path.display();
                    tracing::debug!(%path, position, reason, "the end is no valid record: being written, or cut off");
                }
            }
        }
        Ok(())
    }
}

/// Where a partition is.
struct Place {
    next: Offset,
    left: u64,
}

struct Look<'a> {
    args: &'a LogArgs,
    source: Source,
    places: BTreeMap<Partition, Place>,
}

impl<'a> Look<'a> {
    fn new(args: &'a LogArgs, source: Source) -> anyhow::Result<Self> {
        let partitions: Vec<Partition> = match args.partition {
            Some(partition) => vec![partition],
            None => Topic::ALL
                .into_iter()
                .flat_map(|topic| (0..source.partitions(topic)).map(move |index| Partition { topic, index }))
                .collect(),
        };
        let left = args.limit.unwrap_or(if args.follow { u64::MAX } else { LIMIT_DEFAULT });
        let mut places = BTreeMap::new();
        for partition in partitions {
            let next = match args.from {
                None if args.follow => source.end(partition)?,
                from => Offset(from.unwrap_or(0)),
            };
            places.insert(partition, Place { next, left });
        }
        Ok(Self { args, source, places })
    }

    fn show(&mut self) -> anyhow::Result<()> {
        let args = self.args;
        loop {
            for (&partition, place) in self.places.iter_mut().filter(|(_, place)| place.left > 0) {
                let from = place.next;
                let mut printed = Ok(());
                let mut visit = |record: Record<'_>| {
                    place.next = record.offset.next();
                    place.left -= 1;
                    let form = if args.json { as_json } else { as_text };
                    printed = super::line(&form(partition, record, args.body));
                    if printed.is_err() || place.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                let read = self.source.read(partition, from, &mut visit);
                printed?;
                read.with_context(|| format!("partition {partition} from offset {from}"))?;
            }
            if !args.follow || self.places.values().all(|place| place.left == 0) {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
