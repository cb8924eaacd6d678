//! Ctrl-C, which ends the program unless an editor has the terminal.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Waits for whoever wants a run to end at the next good moment: Ctrl-C, or the SIGTERM of a pod that is deleted.
pub(crate) async fn asked_to_end() {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
    let term = async {
        match &mut terminated {
            Some(signal) => drop(signal.recv().await),
            None => pending().await,
        }
    };
    tokio::select! {
        result = tokio::signal::ctrl_c() => if result.is_err() { pending().await },
        () = term => {}
    }
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
