//! Processes that are really killed, at any moment, while they append and compact, and while the next one already runs.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Stdio},
    sync::Arc,
};

use super::*;

/// The store's directory, for a process that this test starts.
const DIRECTORY: &str = "KEYMETER_TEST_QUOTA_STORE";

const KEYS: usize = 5;

/// A process that appends until it is killed.
struct Running {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Running {
    fn start(directory: &Path) -> Self {
        let test = "limits::store::tests::crash::a_process_that_is_killed_at_any_moment_leaves_each_request_once";
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", test, "--nocapture"]).env(DIRECTORY, directory).stdout(Stdio::piped());
        let mut process = process.spawn().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut running = Self { process, answers };
        let mut line = String::new();
        while !line.ends_with("ready\n") {
            line.clear();
            assert!(running.answers.read_line(&mut line).unwrap() > 0, "it does not start");
        }
        running
    }

    /// Kills it, and says of how many requests it told.
    fn kill(mut self) -> usize {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.answers.by_ref().lines().map_while(Result::ok).filter(|line| line == "1").count()
    }
}

#[test]
fn a_process_that_is_killed_at_any_moment_leaves_each_request_once() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return serve(Path::new(&directory));
    }
    let root = tempfile::tempdir().unwrap();
    let rounds = if std::env::var_os("KEYMETER_SOAK").is_some() { 300 } else { 12 };
    let mut told = 0;
    let mut running = Running::start(root.path());
    for round in 0..rounds {
        // Every other time there is an upgrade: the old process ends when the new one runs.
        let next = (round % 2 == 1).then(|| Running::start(root.path()));
        thread::sleep(Duration::from_millis(20 + round * 37 % 180));
        told += running.kill();
        running = next.unwrap_or_else(|| Running::start(root.path()));
    }
    told += running.kill();
    let store = QuotaStore::open(root.path(), now()).unwrap();
    let kept = (0..KEYS).map(|key| usize::try_from(restored(&store, &format!("key_{key}"))).unwrap()).sum::<usize>();
    assert!(told > 1000, "{told} requests");
    // Of one request each, what was written when the process was killed had not been told.
    let most = told + usize::try_from(rounds).unwrap() + 1;
    assert!((told..=most).contains(&kept), "{kept} of {told} to {most} requests");
}

/// Appends until it is killed, and tells of each request once it is written. The pipe holds what nobody reads yet.
fn serve(directory: &Path) {
    let store = Arc::new(QuotaStore::open(directory, now()).unwrap());
    let theirs = store.clone();
    thread::spawn(move || {
        loop {
            theirs.poll_others(now()).unwrap();
            // While there are two, nothing is deleted.
            if theirs.closed_segments().count() < 4 {
                theirs.journal.turn_over();
            }
            if let Some(lock) = Lock::take(&theirs.root).unwrap() {
                theirs.replace_snapshot(&lock, now()).unwrap();
            }
            thread::sleep(Duration::from_millis(3));
        }
    });
    let mut out = std::io::stdout().lock();
    let mut tell = |what: &[u8]| {
        // Whoever started it is gone.
        if out.write_all(what).and_then(|()| out.flush()).is_err() {
            std::process::exit(1);
        }
    };
    tell(b"ready\n");
    for number in 0.. {
        keep(&store, &format!("key_{}", number % KEYS), &of("tokens_per_day", 1));
        tell(b"1\n");
        // The pipe holds 64 KiB: more would block.
        thread::sleep(Duration::from_micros(200));
    }
}
