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
//! [`proxy`] carries a request along this way and is the only place that writes to a client.
//! [`gate::Gate`] decides: it identifies the key, admits the request and gives a [`gate::Lease`],
//! or a [`rejection::Rejection`]. The lease meters the response and settles once.
//!
//! # The rooms, from the street to the cellar
//!
//! | room | what is in it |
//! |---|---|
//! | [`cli`] | the commands: `serve`, `check`, `demo`, `keys` |
//! | [`server`] | binds sockets, runs the gateway, drains |
//! | [`plugin`] | gate, keys and metrics as one piece, with the services that any Pingora server runs beside it |
//! | [`admin`], [`reload`], [`demo`] | the admin address; watch, load, check, swap; the demo's upstream |
//! | [`gateway`], [`upstream`] | our own proxy: which upstream serves which model, and how it is dialled |
//! | [`proxy`] | `Gated<P>`: the plugin around any Pingora proxy; bodies in, answers out |
//! | [`gate`] | identify, admit, settle; credentials, routes, the access log |
//! | [`resolve`], [`account`] | from a secret's hash to its key, through a cache; what a key has used |
//! | [`limit`] | exact windows, reservations, what recent traffic teaches; strangers |
//! | [`body`] | a request's JSON, scanned without a tree and changed by splicing |
//! | [`usage`] | what a response used: incremental scanners, and an estimate where nothing is stated |
//! | [`price`], [`metrics`] | money in integers; every metric's name and help |
//! | [`config`], [`yaml`], [`keyfile`] | what is written and what is meant; where it stands; edits in place |
//! | [`api`], [`key`], [`glob`] | paths; secrets, hashes, records; patterns over model names |
//!
//! A room uses those below it and none above.
//!
//! # What always holds
//!
//! - In no 60 seconds are more requests of a key admitted, or more tokens reserved, than its limits
//!   allow; what was used beyond a reservation counts from when it is known.
//! - A request holds its place from admission to settlement, and is settled once: by the proxy's
//!   last phase, or by `Drop` on every other way out.
//! - What is counted of a key belongs to its id. Neither a reload, nor an eviction, nor a new
//!   secret sets it back.
//! - A record that was asked for before a change of the keys is not believed after it.
//! - A secret has a type that does not print, and only its SHA-256 is kept.
//! - No label of a metric comes from a client.

pub mod account;
pub mod admin;
pub mod api;
pub mod body;
pub mod cli;
pub mod config;
pub mod demo;
pub mod gate;
pub mod gateway;
pub mod glob;
pub mod key;
pub mod keyfile;
pub mod limit;
pub mod metrics;
pub mod plugin;
pub mod price;
pub mod proxy;
pub mod rejection;
pub mod reload;
pub mod resolve;
pub mod server;
pub mod upstream;
pub mod usage;
pub mod yaml;
