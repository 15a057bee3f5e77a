//! What is decided about an upstream of several replicas, without asking any of them: which replica is a request's home
//! ([`Ring`]), in which order requests wait while all replicas are full ([`FairQueue`]), and whether a replica may be
//! asked at all ([`Condition`]). Whoever dials, checks and waits holds these values behind locks of its own, and says what
//! happened and when.

mod condition;
mod fair_queue;
mod ring;

pub use condition::{Availability, Cause, Change, Condition, Others, Probe};
pub use condition::{CheckRules, EjectionRules, LONGEST_PAUSE, Rules};
pub use fair_queue::{FairQueue, Place};
pub use ring::{AffinityHash, Ring};
