//! The live table: how sending goes, and the numbers of the busiest rooms as the query service answers them.
//!
//! On a terminal it is drawn in place; elsewhere a line comes every few seconds.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use barrage_replay::{Progress, Snapshot};
use serde_json::Value as Json;

use crate::client::Client;
use crate::text::{clipped, number, time};

/// Time between two drawings on a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// Time between two lines elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How long the last drawing waits for the numbers to catch up.
const CATCH_UP: Duration = Duration::from_secs(30);
/// Rooms of the table.
const ROOMS: usize = 12;
/// Width of a room's name.
const NAME_WIDTH: usize = 28;

/// Draws while something is sent.
#[derive(Debug)]
pub(crate) struct Live {
    client: Client,
    progress: Arc<Progress>,
    /// The application whose rooms are shown.
    app: Option<u32>,
    terminal: bool,
    /// Lines of the last drawing, to draw over them.
    drawn: usize,
    before: Option<Look>,
}

/// What one look at the server found.
#[derive(Debug, Clone, Default)]
struct Look {
    lag: Option<u64>,
    stream_time_ms: Option<i64>,
    rooms: Vec<RoomLook>,
    problem: Option<String>,
    sent: Option<Snapshot>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct RoomLook {
    room: String,
    attempted: u64,
    delivered: u64,
    throttled: u64,
}

impl Live {
    pub(crate) fn new(client: Client, progress: Arc<Progress>, app: Option<u32>) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { client, progress, app, terminal, drawn: 0, before: None }
    }

    /// Draws again and again; never ends by itself.
    pub(crate) async fn run(&mut self) -> std::io::Result<()> {
        loop {
            self.draw(false).await?;
            tokio::time::sleep(if self.terminal { DRAW_EVERY } else { LINE_EVERY }).await;
        }
    }

    /// Waits until the numbers hold everything that was sent, and draws them.
    pub(crate) async fn finish(&mut self) -> std::io::Result<()> {
        let deadline = Instant::now() + CATCH_UP;
        while Instant::now() < deadline && self.look().await.lag.is_some_and(|lag| lag > 0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.draw(true).await
    }

    async fn look(&self) -> Look {
        let mut look = Look { sent: Some(self.progress.snapshot()), ..Look::default() };
        match self.client.get("/v1/status").await {
            Ok(status) => {
                look.lag = status["lag"].as_u64();
                look.stream_time_ms = status["stream_time"].as_i64();
            }
            Err(error) => look.problem = Some(format!("{error:#}")),
        }
        let app = self.app.map(|app| format!("&app={app}")).unwrap_or_default();
        match self.client.get(&format!("/v1/rooms?sort=messages&limit={ROOMS}{app}")).await {
            Ok(answer) => look.rooms = answer["rooms"].as_array().into_iter().flatten().map(room_look).collect(),
            Err(error) => drop(look.problem.get_or_insert_with(|| format!("{error:#}"))),
        }
        look
    }

    async fn draw(&mut self, last: bool) -> std::io::Result<()> {
        let look = self.look().await;
        let text = if self.terminal || last {
            table(&look, self.before.as_ref())
        } else {
            one_line(&look, self.before.as_ref())
        };
        let mut out = std::io::stdout().lock();
        if self.terminal && self.drawn > 0 {
            write!(out, "\u{1b}[{}A\r", self.drawn)?;
        }
        for line in &text {
            let clear = if self.terminal { "\u{1b}[K" } else { "" };
            writeln!(out, "{line}{clear}")?;
        }
        if self.terminal {
            // What a longer drawing before left below.
            write!(out, "\u{1b}[J")?;
        }
        out.flush()?;
        self.drawn = text.len();
        self.before = Some(look);
        Ok(())
    }
}

fn room_look(room: &Json) -> RoomLook {
    let messages = &room["messages"];
    let count = |field: &str| messages[field].as_u64().unwrap_or(0);
    RoomLook {
        room: room["room"].as_str().unwrap_or_default().to_owned(),
        attempted: count("attempted"),
        delivered: count("delivered"),
        throttled: count("throttled"),
    }
}

/// Lines answered per second since the look before.
fn sent_rate(look: &Look, before: Option<&Look>) -> f64 {
    match (&look.sent, before.and_then(|b| b.sent.as_ref())) {
        (Some(now), Some(before)) => now.rate_since(before),
        _ => 0.0,
    }
}

fn heading(look: &Look, before: Option<&Look>) -> String {
    let mut text = String::new();
    if let Some(sent) = &look.sent {
        let rate = sent_rate(look, before);
        write!(text, "sent {}  {rate:.0}/s  refused {}", number(sent.sent), number(sent.refused_total()))
            .expect("writing to a String does not fail");
        if sent.failed > 0 {
            write!(text, "  no answer {}", number(sent.failed)).expect("writing to a String does not fail");
        }
    }
    let lag = look.lag.map_or_else(|| "?".to_owned(), number);
    write!(text, "  lag {lag}").expect("writing to a String does not fail");
    if let Some(ms) = look.stream_time_ms {
        write!(text, "  at {}", time(ms)).expect("writing to a String does not fail");
    }
    text
}

fn one_line(look: &Look, before: Option<&Look>) -> Vec<String> {
    let sum = |count: fn(&RoomLook) -> u64| number(look.rooms.iter().map(count).sum());
    let mut line = format!(
        "{}  rooms {}  attempted {}  delivered {}  throttled {}",
        heading(look, before),
        look.rooms.len(),
        sum(|r| r.attempted),
        sum(|r| r.delivered),
        sum(|r| r.throttled),
    );
    if let Some(problem) = &look.problem {
        write!(line, "  ({})", clipped(problem, 100)).expect("writing to a String does not fail");
    }
    vec![line]
}

fn table(look: &Look, before: Option<&Look>) -> Vec<String> {
    let mut lines = vec![heading(look, before), String::new()];
    lines.push(format!(
        "{:<NAME_WIDTH$} {:>12} {:>12} {:>11} {:>11}",
        "room", "attempted", "delivered", "throttled", "per second"
    ));
    let earlier: HashMap<&str, u64> =
        before.map(|b| b.rooms.iter().map(|r| (r.room.as_str(), r.delivered)).collect()).unwrap_or_default();
    let seconds = match (look.stream_time_ms, before.and_then(|b| b.stream_time_ms)) {
        (Some(now), Some(before)) if now > before => Some((now - before) as f64 / 1_000.0),
        _ => None,
    };
    for room in &look.rooms {
        // Delivered messages a second of the evening's own time, whatever the pace it is played at.
        let rate = match (seconds, earlier.get(room.room.as_str())) {
            (Some(seconds), Some(earlier)) => {
                format!("{:.1}", room.delivered.saturating_sub(*earlier) as f64 / seconds)
            }
            _ => "-".to_owned(),
        };
        lines.push(format!(
            "{:<NAME_WIDTH$} {:>12} {:>12} {:>11} {rate:>11}",
            clipped(&room.room, NAME_WIDTH),
            number(room.attempted),
            number(room.delivered),
            number(room.throttled),
        ));
    }
    if let Some(problem) = &look.problem {
        lines.push(clipped(problem, 110));
    }
    lines.push(String::new());
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn look(delivered: u64, stream_time_ms: i64) -> Look {
        let room = json!({ "room": "@TGS#1\u{1b}[2J", "messages": { "attempted": 12_345, "delivered": delivered, "throttled": 7 } });
        Look { lag: Some(3), stream_time_ms: Some(stream_time_ms), rooms: vec![room_look(&room)], ..Look::default() }
    }

    #[test]
    fn the_table_shows_the_rooms_and_their_pace_in_the_evenings_time() {
        let lines = table(&look(80, 1_767_268_802_000), Some(&look(20, 1_767_268_800_000)));
        assert!(lines[0].contains("lag 3") && lines[0].contains("2026-01-01T12:00:02"), "{lines:?}");
        let words: Vec<&str> = lines[3].split_whitespace().collect();
        assert_eq!(words, ["@TGS#1\u{fffd}[2J", "12,345", "80", "7", "30.0"]);
        assert!(lines.iter().all(|line| line.chars().count() <= 110 && !line.contains('\u{1b}')), "{lines:?}");
    }

    #[test]
    fn without_an_earlier_look_there_is_no_pace() {
        assert!(table(&look(80, 1_767_268_802_000), None)[3].trim_end().ends_with('-'));
    }
}
