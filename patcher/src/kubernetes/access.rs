//! Where the Kubernetes API is and what proves who we are: from a kubeconfig, or from a pod's service account.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::api::{self, NodeClient};
use crate::files::read_bounded;
use crate::talosconfig::Credentials;
use crate::transport::{Endpoint, EndpointError};

/// The port of the API server on a control plane node, unless its config says otherwise (Talos:
/// `cluster.controlPlane.localAPIServerPort`).
pub const API_SERVER_PORT: u16 = 6443;

/// Where Kubernetes mounts the service account of a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A token has a few kilobytes, and so has a CA.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// An API server and what is shown to it.
#[derive(Debug)]
pub struct Access {
    /// Where it is, as the kubeconfig or the pod's environment says.
    pub server: Endpoint,
    pub(super) credentials: Credentials,
    pub(super) token: Token,
}

/// What is sent as a bearer token.
pub(super) enum Token {
    /// None: the certificate says who we are.
    None,
    /// This.
    Text(Zeroizing<String>),
    /// What the file has at the moment: it changes every hour.
    File(PathBuf),
}

/// Why there is no access.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The node did not send the kubeconfig.
    #[error("failed to get the kubeconfig from Talos")]
    Talos(#[from] api::KubeconfigError),
    /// It is not a kubeconfig.
    #[error("the kubeconfig is not valid YAML")]
    Syntax(#[source] yaml_serde::Error),
    /// Something in it is missing.
    #[error("the kubeconfig has no {0}")]
    Missing(&'static str),
    /// It wants something that is not done: it comes over the network, and must not name files or programs.
    #[error("the kubeconfig has {0}, which is not supported here")]
    Unsupported(&'static str),
    /// A certificate or key in it is unusable.
    #[error("{key} of the kubeconfig {problem}")]
    Credentials {
        /// `ca`, `crt` or `key`.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The address of the API server is none.
    #[error("the address of the API server is unusable")]
    Server(#[from] EndpointError),
    /// A file of the service account cannot be read.
    #[error("failed to read {path}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The CA of the service account is none.
    #[error("{0} holds no certificates")]
    NoCertificates(String),
}

impl Access {
    /// What the admin of the cluster has: the kubeconfig that a control plane node gives.
    ///
    /// # Errors
    ///
    /// Those of the call, and as [`Access::of_kubeconfig`].
    pub async fn of_talos(node: &NodeClient) -> Result<Self, AccessError> {
        Self::of_kubeconfig(&node.kubeconfig().await?)
    }

    /// What the current context of a kubeconfig says. Certificates, keys and tokens must be in it: a kubeconfig that
    /// came from elsewhere names no files to read and no programs to run.
    ///
    /// # Errors
    ///
    /// When it is none, or wants something else.
    pub fn of_kubeconfig(text: &str) -> Result<Self, AccessError> {
        let config: Kubeconfig = yaml_serde::from_str(text).map_err(AccessError::Syntax)?;
        let current = config.current_context.as_deref().unwrap_or_default();
        let context = config.contexts.iter().find(|it| it.name == current);
        let context = &context.ok_or(AccessError::Missing("current context"))?.context;
        let cluster = config.clusters.iter().find(|it| it.name == context.cluster);
        let cluster = &cluster.ok_or(AccessError::Missing("cluster"))?.cluster;
        let user = config.users.iter().find(|it| it.name == context.user);
        let user = &user.ok_or(AccessError::Missing("user"))?.user;
        let unsupported = [
            (cluster.insecure_skip_tls_verify == Some(true), "insecure-skip-tls-verify"),
            (cluster.certificate_authority.is_some(), "certificate-authority as a file"),
            (cluster.tls_server_name.is_some(), "tls-server-name"),
            (user.exec.is_some(), "exec"),
            (user.auth_provider.is_some(), "auth-provider"),
            (
                user.client_certificate.is_some() || user.client_key.is_some(),
                "a client certificate as a file",
            ),
            (user.token_file.is_some(), "tokenFile"),
            (user.username.is_some(), "username"),
        ];
        if let Some((_, what)) = unsupported.into_iter().find(|(is_there, _)| *is_there) {
            return Err(AccessError::Unsupported(what));
        }
        let server = cluster.server.as_deref().ok_or(AccessError::Missing("server"))?;
        if !server.starts_with("https://") {
            return Err(AccessError::Unsupported("a server without TLS"));
        }
        let credentials = Credentials::decode(
            cluster.certificate_authority_data.as_deref(),
            user.client_certificate_data.as_deref(),
            user.client_key_data.as_ref().map(|key| key.0.as_str()),
        );
        let credentials = credentials.map_err(|(key, problem)| AccessError::Credentials { key, problem })?;
        let token = user.token.as_ref().map_or(Token::None, |token| Token::Text(token.0.clone()));
        Ok(Self { server: server.parse()?, credentials, token })
    }

    /// What a pod has. None when this process is not in one that may use the Kubernetes API.
    ///
    /// # Errors
    ///
    /// When its credentials cannot be used.
    pub fn of_pod() -> Result<Option<Self>, AccessError> {
        Self::of_pod_at(Path::new(SERVICE_ACCOUNT), |name| std::env::var(name).ok())
    }

    fn of_pod_at(
        directory: &Path,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, AccessError> {
        let token = directory.join("token");
        let host = variable("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty());
        let Some(host) = host.filter(|_| token.exists()) else { return Ok(None) };
        let port = variable("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok()).unwrap_or(443);
        let path = directory.join("ca.crt");
        let shown = path.display().to_string();
        let pem = read_bounded(&path, MAX_FILE_BYTES)
            .map_err(|source| AccessError::File { path: shown.clone(), source })?;
        let ca: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let ca = ca.ok().filter(|ca| !ca.is_empty()).ok_or(AccessError::NoCertificates(shown))?;
        Ok(Some(Self {
            server: Endpoint::new(&host, port)?,
            credentials: Credentials { ca, client: None },
            token: Token::File(token),
        }))
    }
}

impl Token {
    /// The token as it is now.
    pub(super) fn read(&self) -> Result<Option<Zeroizing<String>>, AccessError> {
        match self {
            Self::None => Ok(None),
            Self::Text(text) => Ok(Some(text.clone())),
            Self::File(path) => {
                let fail = |source| AccessError::File { path: path.display().to_string(), source };
                let text = read_bounded(path, MAX_FILE_BYTES).map(Zeroizing::new).map_err(fail)?;
                Ok(Some(Zeroizing::new(text.trim().to_owned())))
            }
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Text(_) => f.write_str("Text"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Text that is wiped when it goes.
struct Secret(Zeroizing<String>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: Option<String>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: Option<String>,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    tls_server_name: Option<String>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<Secret>,
    token: Option<Secret>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    username: Option<String>,
    exec: Option<yaml_serde::Value>,
    auth_provider: Option<yaml_serde::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(cluster: &str, user: &str) -> String {
        format!(
            "current-context: admin@lab\nclusters:\n- name: lab\n  cluster: {{{cluster}}}\ncontexts:\n- name: admin@lab\n  \
             context: {{cluster: lab, user: admin@lab}}\nusers:\n- name: admin@lab\n  user: {{{user}}}\n"
        )
    }

    #[test]
    fn a_kubeconfig_says_where_the_server_is_and_how_to_log_in() {
        let text = kubeconfig("server: 'https://10.0.0.2:6443'", "token: abc");
        let access = Access::of_kubeconfig(&text).unwrap();
        assert_eq!(access.server.to_string(), "10.0.0.2:6443");
        assert_eq!(access.token.read().unwrap().unwrap().as_str(), "abc");
        assert!(!format!("{access:?}").contains("abc"));
    }

    #[test]
    fn the_kubeconfig_of_talos_makes_a_client() {
        let access = Access::of_kubeconfig(include_str!("../../tests/fixtures/kubeconfig.yaml")).unwrap();
        let route = crate::kubernetes::Kubernetes::route(None).unwrap();
        let host = Endpoint::new("10.0.0.3", API_SERVER_PORT).unwrap();
        let client = crate::kubernetes::Kubernetes::new(access, route, &[host]).unwrap();
        let endpoints: Vec<String> = client.endpoints().map(ToString::to_string).collect();
        assert_eq!(endpoints, ["10.0.0.3:6443", "10.0.0.2:6443"]);
        assert!(!format!("{client:?}").contains("BEGIN"));
    }

    #[test]
    fn a_kubeconfig_that_names_files_or_programs_is_refused() {
        let server = "server: 'https://a'";
        for (cluster, user) in [
            (server, "exec: {command: /bin/true}"),
            (server, "auth-provider: {name: x}"),
            (server, "client-key: /etc/shadow"),
            (server, "tokenFile: /etc/shadow"),
            ("server: 'https://a', certificate-authority: /etc/passwd", "token: a"),
            ("server: 'https://a', insecure-skip-tls-verify: true", "token: a"),
            ("server: 'http://a'", "token: a"),
        ] {
            let error = Access::of_kubeconfig(&kubeconfig(cluster, user)).unwrap_err();
            assert!(matches!(error, AccessError::Unsupported(_)), "{cluster} {user}: {error}");
        }
    }

    #[test]
    fn what_is_no_kubeconfig_is_refused() {
        let error = |text: &str| Access::of_kubeconfig(text).unwrap_err();
        assert!(matches!(error("{"), AccessError::Syntax(_)));
        assert!(matches!(error("{}"), AccessError::Missing("current context")));
        assert!(matches!(error(&kubeconfig("", "token: a")), AccessError::Missing("server")));
        let damaged = kubeconfig("server: 'https://a', certificate-authority-data: '*'", "token: a");
        assert!(matches!(error(&damaged), AccessError::Credentials { key: "ca", .. }));
    }

    #[test]
    fn a_pod_has_its_service_account_and_anything_else_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let host = |name: &str| (name == "KUBERNETES_SERVICE_HOST").then(|| "10.96.0.1".to_owned());
        assert!(Access::of_pod_at(directory.path(), host).unwrap().is_none(), "no token");
        std::fs::write(directory.path().join("token"), "abc\n").unwrap();
        assert!(Access::of_pod_at(directory.path(), |_| None).unwrap().is_none(), "no cluster");
        assert!(matches!(Access::of_pod_at(directory.path(), host), Err(AccessError::File { .. })));
        let ca = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().cert.pem();
        std::fs::write(directory.path().join("ca.crt"), ca).unwrap();
        let access = Access::of_pod_at(directory.path(), host).unwrap().unwrap();
        assert_eq!(access.server.to_string(), "10.96.0.1:443");
        assert_eq!(access.token.read().unwrap().unwrap().as_str(), "abc");
    }
}
