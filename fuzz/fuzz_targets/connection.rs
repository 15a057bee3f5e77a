//! A whole connection over HTTP/1.1, through a gateway to an upstream on loopback: heads, chunks and pipelined requests
//! of every kind of wrong. Nothing reaches the upstream that was not admitted (`tests/support/hostile.rs`).

#![no_main]

use std::{cell::RefCell, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

#[allow(dead_code, missing_docs, clippy::pedantic, reason = "they are the tests' own tools, and not all is used here")]
#[path = "../../tests/support"]
mod support {
    pub mod canary;
    pub mod client;
    pub mod gateway;
    pub mod hostile;
    pub mod script;
    pub mod upstream;
    pub mod wire;
}

use support::hostile::Siege;

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

thread_local! {
    static SIEGE: RefCell<Option<(Siege, u32)>> = const { RefCell::new(None) };
}

/// The upstream keeps what it was asked: after so many connections another one takes its place.
const MOST_CONNECTIONS: u32 = 20_000;

fuzz_target!(|data: &[u8]| {
    let runtime = RUNTIME.get_or_init(|| Runtime::new().expect("the system has threads"));
    SIEGE.with_borrow_mut(|siege| {
        if siege.as_ref().is_none_or(|(_, connections)| *connections == MOST_CONNECTIONS) {
            *siege = Some((runtime.block_on(Siege::start()), 0));
        }
        let (siege, connections) = siege.as_mut().expect("it was started");
        *connections += 1;
        runtime.block_on(siege.endure(data));
    });
});
