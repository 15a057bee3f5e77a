//! Connections as an attacker makes them: whatever is sent, nothing reaches the upstream that was not admitted.

use proptest::{collection::vec, prelude::*, test_runner::Config};
use tokio::runtime::Runtime;

use crate::support::hostile::Siege;

/// Mostly parts of requests, some bytes of their own, and pauses.
fn connection() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![8 => 128_u8..182, 1 => 0_u8..128, 1 => Just(255)], 0..24)
}

#[test]
fn nothing_reaches_the_upstream_that_was_not_admitted() {
    let runtime = Runtime::new().unwrap();
    let siege = runtime.block_on(Siege::start());
    // What comes after a request that is refused, cut short or broken, is where a reader could go astray.
    for parts in [
        &[137_u8, 138, 137][..],
        &[139, 137],
        &[140, 138],
        &[143, 171, 137],
        &[143, 169, 171, 137],
        &[143, 170, 137],
        &[143, 171, 255, 137],
        &[143, 172, 255, 137],
        &[143, 170, 255, 137],
        &[143, 176, 255, 137],
        &[143, 135, 171, 255, 137],
        &[140, 171, 255, 137],
        &[145, 171, 255, 137],
        &[142, 255, 137],
        &[146, 133, 171, 255, 137],
        &[142, 137],
        &[128, 129, 131, 160, 133, 134, 137],
        &[128, 129, 131, 161, 133, 134, 137],
        &[145, 135, 136, 137],
        &[146, 131, 133, 134, 137],
        &[128, 129, 152, 133, 134, 137],
    ] {
        runtime.block_on(siege.endure(parts));
    }
    let mut runner = proptest::test_runner::TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    runner
        .run(&connection(), |input| {
            runtime.block_on(siege.endure(&input));
            Ok(())
        })
        .unwrap();
}
