//! A container registry in memory, for one test.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ichorctl::image::Digest;
use tokio::net::TcpListener;

/// What the token service of a closed registry gives out.
const TOKEN: &str = "a-token-of-the-test";

/// The name and password of a closed registry, as a header.
const BASIC: &str = "Basic bWU6c2VjcmV0";

/// A registry that listens on loopback as long as the runtime runs.
#[derive(Debug, Clone)]
pub struct TestRegistry {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<String, Bytes>,
    manifests: HashMap<String, (String, Bytes)>,
    uploads: usize,
}

impl TestRegistry {
    /// Starts one. A closed one wants `me` with the password `secret`, by way of a token.
    ///
    /// # Errors
    ///
    /// When it cannot listen.
    pub async fn start(is_closed: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let registry = Self { address: listener.local_addr()?, state: Arc::default(), is_closed };
        let server = registry.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(registry)
    }

    /// How many blobs were uploaded.
    pub fn uploads(&self) -> usize {
        self.state().uploads
    }

    /// Keeps a blob. Returns its digest.
    pub fn put_blob(&self, bytes: Vec<u8>) -> String {
        let digest = Digest::of(&bytes).to_string();
        self.state().blobs.insert(digest.clone(), bytes.into());
        digest
    }

    /// Keeps a document of a repository by its tag and by its digest, which it returns.
    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: Vec<u8>) -> String {
        let digest = Digest::of(&bytes).to_string();
        let mut state = self.state();
        for name in [tag, &digest] {
            let key = format!("/v2/{repository}:{name}");
            state.manifests.insert(key, (kind.to_owned(), Bytes::from(bytes.clone())));
        }
        digest
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return status(StatusCode::BAD_REQUEST);
        };
        let path = parts.uri.path().to_owned();
        let sent =
            parts.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if path == "/token" {
            return match sent == BASIC {
                true => {
                    reply(StatusCode::OK, "application/json", format!("{{\"token\": \"{TOKEN}\"}}").into())
                }
                false => status(StatusCode::UNAUTHORIZED),
            };
        }
        if self.is_closed && sent != format!("Bearer {TOKEN}") {
            let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test\"", self.address);
            let mut answer = status(StatusCode::UNAUTHORIZED);
            if let Ok(value) = challenge.parse() {
                answer.headers_mut().insert("www-authenticate", value);
            }
            return answer;
        }
        if path == "/v2/" {
            return status(StatusCode::OK);
        }
        match path.rsplit_once("/blobs/uploads/") {
            Some(_) => self.upload(&parts.method, &path, parts.uri.query().unwrap_or_default(), body),
            None if path.contains("/blobs/") => self.blob(&parts.method, &path),
            None => {
                let kind =
                    parts.headers.get("content-type").and_then(|it| it.to_str().ok()).unwrap_or_default();
                self.manifest(&parts.method, &path, kind, body)
            }
        }
    }

    fn upload(&self, method: &Method, path: &str, query: &str, body: Bytes) -> Response<Full<Bytes>> {
        match *method {
            Method::POST => with_location(StatusCode::ACCEPTED, &format!("{path}1?state=x")),
            // Clients may send a blob in pieces first; here everything is kept until it gets its digest.
            Method::PATCH => {
                self.state().blobs.insert(path.to_owned(), body);
                with_location(StatusCode::ACCEPTED, &format!("{path}?state=y"))
            }
            Method::PUT => {
                let digest = query.split('&').find_map(|pair| pair.strip_prefix("digest="));
                let digest = digest.unwrap_or_default().replace("%3A", ":");
                let mut state = self.state();
                let earlier = state.blobs.remove(path).unwrap_or_default();
                let body = if body.is_empty() { earlier } else { body };
                if Digest::of(&body).to_string() != digest {
                    return status(StatusCode::BAD_REQUEST);
                }
                state.uploads += 1;
                state.blobs.insert(digest, body);
                status(StatusCode::CREATED)
            }
            _ => status(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn blob(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let digest = path.rsplit('/').next().unwrap_or_default();
        match self.state().blobs.get(digest) {
            Some(_) if *method == Method::HEAD => status(StatusCode::OK),
            Some(bytes) => reply(StatusCode::OK, "application/octet-stream", bytes.clone()),
            None => status(StatusCode::NOT_FOUND),
        }
    }

    fn manifest(&self, method: &Method, path: &str, kind: &str, body: Bytes) -> Response<Full<Bytes>> {
        let (repository, name) = path.rsplit_once("/manifests/").unwrap_or((path, ""));
        if *method == Method::PUT {
            if name.starts_with("sha256:") && name != Digest::of(&body).to_string() {
                return status(StatusCode::BAD_REQUEST);
            }
            self.put_manifest(repository.trim_start_matches("/v2/"), name, kind, body.to_vec());
            return status(StatusCode::CREATED);
        }
        match self.state().manifests.get(&format!("{repository}:{name}")) {
            Some((kind, bytes)) => {
                let mut answer = reply(StatusCode::OK, kind, bytes.clone());
                if let Ok(digest) = Digest::of(bytes).to_string().parse() {
                    answer.headers_mut().insert("docker-content-digest", digest);
                }
                answer
            }
            None => status(StatusCode::NOT_FOUND),
        }
    }
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    reply(code, "text/plain", Bytes::new())
}

fn reply(code: StatusCode, kind: &str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = code;
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert("content-type", kind);
    }
    response
}

fn with_location(code: StatusCode, location: &str) -> Response<Full<Bytes>> {
    let mut response = status(code);
    if let Ok(location) = location.parse() {
        response.headers_mut().insert("location", location);
    }
    response
}
