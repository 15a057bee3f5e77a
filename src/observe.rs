//! What operators see: metrics, the access log, traces and the process log. Other modules report to these; they call no other
//! module.

pub mod access_log;
pub mod levels;
pub mod line_writer;
pub mod metrics;
pub mod process_log;
pub mod traced;
#[cfg(not(feature = "otlp"))]
#[path = "observe/no_traces.rs"]
pub mod traces;
#[cfg(feature = "otlp")]
pub mod traces;
