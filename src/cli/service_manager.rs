//! What systemd is told of a service (`sd_notify(3)`, `Type=notify-reload`): when it is ready, when it reloads, when it stops.
//! Where nobody wants to know, nothing happens.

use sd_notify::NotifyState;

/// Requests are served; by a process that the manager did not start, if it took over from one.
pub(super) fn ready(took_over: bool) {
    let state = [NotifyState::MainPid(std::process::id()), NotifyState::Ready];
    tell(state.get(usize::from(!took_over)..).unwrap_or_default());
}

/// The configuration is loaded anew; `ready` follows.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(fault) => tracing::warn!("the service manager is not told of the reload: {fault}"),
    }
}

/// Running requests end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(fault) = sd_notify::notify(state) {
        tracing::warn!("the service manager cannot be told: {fault}");
    }
}
