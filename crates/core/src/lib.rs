//! What keymeter knows of keys, limits, usage and money: pure code without input or output, in which time is an argument.
//! Everything else of keymeter is built on it.

pub mod api;
pub mod body;
pub mod clock;
pub mod digits;
pub mod evidence;
pub mod glob;
pub mod hosts;
pub mod json_line;
pub mod key;
pub mod learned;
pub mod limit;
pub mod model_name;
pub mod money;
pub mod pool;
pub mod printable;
mod quote;
pub mod record;
pub mod refusals;
pub mod rejection;
pub mod usage;
mod words;
