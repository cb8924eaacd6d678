//! The Talos API, one node at a time.
//!
//! A [`TalosClient`] knows the endpoints of a cluster and who we are; [`TalosClient::node`] gives a [`NodeClient`],
//! which is cheap to clone and has one method per call. Each call goes to one node, has a deadline, and fails with
//! an [`ApiError`] that says which node, which call, why, and what to do. Calls to several nodes are several
//! calls, made side by side by the caller.

mod call;
mod config;
mod cosi;
mod error;
mod etcd;
mod files;
mod host;
mod image;
mod lifecycle;
mod machine;
mod power;
mod recover;
mod service;
mod stream;
mod version;

use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};

pub use config::{ApplyOptions, ConfigId};
pub use cosi::{Event, ListFilter, Resource, SpecError, Watch, WatchFilter};
pub use error::{ApiError, Cause};
pub use files::KubeconfigError;
pub use image::ImagePull;
pub use lifecycle::{Installer, InstallerError};
pub use machine::{Extensions, MachineStatus, UPGRADE_MARKER, Unmet};
pub use power::{EPHEMERAL, RebootMode, Reset, Wipe};
pub use recover::{Bootstrap, RecoverError};
pub use service::LogSource;
pub use stream::NodeStream;
pub use version::{Capabilities, Support, TalosVersion, VersionError};

use crate::talosconfig::BasicAuth;
use crate::transport::{Dialer, Endpoint, EndpointError, Pool};

/// How long a call may take when nobody says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Largest message in either direction: what the server takes, and what the official client takes.
const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// Access to the nodes of a cluster, or to nodes in maintenance mode.
#[derive(Clone, Debug)]
pub struct TalosClient {
    access: Access,
    headers: Headers,
}

#[derive(Clone, Debug)]
enum Access {
    /// Endpoints forward each call to the node that it names.
    Cluster(Arc<Pool>),
    /// Each node is dialled itself.
    Direct(Dialer),
}

/// Headers that every call carries.
#[derive(Clone, Debug, Default)]
struct Headers {
    /// Name of the cluster, for proxies.
    context: Option<MetadataValue<Ascii>>,
    /// Credentials, for proxies. Marked as sensitive, so that `Debug` does not show them.
    authorization: Option<MetadataValue<Ascii>>,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeClient {
    name: Arc<str>,
    pool: Arc<Pool>,
    headers: Headers,
    /// None: the node is the one that answers.
    node: Option<MetadataValue<Ascii>>,
    deadline: Duration,
    avoid: Arc<[String]>,
}

/// A name that no call can be sent to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeNameError {
    /// Not a bare address or name.
    #[error("{0:?} is not a node: give an address or name without port; ports belong to endpoints")]
    NotBare(String),
    /// A node in maintenance mode that cannot be dialled.
    #[error("the node cannot be dialled")]
    Endpoint(#[from] EndpointError),
}

/// Text that does not fit into a header.
#[derive(Debug, thiserror::Error)]
#[error("the {0} of the context has characters that cannot be sent")]
pub struct HeaderError(&'static str);

impl TalosClient {
    /// A client of a cluster, through its endpoints.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self { access: Access::Cluster(pool), headers: Headers::default() }
    }

    /// A client of nodes that are dialled directly, each under its own address: maintenance mode.
    pub fn direct(dialer: Dialer) -> Self {
        Self { access: Access::Direct(dialer), headers: Headers::default() }
    }

    /// Names the cluster in each call, for proxies that serve several.
    ///
    /// # Errors
    ///
    /// When the name cannot be sent.
    pub fn with_cluster(mut self, cluster: &str) -> Result<Self, HeaderError> {
        self.headers.context = Some(cluster.parse().map_err(|_| HeaderError("cluster"))?);
        Ok(self)
    }

    /// Sends user and password with each call, for proxies.
    ///
    /// # Errors
    ///
    /// When they cannot be sent.
    pub fn with_basic_auth(mut self, auth: &BasicAuth) -> Result<Self, HeaderError> {
        let header = auth.expose_header();
        let mut value: MetadataValue<Ascii> = header.parse().map_err(|_| HeaderError("authentication"))?;
        value.set_sensitive(true);
        self.headers.authorization = Some(value);
        Ok(self)
    }

    /// The client of one node: a bare address or name, which the endpoint resolves and dials.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn node(&self, name: &str) -> Result<NodeClient, NodeNameError> {
        match &self.access {
            Access::Cluster(pool) => {
                let bare = Endpoint::new(name, crate::transport::API_PORT);
                let header = bare.ok().and_then(|_| name.parse().ok());
                let header = header.ok_or_else(|| NodeNameError::NotBare(name.to_owned()))?;
                Ok(self.client(name, pool.clone(), Some(header)))
            }
            Access::Direct(dialer) => {
                let pool = Pool::new(dialer.clone(), vec![name.parse()?], 0);
                Ok(self.client(name, Arc::new(pool), None))
            }
        }
    }

    /// The client of whichever endpoint comes next, for what any control plane node can answer. None without
    /// endpoints.
    pub fn any_endpoint(&self) -> Option<NodeClient> {
        match &self.access {
            Access::Cluster(pool) => Some(self.client("the endpoint", pool.clone(), None)),
            Access::Direct(_) => None,
        }
    }

    fn client(&self, name: &str, pool: Arc<Pool>, node: Option<MetadataValue<Ascii>>) -> NodeClient {
        NodeClient {
            name: name.into(),
            pool,
            headers: self.headers.clone(),
            node,
            deadline: DEADLINE,
            avoid: Arc::new([]),
        }
    }
}

impl NodeClient {
    /// The node, as the user named it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same node with another deadline for each call.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Another node, named by this address and dialled by the same endpoints.
    ///
    /// # Errors
    ///
    /// When it cannot be the name of a node.
    pub fn elsewhere(&self, address: &str) -> Result<Self, NodeNameError> {
        let node = address.parse().map_err(|_| NodeNameError::NotBare(address.to_owned()))?;
        Ok(Self { name: address.into(), node: Some(node), ..self.clone() })
    }

    /// The same node, reached through endpoints on these hosts only if no other can be connected.
    #[must_use]
    pub fn avoiding(mut self, hosts: &[String]) -> Self {
        self.avoid = hosts.into();
        self
    }

    fn error(&self, call: &'static str, cause: Cause) -> ApiError {
        ApiError { node: self.name.to_string(), call, cause }
    }
}
