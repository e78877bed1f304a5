//! What was measured: shown as it comes, as a table at the end, and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// What a figure should be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

impl Aim {
    fn reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(value) => format!("≥ {}", number(value)),
            Self::AtMost(value) => format!("≤ {}", number(value)),
        }
    }
}

/// One measured number.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    section: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<Aim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<bool>,
}

/// Where and with what was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Setting {
    pub(crate) machine: String,
    pub(crate) file_system: String,
    pub(crate) commit: String,
    pub(crate) seed: u64,
    pub(crate) quick: bool,
    pub(crate) server: String,
}

/// All numbers of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    setting: Setting,
    figures: Vec<Figure>,
    #[serde(skip)]
    section: &'static str,
}

impl Report {
    pub(crate) fn new(setting: Setting) -> Self {
        println!("machine      {}", setting.machine);
        println!("file system  {}", setting.file_system);
        println!("commit       {}", setting.commit);
        println!("seed         {}{}", setting.seed, if setting.quick { "   (quick: figures are rough)" } else { "" });
        println!("server       {}", setting.server);
        Self { setting, figures: Vec::new(), section: "" }
    }

    pub(crate) fn quick(&self) -> bool {
        self.setting.quick
    }

    /// Begins a section; `what` says in a sentence what is done.
    pub(crate) fn section(&mut self, name: &'static str, what: &str) {
        self.section = name;
        println!("\n== {name}: {what}");
    }

    /// Says something that is no figure.
    pub(crate) fn note(&self, text: &str) {
        println!("   {text}");
    }

    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.push(name.into(), value, unit, None);
    }

    pub(crate) fn aimed(&mut self, name: impl Into<String>, value: f64, unit: &'static str, aim: Aim) {
        self.push(name.into(), value, unit, Some(aim));
    }

    fn push(&mut self, name: String, value: f64, unit: &'static str, aim: Option<Aim>) {
        let reached = aim.map(|aim| aim.reached(value));
        let figure = Figure { section: self.section, name, value, unit, aim, reached };
        println!("{}", figure.line(64));
        self.figures.push(figure);
    }

    /// A figure of this run, by section and name.
    pub(crate) fn value(&self, section: &str, name: &str) -> Option<f64> {
        self.figures.iter().find(|f| f.section == section && f.name == name).map(|f| f.value)
    }

    /// Prints all figures with their aims.
    pub(crate) fn print(&self) {
        println!("\n== table");
        let width = self.figures.iter().map(|f| f.name.chars().count()).max().unwrap_or(0);
        let mut section = "";
        for figure in &self.figures {
            if figure.section != section {
                section = figure.section;
                println!("{section}");
            }
            println!("{}", figure.line(width));
        }
        let aimed: Vec<_> = self.figures.iter().filter(|f| f.aim.is_some()).collect();
        if !aimed.is_empty() {
            println!("aims");
            aimed.iter().for_each(|figure| println!("{}", figure.line(width)));
        }
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

impl Figure {
    fn line(&self, width: usize) -> String {
        let mut line = format!("   {:width$} {:>12} {:9}", self.name, number(self.value), self.unit);
        if let (Some(aim), Some(reached)) = (self.aim, self.reached) {
            // Writing into a String cannot fail.
            let _ = write!(line, " aim {:10} {}", aim.text(), if reached { "reached" } else { "NOT reached" });
        }
        line.trim_end().to_owned()
    }
}

/// Three digits that count, and thousands apart.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let decimals = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if decimals > 0 {
        return text;
    }
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0.000"),
            (0.1234, "0.123"),
            (9.876, "9.88"),
            (45.67, "45.7"),
            (999.4, "999"),
            (300_000.0, "300,000"),
            (-1_234.0, "-1,234"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn aims_have_a_direction() {
        for (aim, value, reached) in [
            (Aim::AtLeast(60.0), 60.0, true),
            (Aim::AtLeast(60.0), 59.9, false),
            (Aim::AtMost(4.0), 4.0, true),
            (Aim::AtMost(4.0), 4.1, false),
            (Aim::AtMost(4.0), f64::NAN, false),
        ] {
            assert_eq!(aim.reached(value), reached, "{aim:?} {value}");
        }
    }
}
