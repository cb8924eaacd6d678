//! The client calls that no command makes yet, against simulated nodes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ichor_lab::talos::Role;
use ichorctl::api::{ApiError, NodeClient, TalosClient};
use ichorctl::talosconfig::TalosConfig;
use ichorctl::transport::{Dialer, Pool, ProxyRules, Route, mutual};
use tokio::runtime::Runtime;

use crate::world::World;

/// How often a node is asked while something is awaited.
const AGAIN: Duration = Duration::from_millis(50);

/// Somebody with a role, who reaches the nodes through an endpoint.
pub(crate) struct Clients {
    runtime: Runtime,
    talos: TalosClient,
}

impl Clients {
    pub(crate) fn new(world: &World, role: Role, endpoint: &str) -> Self {
        let endpoints = [world.endpoint(endpoint)];
        let text = world.simulation.talosconfig(&[role], &endpoints, &[]).expect("made");
        let context = TalosConfig::parse(&text).expect("a talosconfig").context(None).expect("a context");
        let tls = mutual(&context.credentials).expect("credentials");
        let route = Route::Network(ProxyRules::default());
        let dialer = Dialer { route, tls, timeout: Duration::from_secs(30) };
        let pool = Pool::new(dialer, vec![endpoints[0].parse().expect("an endpoint")], 0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, talos: TalosClient::new(Arc::new(pool)) }
    }

    pub(crate) fn node(&self, address: &str) -> NodeClient {
        self.talos.node(address).expect("an address")
    }

    pub(crate) fn run<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// Asks until the answer is as `is` says. What a node that reboots does not answer is asked again.
    pub(crate) fn until<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        ask: impl Fn() -> F,
        is: impl Fn(&T) -> bool,
    ) -> T {
        self.run(async {
            loop {
                match ask().await {
                    Ok(answer) if is(&answer) => return answer,
                    _ => tokio::time::sleep(AGAIN).await,
                }
            }
        })
    }
}
