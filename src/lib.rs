//! keymeter meters and limits API keys in front of inference servers. It is a Pingora plugin, and the gateway that is built
//! with it. ARCHITECTURE.md shows the way of a request, and which room of the code may use which.
//!
//! To put the plugin before a proxy of your own, load a [`Plugin`], wrap the proxy by [`Plugin::gated`], and add
//! [`Plugin::services`] to your Pingora server. In the proxy's phases, [`RequestInfo`] says whose request it is.

// The rooms are public for the program, its tests and its benchmarks. They may change with any version.
#[doc(hidden)]
pub mod accounting;
#[doc(hidden)]
pub mod admission;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod connection;
mod drain;
#[doc(hidden)]
pub mod encoding;
#[doc(hidden)]
pub mod headers;
#[doc(hidden)]
pub mod journal;
#[doc(hidden)]
pub mod keys;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod observe;
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "most of it is for the connection of shared limits"))]
mod patience;
#[doc(hidden)]
pub mod proxy;
#[doc(hidden)]
pub mod server;
#[doc(hidden)]
pub mod upstream;

pub use self::{
    observe::access_log::AccessLog,
    proxy::{Gated, RequestInfo, respond_json, respond_rejection},
    server::plugin::{Plugin, PluginError},
    upstream::{Dialer, Permit, Pool, PoolError, Pools, Replica, Wanted},
};
