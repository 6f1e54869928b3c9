//! Requests to stop that reach the launcher.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::spec::{LaunchError, environment};

/// SIGTERM and SIGINT, from the moment this is made.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Signals, LaunchError> {
        let listen = |kind| signal(kind).map_err(environment("listen to signals"));
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one and gives its number. Nothing is lost where the wait is given up.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
        }
    }
}
