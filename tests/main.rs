//! Everything that needs a running gateway, in one binary: real sockets, a scripted upstream, and
//! free ports.

mod support {
    pub mod client;
    pub mod gateway;
    pub mod script;
    pub mod upstream;
    pub mod wire;
}

mod metering;
