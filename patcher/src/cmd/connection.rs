//! The flags that say where the cluster is, and what they give: clients of nodes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;

use super::fleet::Fleet;
use crate::api::{NodeClient, TalosClient};
use crate::exit::UsageError;
use crate::output;
use crate::talosconfig::{Context, Environment, TalosConfig};
use crate::transport::{
    CONNECT_TIMEOUT, CONNECT_TIMEOUT_VIA, Dialer, Endpoint, Fingerprint, Jump, Pool, ProxyRules, Route,
    maintenance, mutual,
};

/// Where the cluster is.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The talosconfig; without it $TALOSCONFIG, ~/.talos/config, or that of the pod
    #[arg(long, global = true, value_name = "PATH")]
    pub talosconfig: Option<PathBuf>,

    /// The context of the talosconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,

    /// Nodes to act on, in place of those of the context
    #[arg(short, long, global = true, value_name = "NODE", value_delimiter = ',')]
    pub nodes: Vec<String>,

    /// Endpoints to connect to, in place of those of the context
    #[arg(short, long, global = true, value_name = "HOST", value_delimiter = ',')]
    pub endpoints: Vec<String>,

    /// Name of the cluster, for a proxy that serves several
    #[arg(short, long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,

    /// Connect through ssh: ssh://user@host:port, user and port may be left out, several hops with commas
    #[arg(long, global = true, value_name = "SSH")]
    pub via: Option<Jump>,
}

/// Maintenance mode.
#[derive(Args, Clone, Debug, Default)]
pub struct Insecure {
    /// Talk to nodes in maintenance mode: encrypted, but nobody proves who they are
    #[arg(short, long)]
    pub insecure: bool,

    /// With --insecure: accept only a server with this fingerprint, as its console shows it
    #[arg(long, value_name = "FINGERPRINT", value_delimiter = ',', requires = "insecure")]
    pub cert_fingerprint: Vec<Fingerprint>,
}

/// A client, and the nodes that the command is for.
#[derive(Debug)]
pub struct Session {
    client: TalosClient,
    nodes: Vec<String>,
    endpoints: Vec<String>,
}

impl Connection {
    /// Opens the talosconfig. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be used.
    pub fn talosconfig(&self) -> anyhow::Result<TalosConfig> {
        let config = TalosConfig::open(self.talosconfig.as_deref(), &Environment::from_process())?;
        let location = config.location();
        if let Some((location, named)) =
            location.and_then(|it| it.passed_over.as_ref().map(|named| (it, named)))
        {
            output::note(&format!(
                "warning: TALOSCONFIG names {}, which does not exist; using {}",
                named.display(),
                location.path.display()
            ));
        }
        Ok(config)
    }

    /// A client with the credentials of the context.
    ///
    /// # Errors
    ///
    /// When the talosconfig cannot be used, or there are no endpoints.
    pub fn session(&self) -> anyhow::Result<Session> {
        self.session_of(&self.talosconfig()?)
    }

    /// As [`Connection::session`], of a talosconfig that was read before.
    ///
    /// # Errors
    ///
    /// When it cannot be used, or there are no endpoints.
    pub fn session_of(&self, config: &TalosConfig) -> anyhow::Result<Session> {
        let context = config.context(self.context.as_deref()).with_context(|| match config.location() {
            Some(location) => format!("the talosconfig {} cannot be used", location.path.display()),
            None => "the talosconfig cannot be used".to_owned(),
        })?;
        let endpoints = if self.endpoints.is_empty() { &context.endpoints } else { &self.endpoints };
        if endpoints.is_empty() {
            let text =
                "there are no endpoints: give them with -e, or set them with `ichorctl config endpoint`";
            return Err(UsageError(text.to_owned()).into());
        }
        let parsed = endpoints.iter().map(|text| text.parse::<Endpoint>()).collect::<Result<Vec<_>, _>>();
        let parsed = parsed.map_err(|error| UsageError(error.to_string()))?;
        let pool =
            Pool::new(self.dialer(Some(&context), |context| mutual(&context.credentials))?, parsed, spread());
        let mut client = TalosClient::new(Arc::new(pool));
        if let Some(cluster) = self.cluster.as_deref().or(context.cluster.as_deref()) {
            client = client.with_cluster(cluster)?;
        }
        if let Some(auth) = &context.basic_auth {
            client = client.with_basic_auth(auth)?;
        }
        let nodes = if self.nodes.is_empty() { context.nodes } else { self.nodes.clone() };
        Ok(Session { client, nodes: distinct(nodes), endpoints: endpoints.clone() })
    }

    /// The same, or a client of nodes in maintenance mode if that is asked for. Those must be named.
    ///
    /// # Errors
    ///
    /// As [`Connection::session`].
    pub fn session_or_insecure(&self, insecure: &Insecure) -> anyhow::Result<Session> {
        if !insecure.insecure {
            return self.session();
        }
        let dialer = self.dialer(None, |_| maintenance(insecure.cert_fingerprint.clone()))?;
        let client = TalosClient::direct(dialer);
        Ok(Session { client, nodes: distinct(self.nodes.clone()), endpoints: Vec::new() })
    }

    fn dialer(
        &self,
        context: Option<&Context>,
        tls: impl FnOnce(
            &Context,
        ) -> Result<Arc<tokio_rustls::rustls::ClientConfig>, crate::transport::TlsProblem>,
    ) -> anyhow::Result<Dialer> {
        let nobody = Context::default();
        let tls = tls(context.unwrap_or(&nobody)).context("the credentials of the context cannot be used")?;
        let (route, timeout) = match &self.via {
            Some(jump) => (Route::Via(jump.clone()), CONNECT_TIMEOUT_VIA),
            None => {
                let setting = context.and_then(|context| context.proxy.as_ref());
                (Route::Network(ProxyRules::new(setting, &Environment::from_process())?), CONNECT_TIMEOUT)
            }
        };
        Ok(Dialer { route, tls, timeout })
    }
}

impl Session {
    /// Clients of all nodes of the command.
    ///
    /// # Errors
    ///
    /// When there are none, or one is not a node.
    pub fn fleet(&self) -> anyhow::Result<Fleet> {
        if self.nodes.is_empty() {
            let text = "there are no nodes: give them with -n, or set them with `ichorctl config node`";
            return Err(UsageError(text.to_owned()).into());
        }
        let nodes = self.nodes.iter().map(|name| self.node(name)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Fleet::new(nodes))
    }

    /// The client of the one node of a command that takes no more.
    ///
    /// # Errors
    ///
    /// When there is another number of nodes.
    pub fn single(&self, command: &str) -> anyhow::Result<NodeClient> {
        match &*self.nodes {
            [name] => self.node(name),
            nodes => Err(UsageError(format!("{command} needs exactly one node, not {}", nodes.len())).into()),
        }
    }

    /// The client of any node of the cluster.
    ///
    /// # Errors
    ///
    /// When it is not a node.
    pub fn node(&self, name: &str) -> anyhow::Result<NodeClient> {
        self.client.node(name).map_err(|error| UsageError(format!("{:#}", anyhow::Error::from(error))).into())
    }

    /// Whichever endpoint comes next, for what any control plane node can answer.
    pub(crate) fn any_endpoint(&self) -> Option<NodeClient> {
        self.client.any_endpoint()
    }

    /// The endpoints, as they were given.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }
}

/// Each node once, in the order in which they were given.
fn distinct(nodes: Vec<String>) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::with_capacity(nodes.len());
    for node in nodes.into_iter().map(|node| node.trim().to_owned()) {
        if !node.is_empty() && !distinct.contains(&node) {
            distinct.push(node);
        }
    }
    distinct
}

/// Where the rotation of endpoints starts: another place in each process.
fn spread() -> usize {
    std::process::id() as usize
}
