//! The program itself, as a child process: what it prints, line by line, the signals that it gets,
//! and how it ends. It is killed when the test is done with it.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use super::{
    canary,
    client::{Client, PATIENCE, Response},
};

/// A running `keymeter`.
pub struct Process {
    child: Child,
    /// What came on standard output so far.
    pub stdout: Lines,
    /// What came on standard error so far.
    pub stderr: Lines,
}

/// The lines that a process has printed on one of its streams.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Printed>>);

#[derive(Default)]
struct Printed {
    lines: Vec<String>,
    ended: bool,
}

/// The program, with these arguments and nothing of our environment that could change what it does.
pub fn keymeter(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keymeter"));
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    keymeter(arguments).output().expect("the program starts")
}

impl Process {
    /// Starts a command of ours.
    pub fn start(mut command: Command) -> Self {
        canary::turn_up(&mut command);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let stdout = Lines::of("stdout", child.stdout.take().expect("its output is piped"));
        let stderr = Lines::of("stderr", child.stderr.take().expect("its errors are piped"));
        Self { child, stdout, stderr }
    }

    /// Starts a command of ours, which finds these in its environment too.
    pub fn start_with(mut command: Command, environment: &[(&str, &str)]) -> Self {
        command.envs(environment.iter().copied());
        Self::start(command)
    }

    /// Starts `keymeter serve` with the configuration at `path`.
    pub fn serve(path: &Path) -> Self {
        Self::start(keymeter(&["serve", "--config", path.to_str().expect("the path is UTF-8")]))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    /// Waits until the process has ended, and gives how and after what time.
    pub async fn ended(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the process is ours") {
                return (status, start.elapsed());
            }
            assert!(start.elapsed() < PATIENCE, "the process goes on; it said {:#?}", self.stderr.all());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the process is ours").is_none()
    }

    /// The addresses that a `serve` says it listens on: the gateway's first, and the admin address.
    pub async fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let line = self.stderr.line("listening on").await;
        let mut words = line.split([' ', ',', ';']).filter_map(|word| word.parse().ok());
        let (gateway, admin) = (words.next(), words.next_back());
        gateway.zip(admin).unwrap_or_else(|| panic!("two addresses in {line:?}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    fn of(name: &'static str, stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let printed = lines.0.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines() {
                let line = line.expect("the program prints UTF-8");
                canary::keep(name, format!("{line}\n").as_bytes());
                printed.lock().lines.push(line);
            }
            printed.lock().ended = true;
        });
        lines
    }

    /// What came so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().lines.clone()
    }

    /// All that ever comes: waits until the process has closed the stream.
    pub async fn to_the_end(&self) -> Vec<String> {
        self.wait("the end", |printed| printed.ended.then(|| printed.lines.clone())).await
    }

    /// The first line with `part` in it, when it comes.
    pub async fn line(&self, part: &str) -> String {
        self.wait(part, |printed| printed.lines.iter().find(|line| line.contains(part)).cloned()).await
    }

    /// The first `count` lines, when they have come.
    pub async fn first(&self, count: usize) -> Vec<String> {
        self.wait("more lines", |printed| printed.lines.get(..count).map(<[String]>::to_vec)).await
    }

    async fn wait<T>(&self, what: &str, find: impl Fn(&Printed) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = find(&self.0.lock()) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what:?} in {:#?}", self.all());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Asks an address once, on a connection of its own.
pub async fn ask(address: SocketAddr, method: &str, path: &str) -> Response {
    Client::connect(address).await.request(method, path, &[], b"").await
}

/// Waits until an answer is as the test wants it.
pub async fn answer_becomes(address: SocketAddr, path: &str, what: &str, is: impl Fn(&Response) -> bool) -> Response {
    let start = Instant::now();
    loop {
        let answer = ask(address, "GET", path).await;
        if is(&answer) {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{path} does not become {what}: {} {}", answer.status, answer.text());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
