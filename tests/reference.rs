//! What is written down of the program is what it does: its help, and the names of its metrics.
//!
//! `RENEW=1 cargo test --test reference` writes both files anew; the difference is for a person to read.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use barrage::cli::Cli;
use barrage_kafka_fixture::{Broker, prefix};
use clap::CommandFactory as _;
use common::cluster::Cluster;
use common::{Server, get_text, run};

fn renewing() -> bool {
    std::env::var_os("RENEW").is_some()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The paths of all commands, those that are only groups too.
fn commands(command: &clap::Command, path: &[String], all: &mut Vec<Vec<String>>) {
    all.push(path.to_vec());
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let deeper = [path, &[command.get_name().to_owned()]].concat();
        commands(command, &deeper, all);
    }
}

#[test]
fn help_is_what_was_agreed_on() {
    let mut all = Vec::new();
    commands(&Cli::command(), &[], &mut all);
    let mut text = String::new();
    for path in all {
        let (code, help) = run(path.iter().map(String::as_str).chain(["--help"]));
        assert_eq!(code, 0, "{path:?}: {help}");
        text.push_str(&format!(
            "$ barrage {}\n\n{}\n\n",
            [path, vec!["--help".to_owned()]].concat().join(" "),
            help.trim_end()
        ));
    }
    // Trailing spaces are an accident of the wrapping.
    let text: String = text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
    let file = root().join("crates/barrage/tests/help.txt");
    if renewing() {
        std::fs::write(&file, &text).expect("written");
    }
    let agreed = std::fs::read_to_string(&file).expect("the file");
    let different = agreed.lines().zip(text.lines()).enumerate().find(|(_, (agreed, said))| agreed != said);
    assert!(
        agreed == text,
        "the help is another than in crates/barrage/tests/help.txt, first {different:?}; RENEW=1 writes it anew"
    );
}

/// A metric as `/metrics` describes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Described {
    kind: String,
    help: String,
    roles: BTreeSet<&'static str>,
}

type Metrics = BTreeMap<String, Described>;

/// Enters what a process tells.
fn scrape(admin: &str, role: &'static str, all: &mut Metrics) {
    let (status, text) = get_text(admin, "/metrics");
    assert_eq!(status, 200);
    let mut help = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(said)) => {
                help.insert(name.to_owned(), said.trim_end_matches('.').to_owned());
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let full = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
                let help = help.get(name).cloned().unwrap_or_default();
                let row = Described { kind: kind.to_owned(), help, roles: BTreeSet::new() };
                let row = all.entry(full.clone()).or_insert(row);
                assert_eq!(row.kind, kind, "{full} is one thing everywhere");
                row.roles.insert(role);
            }
            _ => {}
        }
    }
}

/// Rows of the page: name, and the cells behind it.
fn documented(page: &str) -> BTreeMap<String, Vec<String>> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|line| {
        let mut cells = line.trim_end_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`').to_owned());
        (cells.next().expect("a name"), cells.collect())
    })
    .collect()
}

fn row(name: &str, described: &Described) -> Vec<String> {
    let roles: Vec<&str> = described.roles.iter().copied().collect();
    vec![name.to_owned(), described.kind.clone(), roles.join(", "), described.help.clone()]
}

#[test]
fn the_page_lists_the_metrics_of_every_role() {
    let mut all = Metrics::new();
    let broker = Broker::start(1);
    let dir = tempfile::tempdir().expect("a directory");
    let evening = dir.path().join("evening.jsonl");
    assert_eq!(run(["simulate", "--preset", "small", "--out", evening.to_str().expect("UTF-8")]).0, 0);
    let alone = Server::start(&dir.path().join("alone"));
    alone.replay(&evening);
    alone.drained();
    let cluster = Cluster::start(dir.path(), &broker.brokers(), &prefix(), (1, 1, 1));
    let played = common::run_with(
        [
            "replay",
            evening.to_str().expect("UTF-8"),
            "--to",
            &cluster.balancer.url,
            "--query",
            cluster.query(),
            "--quiet",
        ],
        &[("BARRAGE_API_KEY", common::cluster::KEY)],
    );
    assert_eq!(played.0, 0, "{}", played.1);
    cluster.drained();
    // A log and a group of its own: one more member of the cluster's would make its projector give partitions back.
    let mut own = cluster.environment.clone();
    let its = prefix();
    own.push(("BARRAGE_KAFKA_GROUP_ID".to_owned(), format!("{its}run")));
    own.push(("BARRAGE_KAFKA_TOPIC_PREFIX".to_owned(), its));
    let on_kafka = common::cluster::Process::start("run", &dir.path().join("run"), &broker.brokers(), &own);
    common::get(on_kafka.query.as_deref().expect("reads"), "/v1/status");
    // A snapshot is taken every 2 s, and tells of itself then.
    common::wait_until("a snapshot was taken", || {
        (cluster.projectors[0].metric("barrage_snapshot_last_timestamp_seconds") > 0.0
            && on_kafka.metric("barrage_snapshot_last_timestamp_seconds") > 0.0)
            .then_some(())
    });
    scrape(&alone.admin, "run", &mut all);
    scrape(&on_kafka.admin, "run", &mut all);
    scrape(&cluster.ingests[0].admin, "ingest", &mut all);
    scrape(&cluster.projectors[0].admin, "project", &mut all);
    scrape(&cluster.queries[0].admin, "query", &mut all);
    assert!(all.len() > 50, "{all:#?}");

    let file = root().join("docs/metrics.md");
    if renewing() {
        renew(&file, &all);
    }
    let page = documented(&std::fs::read_to_string(&file).expect("the page"));
    for (name, described) in &all {
        let wanted = row(name, described).split_off(1);
        assert_eq!(page.get(name), Some(&wanted), "{name} in docs/metrics.md; RENEW=1 writes the page anew");
    }
    // What is only told once it has happened was not seen here, and says so.
    let unseen: Vec<&String> = page
        .iter()
        .filter(|(name, cells)| !all.contains_key(*name) && cells.get(1).is_none_or(|roles| roles != "once it happens"))
        .map(|(name, _)| name)
        .collect();
    assert!(unseen.is_empty(), "no process has {unseen:?}");
    cluster.stop();
    alone.stop();
}

/// Writes the rows of the page anew; those that say *once it happens* stay.
fn renew(file: &Path, all: &Metrics) {
    let page = std::fs::read_to_string(file).expect("the page");
    let (head, _) = page.split_once("| name |").expect("a table");
    let mut rows: BTreeMap<String, Vec<String>> = documented(&page)
        .into_iter()
        .filter(|(_, cells)| cells.get(1).is_some_and(|roles| roles == "once it happens"))
        .map(|(name, cells)| (name.clone(), [vec![name], cells].concat()))
        .collect();
    rows.extend(all.iter().map(|(name, described)| (name.clone(), row(name, described))));
    let mut text = format!("{head}| name | kind | roles | what |\n| --- | --- | --- | --- |\n");
    for cells in rows.into_values() {
        let [name, kind, roles, what] = cells.as_slice() else { panic!("four cells: {cells:?}") };
        text.push_str(&format!("| `{name}` | {kind} | {roles} | {what} |\n"));
    }
    std::fs::write(file, text).expect("written");
}

/// What a source file says in lines of level `warn` and `error`: of each the longest literal, which is its message.
fn log_lines(source: &str) -> Vec<String> {
    let calls = source.match_indices("tracing::warn!(").chain(source.match_indices("tracing::error!("));
    calls
        .map(|(start, call)| {
            let mut chars = source[start + call.len()..].chars().peekable();
            let (mut depth, mut inside, mut longest, mut text) = (1, false, String::new(), String::new());
            while depth > 0 {
                match chars.next().expect("a call ends") {
                    '"' if inside => {
                        inside = false;
                        if text.len() > longest.len() {
                            longest = std::mem::take(&mut text);
                        }
                    }
                    // A literal that goes on in the next line does so behind the indent.
                    '\\' if inside => match chars.next() {
                        Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                        escaped => text.extend(escaped),
                    },
                    c if inside => text.push(c),
                    '"' => {
                        inside = true;
                        text.clear();
                    }
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
            }
            longest
        })
        .collect()
}

/// The words of a text, without what is filled in, punctuation and case.
fn words(text: &str) -> Vec<String> {
    let mut depth = 0;
    let plain: String = text
        .chars()
        .map(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth > 0 || c == '}' { ' ' } else { c }
        })
        .collect();
    let trimmed = plain.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
    trimmed.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

fn sources(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
}

/// Words in a row that the page has to have in common with a line: a row of its tables may shorten it.
const WORDS_IN_COMMON: usize = 5;

#[test]
fn operations_lists_every_line_of_the_log() {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).expect("the page");
    let (_, tables) = page.split_once("\n## Log lines and errors").expect("the section");
    let known = words(tables);
    let (mut files, mut seen, mut missing) = (Vec::new(), 0, Vec::new());
    for entry in std::fs::read_dir(root().join("crates")).expect("the crates") {
        sources(&entry.expect("an entry").path().join("src"), &mut files);
    }
    for file in files {
        for line in log_lines(&std::fs::read_to_string(&file).expect("a source")) {
            let said = words(&line);
            // Those that only hand on a sentence, and what only tests can bring about.
            if said.len() < 3 || line == "the fault on demand did not happen" {
                continue;
            }
            seen += 1;
            let length = said.len().min(WORDS_IN_COMMON);
            let told = said.windows(length).any(|part| known.windows(length).any(|there| there == part));
            if !told {
                missing.push(format!("{}: {line}", file.display()));
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(missing.is_empty(), "docs/operations.md has no row for {missing:#?}");
}

/// Every word that is written like a metric of ours.
fn metric_names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut found = BTreeSet::new();
    for (start, _) in text.match_indices("barrage_") {
        let before = text[..start].chars().next_back();
        if before.is_some_and(|c| is_name(c) || matches!(c, '.' | '/' | ':' | '-')) {
            continue;
        }
        let name: String = text[start..].chars().take_while(|c| is_name(*c)).collect();
        found.insert(name.trim_end_matches('_').to_owned());
    }
    found
}

#[test]
fn alerts_and_pages_name_metrics_that_there_are() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let known: BTreeSet<String> = documented(&read("docs/metrics.md")).into_keys().collect();
    assert!(known.len() > 50);
    // Log targets, as in `barrage_ingest=debug`, and secrets of the compose file are no metrics.
    let others = ["barrage_ingest", "barrage_api_key", "barrage_callback_token", "barrage_previous_callback_token"];
    let dashboard = "deploy/grafana/barrage.json";
    assert!(serde_json::from_str::<serde_json::Value>(&read(dashboard)).is_ok(), "{dashboard} is no JSON");
    for path in ["docs/operations.md", "docs/sizing.md", "deploy/prometheus/alerts.yml", dashboard] {
        let unknown: Vec<String> = metric_names(&read(path))
            .into_iter()
            .filter(|name| !others.contains(&name.as_str()))
            .filter(|name| {
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending));
                !known.contains(name) && !family.is_some_and(|family| known.contains(family))
            })
            .collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}, which docs/metrics.md does not");
    }
}
