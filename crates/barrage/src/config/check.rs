//! Whether the values make sense: every section's own ranges, and what they mean together.

use barrage_ingest::check_exposure;
use barrage_log::OpenError;

use super::{Config, Problem, Sources};

/// Everything that is wrong, each with where it came from.
pub(super) fn problems(config: &Config, sources: &Sources) -> Vec<Problem> {
    let mut found: Vec<(String, String)> = Vec::new();
    if let Err(error) = config.log.check() {
        found.push(match error {
            OpenError::Option { option, value, reason } => (format!("log.{option}"), format!("is {value}: {reason}")),
            error => ("log".to_owned(), error.to_string()),
        });
    }
    if let Some(Err(error)) = config.kafka.as_ref().map(barrage_log::KafkaOptions::check) {
        found.push(match error {
            OpenError::Option { option, value, reason } => (format!("kafka.{option}"), format!("is {value}: {reason}")),
            error => ("kafka".to_owned(), error.to_string()),
        });
    }
    found.extend(config.snapshot.problems().into_iter().map(|(key, reason)| (format!("snapshot.{key}"), reason)));
    if config.snapshot.trim_log_every_s > 0 {
        let why = match (&config.snapshot.url, &config.kafka) {
            (None, _) => Some("the log is trimmed behind snapshots only: set snapshot.url"),
            (_, Some(_)) => Some("what Kafka keeps is the topics' own setting: leave it out"),
            (Some(_), None) => None,
        };
        found.extend(why.map(|why| ("snapshot.trim_log_every_s".to_owned(), why.to_owned())));
    }
    found.extend(config.spool.problems().into_iter().map(|(key, reason)| (format!("spool.{key}"), reason)));
    if config
        .listen
        .grpc_advertise
        .as_ref()
        .is_some_and(|text| text.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()))
    {
        found.push(("listen.grpc_advertise".to_owned(), "it must be HOST:PORT".to_owned()));
    }
    if let Err(error) = config.ingest.check() {
        found.push((format!("ingest.{}", error.option), error.reason));
    }
    found.extend(config.worker.problems().into_iter().map(|(key, reason)| (format!("worker.{key}"), reason)));
    let checked = [("query", config.query.check()), ("grpc", config.grpc.check()), ("admin", config.admin.check())];
    for (section, checked) in checked {
        if let Err(error) = checked {
            found.push((format!("{section}.{}", error.option), error.to_string()));
        }
    }
    if let Err(reason) = crate::logging::check(&config.diagnostics.filter) {
        found.push(("diagnostics.filter".to_owned(), reason));
    }
    if config.data_dir.as_os_str().is_empty() {
        found.push(("data_dir".to_owned(), "is empty: name a directory".to_owned()));
    }
    listen_problems(config, &mut found);
    if let Some(rules) = &config.rules
        && let Err(mistakes) = rules.validate()
    {
        found.extend(mistakes.into_iter().map(|m| (format!("rules.{}", m.field), m.problem)));
    }
    found.into_iter().map(|(key, message)| Problem { origin: sources.origin(&key), key, message }).collect()
}

fn listen_problems(config: &Config, found: &mut Vec<(String, String)>) {
    let listen = &config.listen;
    let mut all = vec![("listen.callback", listen.callback), ("listen.query", listen.query)];
    all.extend(listen.grpc.map(|addr| ("listen.grpc", addr)));
    all.push(("listen.admin", listen.admin));
    for (i, (key, addr)) in all.iter().enumerate() {
        if addr.port() != 0
            && let Some((other, _)) = all[..i].iter().find(|(_, other)| other == addr)
        {
            found.push(((*key).to_owned(), format!("{addr} is {other} already")));
        }
        let (token, apps) = (config.ingest.has_token(), config.ingest.has_allow_list());
        if let Err(error) = check_exposure(*addr, token, apps) {
            found.push(((*key).to_owned(), error.to_string()));
        }
    }
}
