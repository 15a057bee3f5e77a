//! Notifications to systemd (`sd_notify(3)`, `Type=notify-reload`): when the service is ready, reloads or stops. Without a service
//! manager they do nothing.

use sd_notify::NotifyState;

/// Reports that requests are served, and the process id if it took over from another process.
pub(super) fn ready(took_over: bool) {
    let state = [NotifyState::MainPid(std::process::id()), NotifyState::Ready];
    notify(state.get(usize::from(!took_over)..).unwrap_or_default());
}

/// Reports a reload of the configuration; `ready` follows.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("cannot notify the service manager of the reload: {error}"),
    }
}

/// Reports that the service stops.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}
