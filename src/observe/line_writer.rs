//! A thread that writes lines, so that a slow terminal or pipe never holds up a request. A bounded number of lines waits for the
//! thread; further ones are dropped and counted. The access log and the process log use it.

use std::{
    io::{self, BufWriter, Write},
    iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// A way to the thread that writes. Clones share it.
#[derive(Clone)]
pub struct LineWriter {
    lines: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

/// Lines that have not been written.
#[derive(Default)]
struct Counts {
    waiting: AtomicU64,
    dropped: AtomicU64,
}

/// What the thread reports about its own work.
#[derive(Debug)]
pub enum WriterReport {
    /// So many lines were dropped since the last report, because the reader is too slow.
    Dropped(u64),
    /// Lines were lost, because the output refuses them.
    Failed(io::Error),
    /// A second has passed, in which lines may have been written or not.
    Tick,
}

/// Lines that may wait to be written; at 1 KiB each some 16 MiB.
const QUEUE: usize = 16_384;

/// How long lines are collected. A thread that is woken for each of them costs a request more than all else that is done
/// for it here.
const LINGER: Duration = Duration::from_millis(5);

/// How often the thread reports while nothing is to be written.
const TICK: Duration = Duration::from_secs(1);

impl LineWriter {
    /// Writes to `output` from a thread called `name`, which tells `report` what happens. What `report` returns is
    /// written, too.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        name: &str,
        output: impl Write + Send + 'static,
        report: impl FnMut(WriterReport) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(QUEUE);
        let counts: Arc<Counts> = Arc::default();
        let shared = counts.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || write_all(&waiting, &shared, output, report))?;
        Ok(Self { lines, counts })
    }

    /// Hands over a line, with its line feed. It never waits.
    pub fn write(&self, line: Vec<u8>) {
        self.counts.waiting.fetch_add(1, Ordering::AcqRel);
        if self.lines.try_send(line).is_err() {
            self.counts.waiting.fetch_sub(1, Ordering::AcqRel);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written, `limit` at most: a process that ends takes with it what is not.
    pub fn flush(&self, limit: Duration) {
        let start = Instant::now();
        while self.counts.waiting.load(Ordering::Acquire) > 0 && start.elapsed() < limit {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Writes what comes, and flushes whenever nothing more is waiting.
fn write_all(
    lines: &Receiver<Vec<u8>>,
    counts: &Counts,
    output: impl Write,
    mut report: impl FnMut(WriterReport) -> Vec<u8>,
) {
    let mut output = BufWriter::new(output);
    let (mut reported, mut ticked) = (0, Instant::now());
    loop {
        let first = match lines.recv_timeout(TICK) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if first.is_some() {
            thread::sleep(LINGER);
        }
        let mut taken = 0;
        let mut written = Ok(());
        // After a failure the rest of the batch is taken, too, and not written.
        for line in first.into_iter().chain(iter::from_fn(|| lines.try_recv().ok())).take(QUEUE) {
            taken += 1;
            written = written.and_then(|()| output.write_all(&line));
        }
        let dropped = counts.dropped.load(Ordering::Relaxed);
        if dropped > reported {
            written = written.and_then(|()| output.write_all(&report(WriterReport::Dropped(dropped - reported))));
            reported = dropped;
        }
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            written = written.and_then(|()| output.write_all(&report(WriterReport::Tick)));
        }
        if let Err(error) = written.and_then(|()| output.flush()) {
            let _ = output.write_all(&report(WriterReport::Failed(error)));
        }
        counts.waiting.fetch_sub(taken, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Sends on each byte, after it was allowed to.
    struct Gated {
        allowed: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().map_err(io::Error::other)?;
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn notice(report: WriterReport) -> Vec<u8> {
        match report {
            WriterReport::Dropped(number) => format!("dropped {number}\n").into_bytes(),
            WriterReport::Failed(error) => format!("failed: {error}\n").into_bytes(),
            WriterReport::Tick => Vec::new(),
        }
    }

    #[test]
    fn a_reader_that_stands_still_holds_up_nobody_and_what_is_dropped_is_counted_and_said() {
        let (allow, allowed) = channel();
        let (written, lines) = channel();
        let writer = LineWriter::start("test", Gated { allowed, written }, notice).unwrap();
        // The thread may have taken a queue and more before it stands still.
        for _ in 0..4 * QUEUE {
            writer.write(b"0123456789\n".to_vec());
        }
        let dropped = writer.dropped();
        assert!(dropped > 0, "nothing waits for the reader");
        let opener = thread::spawn(move || while allow.send(()).is_ok() {});
        writer.flush(Duration::from_secs(30));
        drop(writer);
        let text: Vec<u8> = lines.iter().flatten().collect();
        opener.join().unwrap();
        let text = String::from_utf8(text).unwrap();
        let said: u64 = text.lines().filter_map(|line| line.strip_prefix("dropped ")?.parse::<u64>().ok()).sum();
        assert_eq!(said, dropped);
        assert_eq!(text.lines().filter(|line| *line == "0123456789").count() as u64, 4 * QUEUE as u64 - dropped);
    }

    #[test]
    fn a_flush_waits_for_what_was_handed_over_and_not_for_ever() {
        let (allow, allowed) = channel();
        let (written, lines) = channel();
        let writer = LineWriter::start("test", Gated { allowed, written }, notice).unwrap();
        writer.write(b"a\n".to_vec());
        writer.flush(Duration::from_millis(50));
        assert_eq!(lines.try_iter().count(), 0);
        allow.send(()).unwrap();
        writer.flush(Duration::from_secs(10));
        assert_eq!(lines.try_iter().flatten().collect::<Vec<_>>(), b"a\n");
    }
}
