//! The process log on standard error. Its reader may be slow, and strangers may cause lines. So a thread writes it, lines of one
//! kind are limited, and clients' faults are logged only at `debug`. `serve` and `demo` start it; all modules log with `tracing`.

mod filter;

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal, Write},
    sync::{Arc, OnceLock},
    time::Duration,
};

use jiff::Timestamp;
use keymeter_core::printable::Printable;
use tracing::field::Field;
use tracing_subscriber::{
    filter::filter_fn,
    fmt::{
        MakeWriter,
        format::{Writer, debug_fn},
    },
    prelude::*,
};

use self::filter::{LineFilter, RepeatedLines};
use crate::observe::{
    levels,
    line_writer::{LineWriter, WriterReport},
};

/// The process has one log.
static LOG: OnceLock<LineWriter> = OnceLock::new();

/// Starts the log. `RUST_LOG` and the admin address set its levels.
///
/// # Errors
/// When no thread can be started.
pub fn start() -> io::Result<()> {
    let repeated = Arc::new(RepeatedLines::default());
    let writer = LineWriter::start("process-log", io::stderr(), reporter(repeated.clone()))?;
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(debug_fn(write_field))
        .with_writer(Lines(writer.clone()))
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let subscriber = tracing_subscriber::registry()
        .with(levels::from_environment())
        .with(filter_fn(levels::is_discreet))
        .with(LineFilter::new(repeated))
        .with(lines);
    if subscriber.try_init().is_err() {
        eprintln!("another log is set up already; log lines go there");
    }
    levels::forbid_heads();
    let of_panics = writer.clone();
    // It goes round all that formats and filters lines, since that may be what panicked.
    std::panic::set_hook(Box::new(move |panic| {
        let line =
            format!("{:.6} ERROR internal error in keymeter: {}\n", Timestamp::now(), Printable(&panic.to_string()));
        of_panics.write(line.into_bytes());
        // Its end is the process's: nobody would write the line afterwards.
        if std::thread::current().name() == Some("main") {
            of_panics.flush(LAST_WORDS);
        }
    }));
    let _ = LOG.set(writer);
    Ok(())
}

/// How long a process that fails waits for whoever reads why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The number of lines that were dropped because their reader is too slow.
#[must_use]
pub fn dropped() -> u64 {
    LOG.get().map_or(0, LineWriter::dropped)
}

/// Waits until all lines are written, `limit` at most.
pub fn flush(limit: Duration) {
    if let Some(log) = LOG.get() {
        log.flush(limit);
    }
}

/// Reports in the log itself what is missing from it.
fn reporter(repeated: Arc<RepeatedLines>) -> impl FnMut(WriterReport) -> Vec<u8> + Send {
    move |report| {
        let mut text = String::new();
        match report {
            WriterReport::Dropped(missing) => {
                // Memory takes all that is written.
                let _ = writeln!(text, "{} {missing} log lines were left out: their reader is too slow", now());
            }
            // There is nowhere to say it.
            WriterReport::Failed(_) => {}
            WriterReport::Tick => {
                for line in repeated.drain_finished() {
                    let _ = writeln!(
                        text,
                        "{} {} more lines like this were left out: {}",
                        now(),
                        line.count,
                        Printable(&line.text)
                    );
                }
            }
        }
        text.into_bytes()
    }
}

/// Writes a field so that it cannot control a terminal or add lines: it may contain a client's or a server's text. The message
/// comes first.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = format!("{value:?}");
    match field.name() {
        "message" => write!(writer, "{}", Printable(&text)),
        // What libraries say by way of `log` is told of already.
        name if name.starts_with("log.") => Ok(()),
        name => write!(writer, " {name}={}", Printable(&text)),
    }
}

fn now() -> String {
    format!("{:.6}  WARN", Timestamp::now())
}

/// Gives each event a writer of its own, which hands over the whole line at once.
struct Lines(LineWriter);

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line { writer: self.0.clone(), text: Vec::new() }
    }
}

struct Line {
    writer: LineWriter,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.writer.write(std::mem::take(&mut self.text));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_line_of_the_log_is_one_and_steers_no_terminal() {
        let file = Arc::new(tempfile::NamedTempFile::new().unwrap());
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(debug_fn(write_field))
            .with_writer(Mutex::new(file.reopen().unwrap()))
            .with_ansi(false)
            .with_target(false)
            .without_time();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::error!(model = "m\u{202e}", "refused: {}", "a\nb\u{1b}[2J\u{85}");
        });
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "ERROR refused: a\\nb\\u001b[2J\\u0085 model=\"m\\u{202e}\"\n");
    }

    /// Logs something itself while it is written, as a database's driver does.
    struct Talkative;

    impl fmt::Display for Talkative {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            if tracing::enabled!(tracing::Level::INFO) {
                tracing::debug!("of no interest");
            }
            formatter.write_str("done")
        }
    }

    #[test]
    fn a_query_of_a_level_or_a_line_during_a_line_does_not_disturb_the_filter() {
        let file = Arc::new(tempfile::NamedTempFile::new().unwrap());
        let lines = tracing_subscriber::fmt::layer()
            .fmt_fields(debug_fn(write_field))
            .with_writer(Mutex::new(file.reopen().unwrap()))
            .with_ansi(false)
            .with_target(false)
            .without_time();
        let subscriber = tracing_subscriber::registry()
            .with(tracing_subscriber::EnvFilter::new("info"))
            .with(filter_fn(levels::is_discreet))
            .with(LineFilter::new(Arc::default()))
            .with(lines);
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..20 {
                let _ = tracing::enabled!(tracing::Level::WARN) || tracing::enabled!(tracing::Level::DEBUG);
                tracing::info!("{Talkative}");
            }
            tracing::warn!("another kind");
        });
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, " INFO done\n".repeat(10) + " WARN another kind\n");
    }
}
