//! The command line. What it says is what `--help` prints, so the comments here are for users.
#![expect(clippy::doc_markdown, reason = "help is read in a terminal, where back-ticks are noise")]

use std::net::SocketAddr;
use std::path::PathBuf;

use barrage_event::Partition;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

/// Live-room numbers from the callbacks of an IM service.
#[derive(Debug, Parser)]
#[command(name = "barrage", version, propagate_version = true, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done; for servers: stopped on request, everything accepted is in the log
  1   it failed; the last line of standard error says why
  2   the command line is wrong
  3   the configuration is wrong; the messages name file, line and key
  4   done, but not everything was accepted or as expected (refused lines, a rebuild with another hash)
  130 interrupted";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs everything in one process: callbacks in, numbers out. On the embedded log, or on Kafka with --brokers.
    Run(RunArgs),
    /// Takes callbacks and puts them into Kafka; any number of these, each with a disk for its spool.
    Ingest(RunArgs),
    /// Computes the numbers of its share of the partitions; any number of these, each with a disk for its stores.
    Project(RunArgs),
    /// Answers reads by asking whoever has the partition; any number of these.
    Query(RunArgs),
    /// Sends recordings over real HTTP, in their own time, and shows the numbers as they grow.
    Replay(ReplayArgs),
    /// Makes a seeded live evening, as a recording or straight to a server.
    Simulate(SimulateArgs),
    /// Shows, checks and changes the rules that say what the numbers mean.
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Rebuilds the numbers of one or all partitions from the log, beside the live ones.
    Rebuild(RebuildArgs),
    /// Lists, takes and verifies snapshots: copies of the numbers in the object store.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Lists the events that a statistic could not apply.
    DeadLetters(DeadLettersArgs),
    /// Looks into the log, of a data directory or in Kafka; a running server is not disturbed.
    Log(LogArgs),
    /// Checks the configuration without starting anything.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prints the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Where the configuration comes from. Flags win over the environment, which wins over the file.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML); docs/configuration.md describes every key.
    #[arg(long, env = "BARRAGE_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Directory of the log, the numbers and the API key [default: data].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
    /// Address for callbacks and business events [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    pub callback_listen: Option<SocketAddr>,
    /// Address for reads [default: 127.0.0.1:8081].
    #[arg(long, value_name = "ADDR")]
    pub query_listen: Option<SocketAddr>,
    /// Address for questions of other processes, over gRPC [default: on Kafka 127.0.0.1:8082, else none].
    #[arg(long, value_name = "ADDR")]
    pub grpc_listen: Option<SocketAddr>,
    /// HOST:PORT at which other processes reach --grpc-listen [default: the address itself].
    #[arg(long, value_name = "HOST:PORT")]
    pub grpc_advertise: Option<String>,
    /// Kafka: HOST:PORT of some brokers, separated by commas. `run` uses the embedded log without it.
    #[arg(long, value_name = "HOST:PORT,...")]
    pub brokers: Option<String>,
    /// Address for metrics and health [default: 127.0.0.1:8083].
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Option<SocketAddr>,
    /// Form of the log lines on standard error [default: text].
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<LogFormat>,
    /// Which log lines, as in `info` or `barrage_ingest=debug,info` [default: info].
    #[arg(long, value_name = "FILTER")]
    pub log_filter: Option<String>,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `barrage run`, `ingest`, `project` and `query`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Written as a whole when every port listens: JSON with `callback`, `query`, `admin` (URLs), `grpc` and `pid`.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub ready_file: Option<PathBuf>,
}

/// How a command reaches a running server.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Query service of the server.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081")]
    pub query: String,
    /// Data directory of a server on this machine: its API key is used when BARRAGE_API_KEY is not set.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
}

/// How a recording or an evening is sent.
#[derive(Debug, Clone, Args)]
pub struct SendArgs {
    /// Times real time, or `max`: as fast as answers come, with the recording's order kept.
    #[arg(long, value_name = "N|max", default_value = "max")]
    pub speed: Speed,
    /// Connections to the server.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Moves the times so that the first line is sent at this ms since the epoch, or `now`.
    #[arg(long, value_name = "MS|now")]
    pub shift: Option<Shift>,
    /// The callback token of the server, when it checks signatures.
    #[arg(long, env = "BARRAGE_CALLBACK_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Shows no live table, only the summary.
    #[arg(long)]
    pub quiet: bool,
}

/// Pace of sending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// Times real time.
    Times(f64),
    /// As fast as answers come.
    Max,
}

impl std::str::FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse::<f64>() {
            Ok(times) if times.is_finite() && times > 0.0 && times <= 1e9 => Ok(Self::Times(times)),
            _ => Err("write a number above 0, as in 60 for an hour a minute, or `max`".to_owned()),
        }
    }
}

/// Where the times of a recording are moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    /// To the moment of sending.
    Now,
    /// To this ms since the epoch.
    To(i64),
}

impl std::str::FromStr for Shift {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "now" {
            return Ok(Self::Now);
        }
        match text.parse::<i64>() {
            Ok(ms) if (0..=barrage_query::TIME_MS_MAX).contains(&ms) => Ok(Self::To(ms)),
            _ => Err("write milliseconds since the epoch, or `now`".to_owned()),
        }
    }
}

/// `barrage replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// JSON lines, gzip or not, played one after the other.
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Where callbacks go.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub to: String,
    /// The server's query service and key.
    #[command(flatten)]
    pub server: ServerArgs,
    /// How it is sent.
    #[command(flatten)]
    pub send: SendArgs,
}

/// Size of a simulated evening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Some thousand callbacks: a look, or a test.
    Small,
    /// An evening on one machine.
    Default,
    /// Many rooms and viewers.
    Large,
}

/// `barrage simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The same seed gives the same bytes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Size of the evening.
    #[arg(long, value_enum, default_value_t = Preset::Default)]
    pub preset: Preset,
    /// Writes the recording to this file (gzip when it ends in .gz), `-` for standard output.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Writes what really happened in the evening, to compare with.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub expected: Option<PathBuf>,
    /// Sends the evening to this server; http://127.0.0.1:8080 when neither this nor --out is given.
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// The server's query service and key.
    #[command(flatten)]
    pub server: ServerArgs,
    /// How it is sent.
    #[command(flatten)]
    pub send: SendArgs,
}

/// `barrage rules`.
#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// Prints the rules in force.
    Show {
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
        /// Prints the rules that Barrage is shipped with, described line by line; needs no server.
        #[arg(long)]
        default: bool,
    },
    /// Checks a file of rules; needs no server.
    Check {
        /// The file.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Applies a file of rules: a new version, in force when every partition has it.
    Apply {
        /// The file.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Lists the versions that were ever in force.
    History {
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// `barrage rebuild`.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false)]
pub struct RebuildWhat {
    /// One partition, as in room/0.
    #[arg(long, value_name = "PARTITION")]
    pub partition: Option<Partition>,
    /// Every partition, one after the other.
    #[arg(long)]
    pub all: bool,
}

/// `barrage rebuild`.
#[derive(Debug, Args)]
pub struct RebuildArgs {
    /// What to rebuild.
    #[command(flatten)]
    pub what: RebuildWhat,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `barrage dead-letters`.
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    /// Only this partition, as in room/0.
    #[arg(long, value_name = "PARTITION")]
    pub partition: Option<Partition>,
    /// Most rows of a partition.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Where snapshots lie.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// Configuration file, whose snapshot.url it is.
    #[arg(long, env = "BARRAGE_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// A folder, or s3://BUCKET/PREFIX with the usual AWS_ variables [default: snapshot.url of the configuration].
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

/// One partition or all.
#[derive(Debug, Clone, Args)]
#[group(id = "which", required = true, multiple = false)]
pub struct WhichPartitions {
    /// One partition, as in room/0.
    #[arg(long, value_name = "PARTITION")]
    pub partition: Option<Partition>,
    /// Every partition.
    #[arg(long)]
    pub all: bool,
}

/// `barrage snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Lists the snapshots in the object store; needs no server.
    List {
        /// Where they lie.
        #[command(flatten)]
        place: PlaceArgs,
        /// Only this partition, as in room/0.
        #[arg(long, value_name = "PARTITION")]
        partition: Option<Partition>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Has a running server take snapshots now, and waits until they are complete.
    Take {
        /// Of what.
        #[command(flatten)]
        which: WhichPartitions,
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Brings snapshots back from the object store and computes their hashes anew from every row; needs no server.
    Verify {
        /// Where they lie.
        #[command(flatten)]
        place: PlaceArgs,
        /// Only this partition, as in room/0.
        #[arg(long, value_name = "PARTITION")]
        partition: Option<Partition>,
        /// Every snapshot, not only the newest of each partition.
        #[arg(long)]
        all: bool,
        /// Where there is room for the largest one [default: the system's directory for such].
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        temp_dir: Option<PathBuf>,
    },
}

/// What else is done with a log.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Has a running `barrage run` give up for good what its log holds behind verified snapshots.
    Trim {
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// `barrage log`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LogArgs {
    /// Something else than looking.
    #[command(subcommand)]
    pub command: Option<LogCommand>,
    /// Data directory whose log is read [default: that of the configuration, data].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
    /// Configuration file: its section `kafka` says how Kafka is reached.
    #[arg(long, env = "BARRAGE_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// The log in Kafka: HOST:PORT of some brokers, separated by commas.
    #[arg(long, value_name = "HOST:PORT,...", conflicts_with = "data_dir")]
    pub brokers: Option<String>,
    /// One partition, as in room/0; all when absent.
    #[arg(long, value_name = "PARTITION")]
    pub partition: Option<Partition>,
    /// First offset [default: the start; with --follow the end].
    #[arg(long, value_name = "OFFSET")]
    pub from: Option<u64>,
    /// Stops after so many records of each partition [default: 20; with --follow none].
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Goes on with records as they become durable, until interrupted.
    #[arg(long)]
    pub follow: bool,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// Shows the original body too.
    #[arg(long)]
    pub body: bool,
}

/// `barrage config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Checks file, environment and flags as `barrage run` would take them, rules included.
    Check {
        /// Configuration.
        #[command(flatten)]
        config: ConfigArgs,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn speeds_and_shifts_are_numbers_or_their_word() {
        let speeds = [("max", Some(Speed::Max)), ("60", Some(Speed::Times(60.0))), ("0.5", Some(Speed::Times(0.5)))];
        for (text, expected) in speeds.into_iter().chain(["", "0", "-1", "NaN", "inf", "fast"].map(|t| (t, None))) {
            assert_eq!(text.parse::<Speed>().ok(), expected, "{text:?}");
        }
        for (text, expected) in
            [("now", Some(Shift::Now)), ("0", Some(Shift::To(0))), ("-1", None), ("9999999999999999", None)]
        {
            assert_eq!(text.parse::<Shift>().ok(), expected, "{text:?}");
        }
    }
}
