//! What an issuer of tokens (JWT, RFC 7519) says, and whether it is to be believed. The gateway takes such tokens in place of
//! secrets, and people sign in to the control plane's page by them: both check them here. Nothing here waits by itself or
//! remembers anything; time is an argument.

pub mod client;
mod key_set;
mod provider;
mod token;

pub use self::{
    key_set::{KeySet, VerifyingKey, by_name},
    provider::install,
    token::{Claims, Validity, header, stated},
};

#[cfg(test)]
mod tests;
