//! Calls to a control plane, and how their answers are printed. The token comes from the environment, never from the
//! command line, where every user of the machine could read it.

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};
use keymeter_config::UpstreamUrl;
use keymeter_core::{
    key::Secret,
    printable::{Printable, plain_json, steers},
};
use keymeter_issuer::client::{builder, cause};
use reqwest::{Client, Method};
use serde_json::Value;
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

/// The control plane to call.
#[derive(Clone, Debug, Args)]
pub struct RemoteArgs {
    /// The control plane, such as <http://127.0.0.1:9091>; the token comes from `KEYMETER_CONTROL_TOKEN`
    #[arg(long, value_name = "URL", env = CONTROL_URL)]
    pub control: String,
    /// A PEM file of certificates to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

impl RemoteArgs {
    /// The control plane, ready to be called.
    ///
    /// # Errors
    /// When there is no token, or the URL or the certificates cannot be used.
    pub fn open(&self) -> Result<Remote, RemoteError> {
        Remote::new(&self.control, self.ca.as_ref())
    }
}

/// The format of printed answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// The variable that holds the control plane's URL, for commands that do not name it.
pub const CONTROL_URL: &str = "KEYMETER_CONTROL_URL";

/// The variable that holds the token.
const TOKEN: &str = "KEYMETER_CONTROL_TOKEN";

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A control plane that can be called.
pub struct Remote {
    base: String,
    token: Secret,
    client: Client,
    runtime: Runtime,
}

impl Remote {
    /// The control plane at a URL.
    ///
    /// # Errors
    /// When there is no token, or the URL or the certificates cannot be used.
    pub fn new(url: &str, ca: Option<&PathBuf>) -> Result<Self, RemoteError> {
        Self::with_timeout(url, ca, TIMEOUT)
    }

    /// The same, of which each call may take so long.
    ///
    /// # Errors
    /// As those of [`Remote::new`].
    pub fn with_timeout(url: &str, ca: Option<&PathBuf>, timeout: Duration) -> Result<Self, RemoteError> {
        url.parse::<UpstreamUrl>().map_err(|error| RemoteError::Url(error.to_string()))?;
        let token = std::env::var(TOKEN).ok().filter(|token| !token.is_empty()).ok_or(RemoteError::NoToken)?;
        let certificates = |why| RemoteError::Certificates(ca.cloned().unwrap_or_default(), why);
        let builder = builder(ca.map(PathBuf::as_path)).map_err(certificates)?.timeout(timeout);
        let client = builder.build().map_err(|error| RemoteError::Unreachable(url.to_owned(), error.to_string()))?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(RemoteError::Stream)?;
        Ok(Self { base: url.trim_end_matches('/').to_owned(), token: Secret::new(token), client, runtime })
    }

    /// Makes a call, and returns the answer's JSON; `null` if it is empty.
    ///
    /// # Errors
    /// When the control plane cannot be reached, or refuses.
    pub fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, RemoteError> {
        let text = self.text(method, path, body)?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|error| RemoteError::Unreachable(self.base.clone(), error.to_string()))
    }

    /// Makes a call, and returns the answer's text.
    ///
    /// # Errors
    /// When the control plane cannot be reached, or refuses.
    pub fn text(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String, RemoteError> {
        let unreachable = |error: reqwest::Error| RemoteError::Unreachable(self.base.clone(), cause(&error));
        let mut request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(self.token.reveal());
        if let Some(body) = body {
            request = request.json(body);
        }
        self.runtime.block_on(async {
            let response = request.send().await.map_err(unreachable)?;
            let status = response.status();
            let text = response.text().await.map_err(unreachable)?;
            if status.is_success() { Ok(text) } else { Err(self.refused(status.as_u16(), path, &text)) }
        })
    }

    fn refused(&self, status: u16, path: &str, text: &str) -> RemoteError {
        if let Some((message, param)) = refusal(text) {
            return RemoteError::Refused { status, message, param };
        }
        let path = path.split('?').next().unwrap_or(path).to_owned();
        RemoteError::NoControlPlane { url: self.base.clone(), status, path }
    }

    /// All pages of a list.
    ///
    /// # Errors
    /// When the control plane cannot be reached, or refuses.
    pub fn list(&self, path: &str) -> Result<Vec<Value>, RemoteError> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = self.call(Method::GET, &format!("{path}{joint}limit=1000{cursor}"), None)?;
            rows.extend(page.get("data").and_then(Value::as_array).cloned().unwrap_or_default());
            match page.get("next_cursor").and_then(Value::as_str) {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(rows),
            }
        }
    }
}

/// An id as one segment of a path, percent-encoded.
#[must_use]
pub fn segment(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().fold(String::new(), |mut out, byte| {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a `String` does not fail.
            let _ = fmt::Write::write_fmt(&mut out, format_args!("%{byte:02X}"));
        }
        out
    })
}

/// An error of a control plane's: what its message and its field say. `None`: it is not one's.
fn refusal(text: &str) -> Option<(String, Option<String>)> {
    let body: Value = serde_json::from_str(text).ok()?;
    let part = |name| body.get("error").and_then(|error| error.get(name)).and_then(Value::as_str).map(str::to_owned);
    // A gateway, and a path beside a control plane's, answer in the same form.
    let is_elsewhere = part("code").is_some_and(|code| code == "unknown_url");
    Some((part("message").filter(|_| !is_elsewhere)?, part("param")))
}

/// Prints rows under the names of their columns, or all of it as JSON.
///
/// # Errors
/// When standard output cannot be written.
pub fn print_rows(rows: &[Value], columns: &[(&str, &str)], output: Output) -> Result<(), RemoteError> {
    if output == Output::Json {
        return print(&plain_json(&format!("{:#}\n", Value::from(rows.to_vec()))));
    }
    let head = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let cells = rows.iter().map(|row| columns.iter().map(|(_, path)| cell(row, path)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(cells).collect();
    print(&aligned(&lines))
}

/// Lines of as many cells each, those of a column below each other.
#[must_use]
pub fn aligned(lines: &[Vec<String>]) -> String {
    let mut widths = vec![0; lines.first().map_or(0, Vec::len)];
    for line in lines {
        widths.iter_mut().zip(line).for_each(|(width, cell)| *width = cell.chars().count().max(*width));
    }
    let line = |line: &Vec<String>| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

/// Prints one object, one field a line, or as JSON.
///
/// # Errors
/// When standard output cannot be written.
pub fn print_one(thing: &Value, output: Output) -> Result<(), RemoteError> {
    match thing.as_object().filter(|_| output == Output::Text) {
        Some(fields) => {
            print_fields(&fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>())
        }
        None => print(&plain_json(&format!("{thing:#}\n"))),
    }
}

/// Prints fields in their order, one a line.
///
/// # Errors
/// When standard output cannot be written.
pub fn print_fields(fields: &[(String, Value)]) -> Result<(), RemoteError> {
    let line = |(name, value): &(String, Value)| format!("{name:22} {}\n", text_of(value));
    print(&fields.iter().map(line).collect::<String>())
}

/// Writes to standard output.
///
/// # Errors
/// When that cannot be done.
pub fn print(text: &str) -> Result<(), RemoteError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(RemoteError::Stream)
}

/// Prints a secret or a token, as its field is called, alone on standard output, and `done` on standard error.
///
/// # Errors
/// When it cannot be printed. Then the secret is lost.
pub fn print_secret(answer: &Value, field: &str, done: &str) -> Result<(), RemoteError> {
    let secret = answer.get(field).and_then(Value::as_str).unwrap_or_default();
    print(&format!("{secret}\n"))?;
    eprintln!("{done}; this {field} is shown once");
    Ok(())
}

/// The value at a path of names in a row, as text without characters that control a terminal.
fn cell(row: &Value, path: &str) -> String {
    text_of(path.split('.').try_fold(row, |value, name| value.get(name)).unwrap_or(&Value::Null))
}

fn text_of(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => {
            let texts: Vec<_> =
                list.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect();
            texts.join(",")
        }
        Value::Object(fields) if fields.is_empty() => "-".to_owned(),
        other => other.to_string(),
    };
    text.replace(steers, "\u{fffd}")
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// The environment has no token.
    #[error(
        "no token: set {TOKEN} to the operator's or a user's token; an operator's that the control plane made is in operator.token \
         beside its database"
    )]
    NoToken,
    /// The URL is invalid.
    #[error("--control: {0}")]
    Url(String),
    /// The certificates cannot be used.
    #[error("cannot use the certificates in {}: {}", .0.display(), .1)]
    Certificates(PathBuf, String),
    /// The control plane does not answer, or not in JSON.
    #[error(
        "the control plane at {} does not answer: {}; see that it runs there, or name another with --control or {CONTROL_URL}",
        .0,
        Printable(.1)
    )]
    Unreachable(String, String),
    /// Something else answers at the URL.
    #[error("{url} is no keymeter control plane ({status} at {path}): give the address of its `control.listen`")]
    NoControlPlane {
        /// The URL.
        url: String,
        /// What was answered.
        status: u16,
        /// To what.
        path: String,
    },
    /// The control plane refuses the call.
    #[error("{}{} ({status}){}", field_prefix(.param.as_deref()), Printable(.message), next_step(*.status, .message))]
    Refused {
        /// The answer's status.
        status: u16,
        /// The reason.
        message: String,
        /// The field at fault.
        param: Option<String>,
    },
    /// A control plane does not support an option.
    #[error("{0}")]
    Unfit(&'static str),
    /// The standard streams cannot be used.
    #[error("cannot use the standard streams: {0}")]
    Stream(io::Error),
}

/// What to do about a refusal that does not say so itself, since a program that calls has other means than a command.
fn next_step(status: u16, message: &str) -> &'static str {
    let missing = message.strip_prefix("there is no ").and_then(|rest| rest.split(' ').next());
    match (status, missing) {
        (401, _) => "; the environment's KEYMETER_CONTROL_TOKEN is sent",
        (404, Some("key")) => "; `keymeter keys list` shows all",
        (404, Some("user")) => "; `keymeter users list` shows all",
        (404, Some("team")) => "; `keymeter teams list` shows all",
        (404, Some("wallet")) => "; `keymeter wallets list` shows all",
        _ => "",
    }
}

/// The field at fault, as the beginning of a message.
fn field_prefix(param: Option<&str>) -> String {
    param.map(|field| format!("{}: ", Printable(field))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_told_plainly() {
        let row =
            json!({"id": "a", "none": null, "list": ["b", "c"], "limits": {"tokens": 5}, "odd": "a\u{1b}[2J\u{202e}"});
        for (path, expected) in [
            ("id", "a"),
            ("none", "-"),
            ("gone", "-"),
            ("list", "b,c"),
            ("limits.tokens", "5"),
            ("odd", "a\u{fffd}[2J\u{fffd}"),
        ] {
            assert_eq!(cell(&row, path), expected);
        }
    }

    #[test]
    fn a_refusal_says_what_to_do_next() {
        for (status, message, end) in [
            (404, "there is no key `key_a`", "(404); `keymeter keys list` shows all"),
            (404, "there is no user or team `ada`", "(404); `keymeter users list` shows all"),
            (401, "the token is not valid", "(401); the environment's KEYMETER_CONTROL_TOKEN is sent"),
            (409, "there is a key already", "already (409)"),
        ] {
            let error = RemoteError::Refused { status, message: message.to_owned(), param: None };
            assert!(error.to_string().ends_with(end), "{error}");
        }
    }

    #[test]
    fn an_id_leads_nowhere_else() {
        assert_eq!(segment("key_a-1"), "key_a-1");
        assert_eq!(segment("../users?x"), "..%2Fusers%3Fx");
    }
}
