//! Logs: to stderr, levels by `ICHOR_LOG`.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Names the levels: one of `error`, `warn`, `info`, `debug`, or `target=level` pairs with commas.
pub const LOG_VARIABLE: &str = "ICHOR_LOG";

/// Starts logging to stderr. A value that is not understood is reported and replaced by `info`: a typing error
/// must not keep a node down.
pub fn init() {
    let wanted = std::env::var(LOG_VARIABLE).unwrap_or_default();
    let parsed = if wanted.is_empty() { Ok(Targets::new()) } else { wanted.parse::<Targets>() };
    let (targets, problem) = match parsed {
        Ok(targets) if wanted.is_empty() => (targets.with_default(LevelFilter::INFO), None),
        Ok(targets) => (targets, None),
        Err(error) => (Targets::new().with_default(LevelFilter::INFO), Some(error)),
    };
    // Kernels newer than the netlink crates know make those warn about every message.
    let targets = targets.with_target("netlink_packet_route", LevelFilter::ERROR);
    let format = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second call, in tests, leaves the first in place.
    let _ = tracing_subscriber::registry().with(targets).with(format).try_init();
    if let Some(error) = problem {
        tracing::warn!(%error, value = wanted, "{LOG_VARIABLE} is not understood; logging at info");
    }
}
