//! Everything that needs a running gateway, in one binary: real sockets, a scripted upstream, and
//! free ports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]
#![allow(clippy::cast_precision_loss, clippy::float_cmp, reason = "counts in metrics are small whole numbers")]

mod support {
    pub mod canary;
    pub mod client;
    pub mod collector;
    pub mod control;
    pub mod gateway;
    pub mod h2_upstream;
    pub mod h2c;
    pub mod hostile;
    pub mod issuer;
    pub mod line;
    pub mod process;
    pub mod provider;
    pub mod redis;
    pub mod scene;
    pub mod script;
    pub mod service;
    pub mod signer;
    pub mod soak;
    pub mod upstream;
    pub mod usage_service;
    pub mod wire;
}

mod accounts;
mod admission;
mod apis;
mod bodies;
mod commands;
mod connections;
mod control;
mod edges;
mod endings;
mod errors;
mod handover;
mod hostile;
mod http2;
mod import;
mod jwt;
mod ledger;
mod metering;
mod models;
mod operation;
mod pages;
mod paths;
mod pools;
mod quotas;
mod reloading;
mod scale;
mod scrape;
mod shared;
mod silence;
mod sites;
mod sources;
mod traces;
