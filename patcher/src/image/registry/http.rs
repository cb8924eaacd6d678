//! One HTTP request at a time, with bounds.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use zeroize::Zeroizing;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a request with its answer may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The largest answer that is no blob, in bytes.
pub(super) const MAX_ANSWER: u64 = 1 << 20;

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpProblem {
    /// Not `http://` or `https://` with a host.
    #[error("{0:?} is no address of a server")]
    Address(String),
    /// Credentials and images do not travel in the open unless the user says so.
    #[error("{0} is not encrypted (--plain-http allows that)")]
    Plain(String),
    /// Nobody there.
    #[error("{host} cannot be reached")]
    Connect {
        /// The server.
        host: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("{0} does not answer in time")]
    Timeout(String),
    /// The server is not who it should be.
    #[error("TLS with {host} failed")]
    Tls {
        /// The server.
        host: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
    /// Not HTTP, or broken off.
    #[error("the exchange with {host} failed")]
    Exchange {
        /// The server.
        host: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// More than is read.
    #[error("the answer of {host} has more than {limit} bytes")]
    TooLarge {
        /// The server.
        host: String,
        /// The limit.
        limit: u64,
    },
    /// The answer of a token service is not understood.
    #[error("the answer of the token service {0} is not understood")]
    Token(String),
}

/// What is sent, and how much may come back.
pub(super) struct Body {
    header: Option<(HeaderName, String)>,
    bytes: bytes::Bytes,
    limit: u64,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) location: Option<String>,
    pub(super) challenge: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) body: Vec<u8>,
}

/// Makes requests.
pub(super) struct Client {
    tls: Option<TlsConnector>,
    plain: bool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl Body {
    pub(super) fn none() -> Self {
        Self { header: None, bytes: bytes::Bytes::new(), limit: MAX_ANSWER }
    }

    pub(super) fn new(kind: &str, bytes: Vec<u8>) -> Self {
        Self { header: Some((CONTENT_TYPE, kind.to_owned())), bytes: bytes.into(), limit: MAX_ANSWER }
    }

    pub(super) fn accepting(kinds: &str, limit: u64) -> Self {
        Self {
            header: Some((ACCEPT, kinds.to_owned())),
            bytes: bytes::Bytes::new(),
            limit: limit.max(MAX_ANSWER),
        }
    }
}

impl Client {
    pub(super) fn new(plain: bool) -> Result<Self, HttpProblem> {
        let tls = if plain { None } else { Some(tls()?) };
        Ok(Self { tls, plain })
    }

    /// Sends a request; `authorization` is a whole header value.
    pub(super) async fn send(
        &self,
        method: &Method,
        url: &str,
        body: &Body,
        authorization: Option<Zeroizing<String>>,
    ) -> Result<Answer, HttpProblem> {
        let (uri, authority, is_tls) = self.target(url)?;
        let address = || HttpProblem::Address(shown(url));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, authority.as_str())
            .header(USER_AGENT, concat!("ichorctl/", env!("CARGO_PKG_VERSION")));
        if let Some((name, value)) = &body.header {
            request = request.header(name, value);
        }
        if let Some(value) = authorization {
            let mut value = HeaderValue::from_str(&value).map_err(|_| address())?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body.bytes.clone())).map_err(|_| address())?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let name = authority.to_string();
        let connect = |source| HttpProblem::Connect { host: name.clone(), source };
        let late = |_| HttpProblem::Timeout(name.clone());
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((&*host, port)));
        let stream = stream.await.map_err(late)?.map_err(connect)?;
        let exchange = async {
            match &self.tls {
                Some(tls) if is_tls => {
                    let server = ServerName::try_from(host).map_err(|_| address())?;
                    let tls_failed = |source| HttpProblem::Tls { host: name.clone(), source };
                    let stream = tls.connect(server, stream).await.map_err(tls_failed)?;
                    exchange(stream, request, &name, body.limit).await
                }
                _ => exchange(stream, request, &name, body.limit).await,
            }
        };
        timeout(REQUEST_TIMEOUT, exchange).await.map_err(late)?
    }

    fn target(&self, url: &str) -> Result<(Uri, Authority, bool), HttpProblem> {
        let address = || HttpProblem::Address(shown(url));
        let uri: Uri = url.parse().map_err(|_| address())?;
        let authority = uri.authority().cloned().ok_or_else(address)?;
        if authority.as_str().contains('@') {
            return Err(address());
        }
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS && !self.plain => Ok((uri, authority, true)),
            Some(scheme) if *scheme == Scheme::HTTP && self.plain => Ok((uri, authority, false)),
            Some(scheme) if *scheme == Scheme::HTTP => Err(HttpProblem::Plain(shown(url))),
            _ => Err(address()),
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<bytes::Bytes>>,
    host: &str,
    limit: u64,
) -> Result<Answer, HttpProblem> {
    let failed = |source| HttpProblem::Exchange { host: host.to_owned(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let (parts, body) = response.into_parts();
        let room = usize::try_from(limit).unwrap_or(usize::MAX);
        let body = Limited::new(body, room).collect().await.map_err(|error| {
            if error.downcast_ref::<LengthLimitError>().is_some() {
                return HttpProblem::TooLarge { host: host.to_owned(), limit };
            }
            match error.downcast::<hyper::Error>() {
                Ok(source) => failed(*source),
                Err(other) => HttpProblem::Setup(other.to_string()),
            }
        })?;
        Ok(Answer {
            status: parts.status,
            location: text(&parts.headers, LOCATION),
            challenge: text(&parts.headers, WWW_AUTHENTICATE),
            content_type: text(&parts.headers, CONTENT_TYPE),
            body: body.to_bytes().to_vec(),
        })
    };
    let answer = answer.await;
    connection.abort();
    answer
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn tls() -> Result<TlsConnector, HttpProblem> {
    let mut roots = RootCertStore::empty();
    // Some machines have damaged certificates among good ones; those are passed over.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(HttpProblem::Setup("this machine has no certificate authorities".to_owned()));
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpProblem::Setup(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An address without what may be secret in it.
fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or(url).chars().take(200).collect()
}

/// The address that a `Location` names, seen from `base`.
pub(super) fn resolve(base: &str, location: &str) -> Option<String> {
    if location.starts_with("https://") || location.starts_with("http://") {
        return Some(location.to_owned());
    }
    let origin = origin(base)?;
    location.starts_with('/').then(|| format!("{origin}{location}"))
}

/// True when both are on the same server.
pub(super) fn same_origin(one: &str, other: &str) -> bool {
    origin(one).is_some() && origin(one) == origin(other)
}

fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(format!("{}://{}", uri.scheme()?, uri.authority()?))
}

/// Percent-encodes a value for a query (RFC 3986, 2.3).
pub(super) fn encode(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_resolved_against_the_server() {
        let base = "https://a.b:5000/v2/x/blobs/uploads/";
        assert_eq!(resolve(base, "/v2/y?z").as_deref(), Some("https://a.b:5000/v2/y?z"));
        assert_eq!(resolve(base, "https://c.d/e").as_deref(), Some("https://c.d/e"));
        assert_eq!(resolve(base, "ftp://c.d/e"), None);
        assert!(same_origin(base, "https://a.b:5000/other") && !same_origin(base, "https://a.b/other"));
    }

    #[test]
    fn nothing_travels_in_the_open_unasked() {
        let client = Client { tls: None, plain: false };
        assert!(matches!(client.target("http://a.b/v2/"), Err(HttpProblem::Plain(_))));
        assert!(matches!(client.target("https://user:pw@a.b/"), Err(HttpProblem::Address(_))));
        assert!(client.target("https://a.b/v2/").is_ok());
    }

    #[test]
    fn values_of_queries_are_encoded() {
        assert_eq!(encode("sha256:ab/c d"), "sha256%3Aab%2Fc%20d");
    }
}
