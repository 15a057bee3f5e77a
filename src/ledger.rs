//! The ledger's side of the gateway: one record a request, on disk before the client sees the response's end, sent on
//! until the other side has it for good.

pub mod frame;
pub mod record;
pub mod spool;

pub use self::{
    record::{Record, RecordFault, RecordId, Session},
    spool::{Spool, SpoolFault},
};
