//! Where a call goes, and whether its caller may make it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ichor_proto::talos::cluster::cluster_service_server::ClusterServiceServer;
use ichor_proto::talos::cosi::resource::state_server::StateServer;
use ichor_proto::talos::machine::image_service_server::ImageServiceServer;
use ichor_proto::talos::machine::lifecycle_service_server::LifecycleServiceServer;
use ichor_proto::talos::machine::machine_service_server::MachineServiceServer;
use ichor_proto::talos::storage::storage_service_server::StorageServiceServer;
use ichor_proto::talos::time::time_service_server::TimeServiceServer;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;

use crate::talos::model::{Api, Cluster, Fate, Line, MachineType};
use crate::talos::role::{Role, needed};
use crate::talos::simulation::Simulation;

/// Largest message that a node takes.
const MAX_MESSAGE: usize = 32 << 20;
/// How long a node waits for another one to answer (Talos: apid's backend).
const DIAL_LIMIT: Duration = Duration::from_secs(20);

/// Who makes a call, for those who answer it.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) roles: Vec<Role>,
}

/// The API of one node for one client.
#[derive(Debug, Clone)]
pub(super) struct NodeApi {
    pub(super) simulation: Simulation,
    pub(super) node: Arc<str>,
    api: Api,
    roles: Vec<Role>,
}

/// Where a call goes.
enum Target {
    Here,
    There(String),
}

impl NodeApi {
    pub(super) fn new(simulation: Simulation, node: &str, api: Api) -> Self {
        Self { simulation, node: node.into(), api, roles: Vec::new() }
    }

    /// The same for a client whose certificate gives it `roles`.
    pub(super) fn for_client(self, roles: Vec<Role>) -> Self {
        // In maintenance mode nobody has a certificate, and everybody may read.
        let roles = if self.api == Api::Maintenance { vec![Role::Reader] } else { roles };
        Self { roles, ..self }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.route(request).await {
            Ok(response) => response,
            Err(status) => status.into_http(),
        }
    }

    async fn route(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let proxied = request.headers().contains_key("proxyfrom") && self.roles.contains(&Role::Impersonator);
        let roles = match proxied {
            true => roles_in(request.headers()),
            false => self.roles.clone(),
        };
        if !proxied && self.api == Api::Running {
            match self.target(&request)? {
                Target::Here => {}
                Target::There(host) => return self.forward(&host, request).await,
            }
        }
        let path = request.uri().path().to_owned();
        match self.api {
            Api::Maintenance => self.check_maintenance(&path)?,
            _ if needed(&path).iter().any(|role| roles.contains(role)) => {}
            _ => return Err(Status::permission_denied("not authorized")),
        }
        request.extensions_mut().insert(Caller { roles });
        let lost = || Status::unavailable("error reading from server: EOF");
        let method = path.rsplit('/').next().unwrap_or_default();
        if !needed(&path).contains(&Role::Reader) && method != "Read" {
            self.simulation.record(&self.node, method);
        }
        match self.simulation.fate(&self.node, method) {
            Fate::Answered => self.dispatch(&path, request).await,
            Fate::Refused(refusal) => Err(refusal.into()),
            Fate::LostRequest => Err(lost()),
            Fate::LostReply => {
                drop(self.dispatch(&path, request).await);
                Err(lost())
            }
        }
    }

    /// In maintenance mode anybody may read and send a config. Up to 1.12 there is little to read.
    fn check_maintenance(&self, path: &str) -> Result<(), Status> {
        let line = self.look(|cluster| Ok(cluster.node(&self.node)?.line()))?;
        let always = path == "/machine.MachineService/ApplyConfiguration"
            || path == "/storage.StorageService/Disks"
            || path.starts_with("/cosi.resource.State/");
        if always {
            return Ok(());
        }
        if line <= Line::V1_12 {
            return Err(Status::unimplemented("API is not implemented in maintenance mode"));
        }
        match needed(path).contains(&Role::Reader) {
            true => Ok(()),
            false => Err(Status::permission_denied("not authorized")),
        }
    }

    /// The node that a call is for. Talos: internal/app/apid/pkg/director.
    fn target(&self, request: &Request<Incoming>) -> Result<Target, Status> {
        let values = |name: &str| -> Vec<String> {
            let all = request.headers().get_all(name).iter();
            all.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
        };
        let (node, nodes) = (values("node"), values("nodes"));
        if node.len() > 1 {
            return Err(Status::invalid_argument("node metadata must be single-valued"));
        }
        let (forwards, own) = self.look(|cluster| {
            let node = cluster.node(&self.node)?;
            Ok((node.machine_type() == Some(MachineType::ControlPlane), node.cert_sans()))
        })?;
        let is_own = |host: &String| own.contains(host);
        if !forwards {
            let only =
                if nodes.is_empty() { node.first() } else { nodes.first().filter(|_| nodes.len() == 1) };
            return match only {
                None if nodes.is_empty() => Ok(Target::Here),
                Some(host) if is_own(host) => Ok(Target::Here),
                _ => Err(Status::permission_denied("no request forwarding")),
            };
        }
        if !nodes.is_empty() {
            let path = request.uri().path();
            return Err(Status::invalid_argument(format!(
                "one-2-many proxying is not supported for method {path}"
            )));
        }
        match node.into_iter().next() {
            None => Ok(Target::Here),
            Some(host) if host.is_empty() || host.parse::<std::net::SocketAddr>().is_ok() => {
                Err(Status::internal(format!("invalid target {host:?}")))
            }
            Some(host) if is_own(&host) => Ok(Target::Here),
            Some(host) => Ok(Target::There(host)),
        }
    }

    /// Hands a call on as it is, with the roles of who makes it.
    async fn forward(&self, host: &str, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let unavailable = |cause: String| {
            Status::unavailable(format!(
                "connection error: desc = \"transport: Error while dialing: {cause}\""
            ))
        };
        let address = self.simulation.directory().find(host);
        let address = address.ok_or_else(|| unavailable(format!("dial tcp: lookup {host}: no such host")))?;
        let link = (self.node.to_string(), host.to_owned(), address);
        let failed = |cause: &str| unavailable(format!("dial tcp {address}: {cause}"));
        let connect = async {
            let stream = TcpStream::connect(address).await.map_err(|error| failed(&go_error(&error)))?;
            let tls = self.simulation.pki().impersonator().map_err(|error| failed(&error.to_string()))?;
            // Nodes know each other by their addresses.
            let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error.to_string()))?;
            let stream = TlsConnector::from(tls).connect(name, stream).await;
            let stream = stream.map_err(|error| failed(&error.to_string()))?;
            let builder = http2::Builder::new(TokioExecutor::new());
            builder.handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error.to_string()))
        };
        // Nodes keep their connections to each other.
        let kept = self.simulation.links().get(&link).filter(|sender| !sender.is_closed()).cloned();
        let mut sender = match kept {
            Some(sender) => sender,
            None => {
                let connected = tokio::time::timeout(DIAL_LIMIT, connect).await;
                let (sender, connection) = connected.map_err(|_elapsed| failed("i/o timeout"))??;
                tokio::spawn(connection);
                self.simulation.links().insert(link, sender.clone());
                sender
            }
        };
        let (mut parts, body) = request.into_parts();
        parts.headers.remove("node");
        let authority = parts.uri.authority().map_or("apid", |authority| authority.as_str()).to_owned();
        let header =
            |text: &str| HeaderValue::from_str(text).map_err(|error| Status::internal(error.to_string()));
        parts.headers.insert("proxyfrom", header(&authority)?);
        parts.headers.remove("talos-role");
        for role in &self.roles {
            parts.headers.append("talos-role", header(role.name())?);
        }
        let response = sender.send_request(Request::from_parts(parts, body)).await;
        let response =
            response.map_err(|error| Status::unavailable(format!("error reading from server: {error}")))?;
        Ok(response.map(Body::new))
    }

    async fn dispatch(&self, path: &str, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let api = Arc::new(self.clone());
        let unknown = || Err(Status::unimplemented(format!("unknown service {service}")));
        let line = self.look(|cluster| Ok(cluster.node(&self.node)?.line()))?;
        // Answers of generated servers are never errors: those are responses too.
        let response = match service {
            "machine.MachineService" => {
                MachineServiceServer::from_arc(api).max_decoding_message_size(MAX_MESSAGE).call(request).await
            }
            "machine.LifecycleService" | "machine.ImageService" if !line.has_lifecycle() => return unknown(),
            "machine.LifecycleService" => LifecycleServiceServer::from_arc(api).call(request).await,
            "machine.ImageService" => ImageServiceServer::from_arc(api).call(request).await,
            "cosi.resource.State" => StateServer::from_arc(api).call(request).await,
            "cluster.ClusterService" => ClusterServiceServer::from_arc(api).call(request).await,
            "storage.StorageService" => StorageServiceServer::from_arc(api).call(request).await,
            "time.TimeService" => TimeServiceServer::from_arc(api).call(request).await,
            _ => return unknown(),
        };
        match response {
            Ok(response) => Ok(response),
            Err(infallible) => match infallible {},
        }
    }

    pub(super) fn look<R>(
        &self,
        f: impl FnOnce(&Cluster) -> Result<R, crate::talos::model::Refusal>,
    ) -> Result<R, Status> {
        Ok(self.simulation.look(f)?)
    }
}

/// The roles that a node says somebody has.
fn roles_in(headers: &HeaderMap) -> Vec<Role> {
    headers.get_all("talos-role").iter().filter_map(|role| Role::of(role.to_str().ok()?)).collect()
}

/// What Go says about a connection that failed.
fn go_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}
