//! A Redis server of a test's own: Debian's, in a temporary folder, on a free port.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that is killed when the test is over.
pub struct Redis {
    pub port: u16,
    server: Child,
    folder: TempDir,
    options: Vec<String>,
}

impl Redis {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With further options, as on its command line.
    pub fn with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        // The port may be taken before the server has it: then another is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(server) = spawn(port, &folder, &options) {
                return Self { port, server, folder, options };
            }
        }
        panic!("Redis does not start: `make test` installs redis-server");
    }

    /// With what `prepare` does to its command.
    pub fn under(prepare: impl Fn(&mut Command)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut command = command(port, &folder, &[]);
            prepare(&mut command);
            if let Some(server) = up(command, port) {
                return Self { port, server, folder, options: Vec::new() };
            }
        }
        panic!("Redis does not start: `make test` installs redis-server");
    }

    /// Not a server but a sentinel, with these lines in its file.
    pub fn sentinel(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n{lines}")).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(&file).arg("--sentinel").current_dir(folder.path());
            if let Some(server) = up(command, port) {
                return Self { port, server, folder, options: Vec::new() };
            }
        }
        panic!("the sentinel does not start");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Stops it with nothing said, and everything it knew is gone.
    pub fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        self.server = spawn(self.port, &self.folder, &self.options).expect("the port is still free");
    }

    /// Sends it a signal, such as STOP and CONT.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.server.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// What it answers to a command, as it is written on the line.
    pub fn ask(&self, words: &[&str]) -> String {
        ask(self.port, words).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn spawn(port: u16, folder: &TempDir, options: &[String]) -> Option<Child> {
    up(command(port, folder, options), port)
}

fn command(port: u16, folder: &TempDir, options: &[String]) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
    command.arg(folder.path()).args(options);
    command
}

/// The server that `command` starts, once it answers.
fn up(mut command: Command, port: u16) -> Option<Child> {
    let mut server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE && server.try_wait().unwrap().is_none() {
        match ask(port, &["PING"]) {
            Ok(answer) if !answer.starts_with("-LOADING") => return Some(server),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    let _ = server.kill();
    let _ = server.wait();
    None
}

fn ask(port: u16, words: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "*{}\r\n", words.len())?;
    for word in words {
        write!(stream, "${}\r\n{word}\r\n", word.len())?;
    }
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    if let Some(length) = line.strip_prefix('$').and_then(|length| length.trim().parse::<usize>().ok()) {
        let mut text = vec![0; length];
        answer.read_exact(&mut text)?;
        return Ok(String::from_utf8_lossy(&text).into_owned());
    }
    Ok(line.trim_end().to_owned())
}
