//! HTTP at its edges: clients of HTTP/1.0, of websockets, and answers that come while a client still
//! sends.

mod content;
mod old;
mod readable;
mod websockets;
