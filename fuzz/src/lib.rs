//! What the fuzz targets have in common: how an input is divided, what holds of every response, and readers that are
//! slow and plain, for comparison.

#![forbid(unsafe_code)]

mod events;
mod input;
mod json;
mod response;

pub use events::events;
pub use input::Input;
pub use json::{objects, rewritten};
pub use response::{Case, Outcome, ResponseInput, every_endpoint};
