//! The control plane beside the gateway, on connections that end in time as the gateway's do.

use std::{io, net::SocketAddr, sync::Arc};

use keymeter_config::{Control as Settings, Upstream};
use keymeter_control::{CallConnection, CallListener, ControlError, ControlPlane, Gateway};
use keymeter_core::limit::Limits;
use tokio::net::TcpStream;

use super::{Server, handover::Sockets};
use crate::connection::{Connection, Connections, TimedStream, descriptors::most_of_control, listener::Listener};

/// Starts the control plane of `settings`, on one of `sockets` if its address is among them. `limits` are those of keys
/// that set none of their own.
///
/// # Errors
/// When its address cannot be listened on, or its store cannot be used.
pub async fn start(settings: &Settings, limits: Limits, sockets: &mut Sockets) -> Result<ControlPlane, ControlError> {
    let socket = sockets.listen(settings.listen).map_err(|error| ControlError::Bind(settings.listen, error))?;
    ControlPlane::start(settings, limits, socket, |socket, settings| {
        let connections = Connections::new(settings.timeouts, most_of_control());
        Ok(ControlListener(Listener::new(socket, connections)?.with_reserve()))
    })
    .await
}

/// Tells the control plane of the gateway of this process, so that its page says where programs reach it. The models are those
/// of the configuration that counts when they are asked for.
pub fn introduce(control: &ControlPlane, server: &Server) {
    let Some(address) = server.addresses.first().copied() else { return };
    let reloader = server.reloader().clone();
    let is_tls = reloader.config().server.tls.is_some();
    let models = move || {
        let named = |upstream: &Upstream| {
            let api = upstream.apis.first().copied();
            let names = upstream.models.iter().filter(|model| model.is_literal());
            names.filter_map(|model| Some((model.as_str().into(), api?))).collect::<Vec<_>>()
        };
        reloader.config().upstreams.iter().flat_map(|upstream| named(upstream)).collect()
    };
    control.introduce(Gateway { address, is_tls, models: Box::new(models) });
}

/// Accepts calls.
struct ControlListener(Listener);

impl axum::serve::Listener for ControlListener {
    type Io = TimedStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        self.0.accept_timed().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl CallListener for ControlListener {
    fn connection(stream: &Self::Io) -> Arc<dyn CallConnection> {
        Arc::new(ControlConnection(stream.connection().clone()))
    }
}

/// A connection of the control plane's.
struct ControlConnection(Arc<Connection>);

impl CallConnection for ControlConnection {
    fn run_call(self: Arc<Self>) -> Box<dyn Send + Sync> {
        Box::new(self.0.run_request())
    }
}
