//! What a request and a streamed event cost, beside what people would run instead: a bare Pingora proxy, as it comes and
//! built and configured as keymeter is; nginx with a key map and `limit_req`; and, before three replicas, HAProxy.
//!
//! `make bench-proxy` builds all of it and prints the tables of docs/performance.md. Each target is a process of its own,
//! pinned to one core; its upstream and its clients, which look at every response whole, are on another. Targets take
//! turns. What is compared is processor time of the whole process, user and system, as the kernel counts it.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints, counts in floating point, and stops at the first surprise"
)]

mod bare;
mod load;
mod measure;
mod operator;
mod pool;
mod target;
mod upstream;

#[cfg(feature = "cli")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        // One of the targets is this program itself.
        ["bare", listen, upstream] => bare::as_it_comes(listen, upstream),
        ["alike", listen, upstream] => bare::like_keymeter(listen, upstream),
        ["measure", keymeter, bare, ..] => measure::all(keymeter, bare, &words[3..]),
        _ => eprintln!("this is run by `make bench-proxy`, with the programs to compare"),
    }
}
