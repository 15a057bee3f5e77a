//! The counters of keys, teams and owners: in this process, on disk as far as quotas go, and on a server that several
//! gateways share.

pub mod account;
pub mod kept;
#[cfg(not(feature = "redis"))]
#[path = "limits/no_shared.rs"]
pub mod shared;
#[cfg(feature = "redis")]
pub mod shared;
pub mod store;
