//! Requests to the Kubernetes API: one HTTP/2 connection per endpoint, and the next endpoint when one is of no use.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube_core::Status;
use kube_core::params::ListParams;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::access::{Access, Token};
use super::error::{Attempt, AttemptProblem, KubernetesError};
use crate::talosconfig::Environment;
use crate::transport::{
    ByteStream, CONNECT_TIMEOUT, CONNECT_TIMEOUT_VIA, ConnectError, Dialer, Endpoint, Jump, ProxyError,
    ProxyRules, Route, mutual,
};

/// How long one endpoint may take for one answer, once it is connected.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Larger answers are refused. A page of a list has a few megabytes at most.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// How many objects of a list are asked for at once, and how often more are asked for.
const PAGE: u32 = 200;
const MAX_PAGES: usize = 100;

/// A client of the Kubernetes API of one cluster. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Kubernetes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dialer: Dialer,
    token: Token,
    members: Vec<Member>,
    /// The endpoint that answered last.
    current: AtomicUsize,
}

#[derive(Debug)]
struct Member {
    endpoint: Endpoint,
    sender: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

/// An answer, as it came.
struct Answer {
    status: StatusCode,
    body: Bytes,
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMeta,
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
struct PageMeta {
    #[serde(default, rename = "continue")]
    next: String,
}

impl Kubernetes {
    /// A client that goes to `hosts`, and to the server that `access` names when none of them answers. Nothing is
    /// connected yet.
    ///
    /// # Errors
    ///
    /// When the credentials cannot be used.
    pub fn new(access: Access, route: Route, hosts: &[Endpoint]) -> Result<Self, KubernetesError> {
        let tls = mutual(&access.credentials).map_err(KubernetesError::Credentials)?;
        let timeout = if matches!(route, Route::Via(_)) { CONNECT_TIMEOUT_VIA } else { CONNECT_TIMEOUT };
        let mut endpoints = hosts.to_vec();
        if !endpoints.contains(&access.server) {
            endpoints.push(access.server);
        }
        let members = endpoints.into_iter().map(|endpoint| Member { endpoint, sender: Mutex::default() });
        Ok(Self(Arc::new(Shared {
            dialer: Dialer { route, tls, timeout },
            token: access.token,
            members: members.collect(),
            current: AtomicUsize::new(0),
        })))
    }

    /// The way to the API: through ssh if `via` says so, else by the network and the proxy of the environment.
    ///
    /// # Errors
    ///
    /// When the environment names a proxy that is none.
    pub fn route(via: Option<&Jump>) -> Result<Route, ProxyError> {
        match via {
            Some(jump) => Ok(Route::Via(jump.clone())),
            None => Ok(Route::Network(ProxyRules::new(None, &Environment::from_process())?)),
        }
    }

    /// The endpoints, those that are tried first at the beginning.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.0.members.iter().map(|member| &member.endpoint)
    }

    /// Makes a request and reads its answer. `what` is what it does, for messages.
    ///
    /// The request may arrive twice when a connection breaks: whoever makes it can tell from the second answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        request: Result<Request<Vec<u8>>, kube_core::request::Error>,
    ) -> Result<T, KubernetesError> {
        let request = request
            .map_err(|source| KubernetesError::Request { what: what.to_owned(), source: Box::new(source) })?;
        let (parts, body) = request.into_parts();
        let body = Bytes::from(body);
        let count = self.0.members.len();
        let first = self.0.current.load(Ordering::Relaxed);
        let mut attempts = Vec::new();
        for index in (0..count).map(|offset| (first + offset) % count) {
            let member = &self.0.members[index];
            let request = self.address(what, &parts, &body, &member.endpoint)?;
            match self.attempt(member, request).await {
                Ok(Some(answer)) => {
                    self.0.current.store(index, Ordering::Relaxed);
                    return read(what, &answer);
                }
                Ok(None) => return Err(KubernetesError::TooLarge { what: what.to_owned() }),
                Err(problem) => attempts.push(Attempt { endpoint: member.endpoint.clone(), problem }),
            }
        }
        Err(KubernetesError::Unreachable(attempts))
    }

    /// All objects of a list that have these fields, page by page.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        what: &str,
        resource: &kube_core::Request,
        fields: Option<&str>,
    ) -> Result<Vec<T>, KubernetesError> {
        let mut items = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector = fields.map(str::to_owned);
        for _ in 0..MAX_PAGES {
            let page: Page<T> = self.ask(what, resource.list(&params)).await?;
            items.extend(page.items);
            if page.metadata.next.is_empty() {
                return Ok(items);
            }
            params.continue_token = Some(page.metadata.next);
        }
        Err(KubernetesError::TooLarge { what: what.to_owned() })
    }

    fn address(
        &self,
        what: &str,
        parts: &http::request::Parts,
        body: &Bytes,
        endpoint: &Endpoint,
    ) -> Result<Request<Full<Bytes>>, KubernetesError> {
        let refuse = |source| KubernetesError::Request { what: what.to_owned(), source };
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder().scheme("https").authority(endpoint.authority()).path_and_query(path).build();
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri.map_err(|error| refuse(Box::new(error)))?;
        *request.headers_mut() = parts.headers.clone();
        if let Some(token) = self.0.token.read()? {
            let text = Zeroizing::new(format!("Bearer {}", *token));
            let value = HeaderValue::from_str(&text);
            let mut value = value.map_err(|_| refuse("the token cannot be sent".into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// One request to one endpoint. A connection that was kept and turns out to be dead is made anew, once. None: the
    /// answer is too large.
    async fn attempt(
        &self,
        member: &Member,
        request: Request<Full<Bytes>>,
    ) -> Result<Option<Answer>, AttemptProblem> {
        let kept = member.sender.lock().await.clone().filter(|sender| !sender.is_closed());
        if let Some(sender) = kept {
            match exchange(sender, request.clone()).await {
                Err(AttemptProblem::Broken(_)) => {}
                result => return member.keep_if_good(result).await,
            }
        }
        let endpoint = &member.endpoint;
        let sender = self.0.dialer.open(endpoint, |stream| greet(stream, endpoint)).await?;
        *member.sender.lock().await = Some(sender.clone());
        member.keep_if_good(exchange(sender, request).await).await
    }
}

impl Member {
    /// Drops the connection when it did not answer.
    async fn keep_if_good(
        &self,
        result: Result<Option<Answer>, AttemptProblem>,
    ) -> Result<Option<Answer>, AttemptProblem> {
        if matches!(result, Err(AttemptProblem::Broken(_) | AttemptProblem::Timeout(_))) {
            *self.sender.lock().await = None;
        }
        result
    }
}

/// Begins HTTP/2.
async fn greet(stream: ByteStream, endpoint: &Endpoint) -> Result<SendRequest<Full<Bytes>>, ConnectError> {
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| ConnectError::Cut {
        endpoint: endpoint.clone(),
        source: std::io::Error::other(error),
    })?;
    // It ends with the last sender. How it ends is what requests see.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn exchange(
    mut sender: SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Option<Answer>, AttemptProblem> {
    let exchange = async {
        sender.ready().await.map_err(AttemptProblem::Broken)?;
        let response = sender.send_request(request).await.map_err(AttemptProblem::Broken)?;
        let (parts, body) = response.into_parts();
        let body = collect(body).await?;
        Ok(body.map(|body| Answer { status: parts.status, body }))
    };
    let late = AttemptProblem::Timeout(ANSWER_TIMEOUT.as_secs());
    match timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or(Err(late))? {
        Some(answer) if answer.status.is_server_error() => {
            Err(AttemptProblem::Unable { code: answer.status.as_u16(), message: status_of(&answer).message })
        }
        answer => Ok(answer),
    }
}

/// The whole body, or None when it is too large.
async fn collect(body: Incoming) -> Result<Option<Bytes>, AttemptProblem> {
    match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
        Ok(body) => Ok(Some(body.to_bytes())),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(AttemptProblem::Broken(*error)),
            Err(_) => Ok(None),
        },
    }
}

fn read<T: DeserializeOwned>(what: &str, answer: &Answer) -> Result<T, KubernetesError> {
    if !answer.status.is_success() {
        return Err(KubernetesError::Refused { what: what.to_owned(), status: Box::new(status_of(answer)) });
    }
    serde_json::from_slice(&answer.body)
        .map_err(|source| KubernetesError::Answer { what: what.to_owned(), source })
}

/// What an answer that is no success says.
fn status_of(answer: &Answer) -> Status {
    let mut status: Status = serde_json::from_slice(&answer.body).unwrap_or_default();
    status.code = answer.status.as_u16();
    if status.message.is_empty() {
        status.message = answer.status.canonical_reason().unwrap_or("no reason given").to_owned();
    }
    status
}
