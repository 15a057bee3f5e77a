//! keymeter meters and limits API keys in front of inference servers. It is a Pingora module,
//! [`proxy::Gated`], and the gateway that is built with it.
//!
//! # The way of a request
//!
//! ```text
//! head -> key -> policy -> body -> limits: one reservation -> upstream
//!      -> response bytes -> meter -> settle: limits, metrics, log
//! ```
//!
//! [`proxy`] carries a request along this way and is the only place that answers clients of the API.
//! [`gate::Gate`] decides: it identifies the key, admits the request and gives a [`gate::ActiveRequest`],
//! or a [`rejection::Rejection`]. The lease meters the response and settles once.
//!
//! # The rooms, from the street to the cellar
//!
//! | room | what is in it |
//! |---|---|
//! | [`cli`] | the commands: `serve`, `check`, `demo`, `keys`, and those on a control plane |
//! | [`control`] | the control plane: keys, people, wallets and usage, over a database |
//! | [`demo`] | everything that `serve` runs, in front of an upstream with canned answers |
//! | [`server`] | binds sockets, runs the gateway, drains |
//! | [`plugin`] | gate, keys and metrics as one piece, with the services that any Pingora server runs beside it |
//! | [`admin`], [`reload`] | the admin address; watch, load, check, swap |
//! | [`gateway`], [`upstream`] | our own proxy: where a request goes, and how that is dialled |
//! | [`proxy`] | `Gated<P>`: the plugin around any Pingora proxy; bodies in, answers out |
//! | [`gate`] | identify, admit, settle; credentials, routes, the access log |
//! | [`connection`] | clients' connections: how long each may be silent, how many there may be, and which makes room |
//! | [`ledger`] | one record a request: on disk before the response's end, sent on until it is acknowledged |
//! | [`rejection`] | every way to be refused: status, type, code and what the sender is told |
//! | [`resolve`], [`account`], [`runs`] | from a secret's hash to its key, through a cache, from a file or a service; what a key has used, and what it runs |
//! | [`shared`] | one limit over several gateways: counted on a server, by scripts; and what holds without it |
//! | [`traces`] | a span for each request and each exchange, by OpenTelemetry |
//! | [`metrics`] | every metric's name and help |
//! | [`usage`] | what a response used: incremental scanners, and an estimate where nothing is stated |
//! | [`api`], [`body`] | paths; a request's JSON, scanned without a tree and changed by splicing |
//! | [`keyfile`], [`config`], [`yaml`] | edits of keys files; what is written and what is meant; where it stands |
//! | [`tls`], [`process_log`], [`levels`], [`handover`], [`hosts`] | the certificate that clients are shown; the log for people, and which lines it has; sockets from one process to the next; which hosts and sites an operator's address answers |
//! | [`line_writer`], [`json_line`], [`printable`], [`head`], [`digits`], [`hex`] | a thread that writes lines; the line that is written of each request, in a log or a ledger; texts of others on a terminal; changes to a message's headers; numbers and bytes in both |
//! | [`price`], [`wallet`] | money in integers; what a wallet lets this process spend |
//! | [`key`], [`limit`], [`glob`], [`model_name`] | secrets, hashes, records; exact windows and reservations; patterns, and what they name |
//!
//! A room uses rooms in rows below its own, and those to the right of it in its row.
//!
//! # What always holds
//!
//! - In no 60 seconds are more requests of a key admitted, or more tokens reserved, than its limits
//!   allow; what was used beyond a reservation counts from when it is known.
//! - A request holds its place from admission to settlement, and is settled once: by the proxy's
//!   last phase, or by `Drop` on every other way out.
//! - What is counted of a key belongs to its id. Neither a reload, nor an eviction, nor a new
//!   secret sets it back.
//! - A look-up that began before a change of the keys is never used after it.
//! - A secret has a type that does not print, and only its SHA-256 is kept.
//! - No label of a metric comes from a client.
//!
//! # Outside
//!
//! `tests/` runs real gateways against a scripted upstream, a file a topic, with its tools in
//! `tests/support`; `tests/clients` holds the official clients' scripts, `tests/servers` what runs real inference servers.
//! `fuzz/` has a target for each reader of what a stranger sends, `benches/` measures the hot path, `examples/` has a proxy
//! that is metered in 7 lines and a key service, and `conf/` configurations that a test loads.

pub mod accounting;
pub mod admission;
#[cfg(feature = "cli")]
pub mod cli;
pub mod connection;
mod drain;
pub mod headers;
pub mod keys;
pub mod limits;
pub mod observe;
pub mod proxy;
pub mod server;
pub mod upstream;
