//! `barrage replay` and `barrage simulate`: something is sent to a server, and the numbers are shown as they grow.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use barrage_replay::{Line, LineKind, Options, Progress, Recording, RecordingError, Stop, Summary, Target};
use barrage_simulator::{Config, Evening};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::cli::{Preset, ReplayArgs, SendArgs, ServerArgs, Shift, SimulateArgs, Speed};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::live::Live;
use crate::text::{clipped, number, time};

/// Where an evening goes when nothing else is asked for.
const TO_DEFAULT: &str = "http://127.0.0.1:8080";

/// Sends recordings, one after the other.
pub(crate) fn replay(args: &ReplayArgs) -> Result<Exit, Failure> {
    // All of them are opened before the first is sent: a misspelt name must not show in the middle.
    for file in &args.files {
        drop(Recording::open(file)?);
    }
    let sender = Sender::new(&args.to, &args.server, &args.send)?;
    let mut exit = Exit::Done;
    for file in &args.files {
        let app = first_app(file)?;
        super::line(&format!("playing {} to {}", file.display(), args.to))?;
        let lines = Recording::open(file)?;
        let summary = sender.send(lines, app)?;
        exit = worse(exit, report(&summary)?);
        if summary.stopped {
            return Ok(Exit::Interrupted);
        }
    }
    Ok(exit)
}

fn worse(one: Exit, other: Exit) -> Exit {
    if one == Exit::Done { other } else { one }
}

/// The application of a recording: that of its first callback.
fn first_app(file: &Path) -> Result<Option<u32>, RecordingError> {
    for line in Recording::open(file)?.take(100) {
        if let LineKind::Callback { query, .. } = line?.kind {
            let app = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "SdkAppid");
            return Ok(app.and_then(|(_, value)| value.parse().ok()));
        }
    }
    Ok(None)
}

/// Makes an evening, writes it, sends it.
pub(crate) fn simulate(args: &SimulateArgs) -> Result<Exit, Failure> {
    let config = Config {
        seed: args.seed,
        ..match args.preset {
            Preset::Small => Config::small(),
            Preset::Default => Config::default(),
            Preset::Large => Config::large(),
        }
    };
    let app = config.app;
    let mut evening = Evening::new(config)?;
    let mut out = args.out.as_deref().map(Out::create).transpose()?;
    let sends = args.to.is_some() || (args.out.is_none() && args.expected.is_none());
    let mut exit = Exit::Done;
    if sends {
        let to = args.to.as_deref().unwrap_or(TO_DEFAULT);
        let sender = Sender::new(to, &args.server, &args.send)?;
        super::line(&format!("playing a simulated evening (seed {}) to {to}", args.seed))?;
        let mut written = Ok(());
        let lines = evening.by_ref().map(|line| {
            if let (Some(out), true) = (&mut out, written.is_ok()) {
                written = out.line(&line);
            }
            Ok(Line::from(line))
        });
        let summary = sender.send(lines, Some(app))?;
        written?;
        exit = report(&summary)?;
        if summary.stopped {
            return Ok(Exit::Interrupted);
        }
    }
    // What was not sent, or everything when nothing is.
    for line in evening.by_ref() {
        if let Some(out) = &mut out {
            out.line(&line)?;
        }
    }
    if let Some(out) = out {
        out.finish()?;
    }
    if let Some(path) = &args.expected {
        let mut expected = evening.expected().to_json();
        expected.push('\n');
        std::fs::write(path, expected).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(exit)
}

/// A recording that is being written.
struct Out {
    writer: Box<dyn FinishWrite>,
    name: String,
    buffer: String,
}

/// A writer with an end that must be written too.
trait FinishWrite: Write {
    fn end(self: Box<Self>) -> std::io::Result<()>;
}

impl<W: Write> FinishWrite for BufWriter<W> {
    fn end(mut self: Box<Self>) -> std::io::Result<()> {
        self.flush()
    }
}

impl<W: Write> FinishWrite for GzEncoder<BufWriter<W>> {
    fn end(self: Box<Self>) -> std::io::Result<()> {
        self.finish()?.flush()
    }
}

impl Out {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = || File::create(path).with_context(|| format!("{name} cannot be written"));
        let writer: Box<dyn FinishWrite> = if path == Path::new("-") {
            Box::new(BufWriter::new(std::io::stdout()))
        } else if path.extension().is_some_and(|extension| extension == "gz") {
            Box::new(GzEncoder::new(BufWriter::new(file()?), Compression::default()))
        } else {
            Box::new(BufWriter::new(file()?))
        };
        Ok(Self { writer, name, buffer: String::new() })
    }

    fn line(&mut self, line: &barrage_simulator::Line) -> anyhow::Result<()> {
        self.buffer.clear();
        line.append_json_line(&mut self.buffer);
        self.buffer.push('\n');
        self.writer.write_all(self.buffer.as_bytes()).with_context(|| format!("{} cannot be written", self.name))
    }

    fn finish(self) -> anyhow::Result<()> {
        self.writer.end().with_context(|| format!("{} cannot be written", self.name))
    }
}

/// Sends lines to one server.
struct Sender {
    target: Target,
    client: Client,
    options: Options,
    quiet: bool,
}

impl Sender {
    fn new(to: &str, server: &ServerArgs, send: &SendArgs) -> anyhow::Result<Self> {
        let client = Client::of(server)?;
        let mut target = Target::new(to)?.with_query(&server.query)?;
        match client.key() {
            Some(key) => target = target.with_key(key)?,
            None => tracing::warn!("without the API key lines cannot state their own times: they count as of now"),
        }
        if let Some(token) = &send.token {
            target = target.with_token(token.clone());
        }
        let options = Options {
            speed: match send.speed {
                Speed::Max => barrage_replay::Speed::Max,
                Speed::Times(times) => barrage_replay::Speed::Times(times),
            },
            connections: usize::from(send.connections),
            shift: match send.shift {
                None => barrage_replay::Shift::None,
                Some(Shift::Now) => barrage_replay::Shift::ToNow,
                Some(Shift::To(ms)) => barrage_replay::Shift::To(ms),
            },
            ..Options::default()
        };
        Ok(Self { target, client, options, quiet: send.quiet })
    }

    /// Sends until the lines end or somebody interrupts; shows the table meanwhile.
    fn send(
        &self,
        lines: impl IntoIterator<Item = Result<Line, RecordingError>>,
        app: Option<u32>,
    ) -> anyhow::Result<Summary> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
        let (progress, stop) = (Progress::new(), Stop::new());
        let live = (!self.quiet).then(|| Live::new(self.client.clone(), Arc::clone(&progress), app));
        runtime.block_on(async {
            let interrupted = tokio::spawn(interrupts(stop.clone()));
            let (drawing_ends, ended) = tokio::sync::oneshot::channel::<()>();
            let drawing = live.map(|mut live| {
                tokio::spawn(async move {
                    tokio::select! {
                        drawn = live.run() => drawn,
                        _ = ended => live.finish().await,
                    }
                })
            });
            let played = barrage_replay::replay(lines, &self.target, &self.options, progress, &stop, None).await;
            interrupted.abort();
            match (drawing, &played) {
                // Numbers after a failure would only push its message up.
                (Some(drawing), Err(_)) => drawing.abort(),
                (Some(drawing), Ok(_)) => {
                    // It is gone when standard output is.
                    let _ = drawing_ends.send(());
                    drop(drawing.await);
                }
                (None, _) => {}
            }
            Ok(played?)
        })
    }
}

/// The first interrupt stops sending and waits for answers; the second ends the program.
async fn interrupts(stop: Stop) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    for first in [true, false] {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        if first {
            stop.stop();
        } else {
            std::process::exit(Exit::Interrupted as i32);
        }
    }
}

/// Prints what became of it.
fn report(summary: &Summary) -> std::io::Result<Exit> {
    let counts = &summary.counts;
    let seconds = counts.elapsed.as_secs_f64().max(0.001);
    let ms = |quantile: f64| summary.latency_us.value_at_quantile(quantile) as f64 / 1_000.0;
    let how = if summary.stopped { "stopped after" } else { "sent" };
    super::line(&format!(
        "{how} {} lines in {seconds:.1} s ({:.0}/s): {} answered OK ({} of them not allowed by the rules), {} refused, {} \
         without an answer; p50 {:.1} ms, p99 {:.1} ms",
        number(counts.sent),
        counts.sent as f64 / seconds,
        number(counts.ok),
        number(counts.not_allowed),
        number(counts.refused_total()),
        number(counts.failed),
        ms(0.5),
        ms(0.99),
    ))?;
    super::line(&format!("their time: {} to {}", time(summary.first_ms), time(summary.last_ms)))?;
    for refused in &counts.refused {
        super::line(&format!(
            "  refused {} times with {} {}: {}",
            number(refused.count),
            refused.status,
            clipped(&refused.code, 40),
            clipped(&refused.example, 160)
        ))?;
    }
    if let Some(failure) = &summary.first_failure {
        super::line(&format!("  the first without an answer: {}", clipped(failure, 160)))?;
    }
    Ok(if counts.ok == counts.sent { Exit::Done } else { Exit::Incomplete })
}
