//! The sample, the page on configuration and the options are the same list of keys and defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use barrage::cli::ConfigArgs;
use barrage::config::{Config, load};
use toml::{Table, Value};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sample() -> String {
    std::fs::read_to_string(root().join("deploy/samples/barrage.toml")).expect("the sample")
}

/// Every key of the options, as the options themselves tell when they meet one that is none.
fn keys() -> BTreeSet<String> {
    let fields = |text: &str| -> Vec<String> {
        let error = toml::from_str::<Config>(text).expect_err("`no_such_key` is no key").to_string();
        let list = error.split("expected ").nth(1).expect("serde lists the fields");
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut keys = BTreeSet::new();
    for name in fields("no_such_key = 1") {
        match name.as_str() {
            "data_dir" => drop(keys.insert(name)),
            // Rules have a page of their own: `default.toml`, line by line.
            "rules" => {}
            section => {
                let found = fields(&format!("[{section}]\nno_such_key = 1"));
                keys.extend(found.into_iter().map(|key| format!("{section}.{key}")));
            }
        }
    }
    keys
}

/// Keys of the page with the text of their defaults.
fn documented() -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("the page");
    let mut section = String::new();
    let mut found = BTreeMap::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section =
                title.strip_prefix("`[").and_then(|t| t.strip_suffix("]`")).map_or(String::new(), |s| format!("{s}."));
        }
        let cells: Vec<&str> = line.split(" | ").collect();
        if let Some(key) = cells[0].strip_prefix("| `").and_then(|k| k.strip_suffix('`')) {
            assert_eq!(cells.len(), 4, "a row has key, default, range and why: {line}");
            assert!(cells[2].len() > 1 && cells[3].len() > 20, "range and reason of {section}{key}");
            found.insert(format!("{section}{key}"), cells[1].trim_matches('`').to_owned());
        }
    }
    found
}

#[test]
fn the_sample_is_valid_and_holds_the_defaults() {
    let args = ConfigArgs { config: Some(root().join("deploy/samples/barrage.toml")), ..ConfigArgs::default() };
    let loaded = load(&args, std::iter::empty()).expect("the sample is valid");
    assert_eq!(format!("{:?}", loaded.config), format!("{:?}", Config::default()));
}

#[test]
fn the_page_describes_every_key_and_no_other() {
    assert_eq!(documented().into_keys().collect::<BTreeSet<_>>(), keys());
}

#[test]
fn the_page_names_the_defaults_of_the_sample() {
    // The section of Kafka is there as a comment, since its presence means something.
    let text: String = sample()
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let sample: Table = text.parse().expect("TOML");
    for (key, default) in documented() {
        let value = match key.split_once('.') {
            None => sample.get(&key),
            Some((section, key)) => sample.get(section).and_then(|section| section.get(key)),
        };
        if default == "none" {
            assert_eq!(value, None, "{key}");
            continue;
        }
        let documented: Option<Value> = format!("x = {default}").parse::<Table>().ok().and_then(|mut t| t.remove("x"));
        assert!(documented.is_some(), "{key}: `{default}` is no value");
        assert_eq!(value, documented.as_ref(), "{key}");
    }
}
