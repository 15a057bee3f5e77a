//! What every request used, kept until whoever keeps the accounts has it.

pub mod record;
