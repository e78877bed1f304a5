//! Log lines on standard error: one line an event, none per callback.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;
use crate::config::DiagnosticsOptions;

/// Checks a filter.
pub(crate) fn check(filter: &str) -> Result<(), String> {
    EnvFilter::builder().parse(filter).map(drop).map_err(|error| error.to_string())
}

/// Starts to write log lines. A filter that does not parse was refused before; here it is `info`.
pub(crate) fn start(options: &DiagnosticsOptions) {
    let filter = EnvFilter::builder().parse(&options.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only when it was started before, which tests in one process do.
    let _ = match options.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
}
