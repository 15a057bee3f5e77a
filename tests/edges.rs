//! HTTP at its edges: clients of HTTP/1.0, of websockets and of other origins, answers that come while a client still
//! sends, and streams that are silent.

mod content;
mod heartbeats;
mod old;
mod pages;
mod readable;
mod websockets;
