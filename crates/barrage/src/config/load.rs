//! Puts the configuration together: defaults, then the file, then the environment, then flags.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::locate::{Entry, entries, entry_at, line_column};
use super::{Config, Origin, Problem, Problems, check};
use crate::cli::ConfigArgs;

/// Sections that the environment can set, as `BARRAGE_SECTION_KEY`.
const SECTIONS: [&str; 11] =
    ["listen", "log", "kafka", "ingest", "spool", "worker", "snapshot", "query", "grpc", "admin", "diagnostics"];
/// The key outside of every section.
const DATA_DIR: &str = "BARRAGE_DATA_DIR";
/// Variables with this start that are read elsewhere.
const OTHER_VARIABLES: [&str; 4] =
    ["BARRAGE_API_KEY", "BARRAGE_CONFIG", "BARRAGE_CALLBACK_TOKEN", "BARRAGE_RECORDINGS"];
/// Most problems of one file that are listed.
const PROBLEMS_MAX: usize = 50;
/// Largest configuration file, in bytes: 4 MiB. Banned words may be many; anything larger is not a configuration.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A loaded configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file, when there is one.
    pub file: Option<PathBuf>,
    /// What an operator should know but what stops nothing.
    pub warnings: Vec<String>,
}

/// Knows where each value came from, for messages about it.
#[derive(Debug, Default)]
pub struct Sources {
    file: Option<(PathBuf, String)>,
    entries: Vec<Entry>,
    environment: Vec<(String, String)>,
    flags: Vec<(&'static str, &'static str)>,
}

impl Sources {
    /// Where the value of `key` came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        if let Some((_, flag)) = self.flags.iter().find(|(k, _)| *k == key) {
            return Origin::Flag(flag);
        }
        if let Some((name, _)) = self.environment.iter().find(|(_, k)| k == key) {
            return Origin::Environment(name.clone());
        }
        match (&self.file, super::locate::entry_of(&self.entries, key)) {
            (Some(_), Some(entry)) => self.place(entry.start()),
            _ => Origin::Default,
        }
    }

    fn place(&self, offset: usize) -> Origin {
        self.file.as_ref().map_or(Origin::Default, |(path, text)| {
            let (line, column) = line_column(text, offset);
            Origin::File { path: path.clone(), line, column }
        })
    }
}

/// Loads and checks the configuration. `environment` is every variable of the process.
///
/// # Errors
/// Every problem that was found, each with its place.
pub fn load(args: &ConfigArgs, environment: impl Iterator<Item = (String, String)>) -> Result<Loaded, Problems> {
    let mut sources = Sources::default();
    let mut table = match &args.config {
        Some(path) => read_file(path, &mut sources)?,
        None => Table::new(),
    };
    let warnings = merge_environment(&mut table, environment, &mut sources)?;
    let mut config: Config = table.try_into().map_err(|e: toml::de::Error| {
        one(Problem { origin: Origin::Default, key: String::new(), message: e.message().to_owned() })
    })?;
    merge_flags(&mut config, args, &mut sources);
    let problems = check::problems(&config, &sources);
    if problems.is_empty() {
        Ok(Loaded { config, file: args.config.clone(), warnings })
    } else {
        Err(Problems(problems))
    }
}

fn one(problem: Problem) -> Problems {
    Problems(vec![problem])
}

fn read_file(path: &Path, sources: &mut Sources) -> Result<Table, Problems> {
    let unreadable =
        |message: String| one(Problem { origin: Origin::WholeFile(path.to_owned()), key: String::new(), message });
    let size = std::fs::metadata(path).map_err(|e| unreadable(format!("cannot be read: {e}")))?.len();
    if size > FILE_BYTES_MAX {
        return Err(unreadable(format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(format!("cannot be read: {e}")))?;
    sources.entries = entries(&text);
    sources.file = Some((path.to_owned(), text.clone()));
    let problems = file_problems(text.clone(), sources);
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    text.parse().map_err(|e: toml::de::Error| unreadable(e.message().to_owned()))
}

/// Every problem of the file alone. A key that does not fit is noted and blanked out, which keeps the places of all
/// others, and the rest is tried again; when that cannot be done, the list ends there.
fn file_problems(mut text: String, sources: &Sources) -> Vec<Problem> {
    let mut problems = Vec::new();
    while problems.len() < PROBLEMS_MAX {
        let Err(error) = toml::from_str::<Config>(&text) else { break };
        let entries = entries(&text);
        if entries.is_empty() && !problems.is_empty() {
            break; // Blanking broke an inline table: what follows would not be the file's own mistake.
        }
        let offset = error.span().map_or(0, |span| span.start);
        let entry = entry_at(&entries, offset);
        problems.push(Problem {
            origin: sources.place(offset),
            key: entry.map_or_else(String::new, |e| e.path.clone()),
            message: error.message().to_owned(),
        });
        let Some(leaf) = entry.and_then(|e| e.leaf.clone()) else { break };
        let blank: String = text[leaf.clone()].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        // Columns of later keys on the line may shift when a character of several bytes was blanked; lines never do.
        text.replace_range(leaf, &blank);
    }
    problems
}

fn merge_environment(
    table: &mut Table,
    environment: impl Iterator<Item = (String, String)>,
    sources: &mut Sources,
) -> Result<Vec<String>, Problems> {
    let mut ours: Vec<(String, String)> = environment.filter(|(name, _)| name.starts_with("BARRAGE_")).collect();
    ours.sort();
    let mut warnings = Vec::new();
    let mut problems = Vec::new();
    for (name, text) in ours {
        if OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let Some(path) = key_of_variable(&name) else {
            warnings.push(format!("environment {name} is no key of the configuration and was ignored"));
            continue;
        };
        match with_value(table, &path, &text) {
            Ok(changed) => {
                *table = changed;
                sources.environment.push((name, path));
            }
            Err(message) => problems.push(Problem { origin: Origin::Environment(name), key: path, message }),
        }
    }
    if problems.is_empty() { Ok(warnings) } else { Err(Problems(problems)) }
}

/// `BARRAGE_LOG_ROOM_PARTITIONS` is `log.room_partitions`.
fn key_of_variable(name: &str) -> Option<String> {
    if name == DATA_DIR {
        return Some("data_dir".to_owned());
    }
    let lower = name.strip_prefix("BARRAGE_")?.to_ascii_lowercase();
    let (section, key) = lower.split_once('_')?;
    (SECTIONS.contains(&section) && !key.is_empty()).then(|| format!("{section}.{key}"))
}

/// The table with the value set. The text is a TOML value (a number, `true`, `[1, 2]`) when that fits the key, else it is
/// taken as it stands: nobody wants to quote a token twice.
fn with_value(table: &Table, path: &str, text: &str) -> Result<Table, String> {
    let parsed = format!("x = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("x"));
    let mut first_error = None;
    for value in parsed.into_iter().chain([Value::String(text.to_owned())]) {
        let mut changed = table.clone();
        set(&mut changed, path, value);
        match changed.clone().try_into::<Config>() {
            Ok(_) => return Ok(changed),
            Err(error) => drop(first_error.get_or_insert_with(|| error.message().to_owned())),
        }
    }
    Err(first_error.unwrap_or_default())
}

fn set(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(table.insert(path.to_owned(), value)),
        Some((section, key)) => {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(key.to_owned(), value);
            }
        }
    }
}

fn merge_flags(config: &mut Config, args: &ConfigArgs, sources: &mut Sources) {
    fn merge<T: Clone>(flag: Option<&T>, to: &mut T, key: (&'static str, &'static str), sources: &mut Sources) {
        if let Some(value) = flag {
            to.clone_from(value);
            sources.flags.push(key);
        }
    }
    let listen = &mut config.listen;
    merge(args.data_dir.as_ref(), &mut config.data_dir, ("data_dir", "--data-dir"), sources);
    merge(args.callback_listen.as_ref(), &mut listen.callback, ("listen.callback", "--callback-listen"), sources);
    merge(args.query_listen.as_ref(), &mut listen.query, ("listen.query", "--query-listen"), sources);
    merge(args.grpc_listen.map(Some).as_ref(), &mut listen.grpc, ("listen.grpc", "--grpc-listen"), sources);
    merge(
        args.grpc_advertise.clone().map(Some).as_ref(),
        &mut listen.grpc_advertise,
        ("listen.grpc_advertise", "--grpc-advertise"),
        sources,
    );
    merge(args.admin_listen.as_ref(), &mut listen.admin, ("listen.admin", "--admin-listen"), sources);
    if let Some(brokers) = &args.brokers {
        config.kafka.get_or_insert_default().brokers.clone_from(brokers);
        sources.flags.push(("kafka.brokers", "--brokers"));
    }
    let diagnostics = &mut config.diagnostics;
    merge(args.log_format.as_ref(), &mut diagnostics.format, ("diagnostics.format", "--log-format"), sources);
    merge(args.log_filter.as_ref(), &mut diagnostics.filter, ("diagnostics.filter", "--log-filter"), sources);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>().into_iter()
    }

    fn file(text: &str) -> (tempfile::TempDir, ConfigArgs) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("barrage.toml");
        std::fs::write(&path, text).expect("written");
        (dir, ConfigArgs { config: Some(path), ..ConfigArgs::default() })
    }

    fn problems(text: &str, pairs: &[(&str, &str)]) -> Vec<String> {
        let (dir, args) = file(text);
        let prefix = format!("{}/", dir.path().display());
        match load(&args, variables(pairs)) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.0.iter().map(|p| p.to_string().replace(&prefix, "")).collect(),
        }
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_file() {
        let (_dir, mut args) =
            file("data_dir = \"file\"\n[listen]\ncallback = \"127.0.0.1:1\"\nquery = \"127.0.0.1:2\"\n");
        args.query_listen = Some(([127, 0, 0, 1], 22).into());
        let pairs = [("BARRAGE_LISTEN_CALLBACK", "127.0.0.1:11"), ("BARRAGE_LISTEN_QUERY", "127.0.0.1:12")];
        let config = load(&args, variables(&pairs)).expect("valid").config;
        assert_eq!(config.data_dir, PathBuf::from("file"));
        assert_eq!(config.listen.callback.port(), 11);
        assert_eq!(config.listen.query.port(), 22);
        assert_eq!(config.listen.admin.port(), 8083);
    }

    #[test]
    fn every_problem_of_a_file_is_listed_with_line_column_and_key() {
        let text = "\
data_dirr = \"x\"
[log]
room_partitions = \"four\"
user_partitions = 2
segment = 1
[worker]
threads = -1
";
        let found = problems(text, &[]);
        let starts = [
            "barrage.toml:1:1: data_dirr: unknown field",
            "barrage.toml:3:19: log.room_partitions: invalid type",
            "barrage.toml:5:1: log.segment: unknown field",
            "barrage.toml:7:11: worker.threads: invalid value",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (found, start) in found.iter().zip(starts) {
            assert!(found.starts_with(start), "{found} should start with {start}");
        }
    }

    #[test]
    fn text_that_is_not_toml_is_named_with_its_line() {
        let found = problems("[log]\nroom_partitions = = 4\n", &[]);
        assert!(found[0].starts_with("barrage.toml:2:"), "{found:?}");
    }

    #[test]
    fn values_out_of_range_are_named_with_where_they_came_from() {
        let found = problems("[worker]\ncommit_interval_ms = 0\n[log]\n room_partitions = 0\n", &[]);
        assert!(found.iter().any(|p| p.starts_with("barrage.toml:4:2: log.room_partitions: ")), "{found:?}");
        assert!(found.iter().any(|p| p.starts_with("barrage.toml:2:1: worker.commit_interval_ms: ")), "{found:?}");
        let found = problems("", &[("BARRAGE_LOG_ROOM_PARTITIONS", "0")]);
        assert!(found[0].starts_with("environment BARRAGE_LOG_ROOM_PARTITIONS: log.room_partitions: "), "{found:?}");
    }

    #[test]
    fn variables_that_do_not_fit_are_errors_and_unknown_ones_are_warnings() {
        for (name, value) in [
            ("BARRAGE_LOG_ROOM_PARTITIONS", "many"),
            ("BARRAGE_LOG_NO_SUCH_KEY", "1"),
            ("BARRAGE_LISTEN_QUERY", "8081"),
        ] {
            let found = problems("", &[(name, value)]);
            assert!(found.len() == 1 && found[0].starts_with(&format!("environment {name}: ")), "{name}: {found:?}");
        }
        let loaded = load(&ConfigArgs::default(), variables(&[("BARRAGE_COLOUR", "red"), ("BARRAGE_API_KEY", "k")]));
        let warnings = loaded.expect("valid").warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("BARRAGE_COLOUR"), "{warnings:?}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let args = ConfigArgs { config: Some(PathBuf::from("/no/such/file")), ..ConfigArgs::default() };
        let problems = load(&args, variables(&[])).expect_err("no file");
        assert!(problems.to_string().starts_with("/no/such/file: cannot be read"), "{problems}");
    }
}
