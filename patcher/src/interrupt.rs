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
