//! Ctrl-C, which ends the program unless an editor has the terminal.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Keeps Ctrl-C from ending the program for as long as it lives: the terminal sends it to an editor and to us alike,
/// and it is meant for the editor.
#[derive(Debug)]
pub struct Hold(());

impl Hold {
    /// Begins to hold.
    pub fn begin() -> Self {
        HELD.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whoever wants a run to end at the next good moment: Ctrl-C, or the SIGTERM of a pod that is deleted. What comes while
/// nobody waits is not lost.
#[derive(Debug)]
pub(crate) struct EndRequests {
    interrupted: Option<Signal>,
    terminated: Option<Signal>,
}

impl EndRequests {
    /// Begins to listen.
    pub(crate) fn listen() -> Self {
        Self {
            interrupted: signal(SignalKind::interrupt()).ok(),
            terminated: signal(SignalKind::terminate()).ok(),
        }
    }

    /// Waits for the next one. Never ends where the system does not tell of any.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            () = received(&mut self.interrupted) => {}
            () = received(&mut self.terminated) => {}
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    pending().await
}

/// Waits for a Ctrl-C that is meant for us. Never ends where the system does not tell of any.
pub async fn interrupted() {
    loop {
        if tokio::signal::ctrl_c().await.is_err() {
            return pending().await;
        }
        if HELD.load(Ordering::Relaxed) == 0 {
            return;
        }
    }
}
