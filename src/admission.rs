//! Admission decides which requests run, and settles what they came to. A request is identified by its key, its body is
//! read, and `admit` makes an `ActiveRequest` of it or refuses it; the active request meters the response and settles
//! once, whatever happens, as one `Completed` that limits, wallet, ledger, metrics, log and trace are told of. The proxy
//! carries requests along this way.

mod active_request;
mod additions;
mod admit;
mod completed;
mod context;
mod credential;
mod gate;
mod identify;
mod in_flight;
mod money;
mod outcome;
mod planned;
mod prompt;
mod rejected;
mod reservations;
mod response_meter;
mod scrape;
mod settings;

pub use self::{
    active_request::{ActiveRequest, Admitted, Dispatched},
    context::{RequestContext, RequestId},
    credential::CREDENTIAL_HEADERS,
    gate::{Gate, Now},
    identify::{Credentials, Identified},
    in_flight::{BodyRoom, InFlight, InFlightGuard, NoRoom},
    outcome::{Client, Outcome},
    prompt::Prompt,
    rejected::Rejected,
    reservations::{LimitReservations, Reservations},
    settings::{Model, Route, Settings},
};

#[cfg(test)]
mod tests;
