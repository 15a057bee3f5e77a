//! The counters of keys: in this process, and on a server that several gateways share.

pub mod account;
#[cfg(not(feature = "redis"))]
#[path = "limits/no_shared.rs"]
pub mod shared;
#[cfg(feature = "redis")]
pub mod shared;
