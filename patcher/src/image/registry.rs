//! A client of container registries (OCI distribution-spec 1.1): enough to push an image and to read one.
//!
//! One connection per request: an image is a dozen requests. Answers are bounded, every blob is checked against its
//! digest, and credentials go to the registry itself and to the token service that it names, over TLS unless the user
//! asked for plain HTTP.

mod auth;
mod http;

use std::collections::BTreeMap;

use ::http::{Method, StatusCode};

use self::auth::{Access, Authorizer};
use self::http::{Answer, Body, Client};
use super::docker::{Credentials, DockerConfig, DockerConfigError};
use super::layout::{MAX_BLOBS, Store, json, parse, verify};
use super::model::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, Index, MANIFEST, MAX_DOCUMENT, Manifest,
};
use super::{Digest, InstallerContents, InstallerImageError, LayoutError, Reference, installer};

pub(crate) use self::http::HttpProblem;

/// Redirects that are followed: a registry may keep its blobs elsewhere.
const MAX_REDIRECTS: usize = 5;

/// How many blobs are read for one reference.
const MAX_PULLED: usize = 200;

/// A repository of a registry.
#[derive(Debug)]
pub struct Registry {
    client: Client,
    authorizer: Authorizer,
    base: String,
    repository: String,
}

/// A request that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No answer, or none that is HTTP.
    #[error("failed to {what}")]
    Http {
        /// What was attempted.
        what: String,
        /// What went wrong.
        source: Box<HttpProblem>,
    },
    /// An answer that says no.
    #[error("failed to {what}: the registry answers {status}{}", said(message))]
    Refused {
        /// What was attempted.
        what: String,
        /// The status.
        status: StatusCode,
        /// What it said, shortened.
        message: String,
    },
    /// An answer that makes no sense.
    #[error("failed to {what}: {problem}")]
    Answer {
        /// What was attempted.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] DockerConfigError),
    /// A blob or document is not what it should be.
    #[error(transparent)]
    Content(#[from] LayoutError),
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl Registry {
    /// A client for the repository of a reference. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// When the certificate authorities of this machine cannot be used.
    pub fn new(
        reference: &Reference,
        credentials: Option<Credentials>,
        plain_http: bool,
    ) -> Result<Self, RegistryError> {
        let client = Client::new(plain_http).map_err(|source| RegistryError::Http {
            what: "prepare TLS".to_owned(),
            source: Box::new(source),
        })?;
        let scheme = if plain_http { "http" } else { "https" };
        Ok(Self {
            client,
            authorizer: Authorizer::new(credentials),
            base: format!("{scheme}://{}/v2/{}", reference.host, reference.repository),
            repository: reference.repository.clone(),
        })
    }

    /// The same with the credentials that this user has for it ([`DockerConfig`]).
    ///
    /// # Errors
    ///
    /// When these cannot be read, too.
    pub fn open(reference: &Reference, plain_http: bool) -> Result<Self, RegistryError> {
        let credentials = DockerConfig::open()?.credentials(&reference.host)?;
        Self::new(reference, credentials, plain_http)
    }

    /// Uploads what is missing of an image and gives it its tag, then asks what the tag is.
    ///
    /// # Errors
    ///
    /// When the store is damaged, the registry refuses, or the tag is another image afterwards.
    pub async fn push(&mut self, store: &Store, tag: &str) -> Result<Digest, RegistryError> {
        let roots = store.roots()?;
        let Some(root) = roots.iter().find(|it| it.is_index()).or(roots.first()) else {
            let problem = "there is nothing in it".to_owned();
            return Err(RegistryError::Answer { what: format!("push {tag}"), problem });
        };
        // What a document names must be there before it.
        let mut documents = vec![root.clone()];
        let mut next = 0;
        while let Some(document) = documents.get(next).cloned() {
            if documents.len() > MAX_PULLED {
                let what = "the list of images".to_owned();
                return Err(LayoutError::TooLarge { what, limit: MAX_PULLED as u64 }.into());
            }
            if document.is_index() {
                let index: Index = store.document(&document)?;
                documents.extend(index.manifests.into_iter().filter(Descriptor::is_document));
            } else {
                let manifest: Manifest = store.document(&document)?;
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    self.upload(blob.digest, &store.blob(blob, MAX_BLOBS)?).await?;
                }
            }
            next += 1;
        }
        for document in documents.iter().rev() {
            let name =
                if document.digest == root.digest { tag.to_owned() } else { document.digest.to_string() };
            self.put_manifest(&name, &document.media_type, &store.blob(document, MAX_DOCUMENT)?).await?;
        }
        let (found, _) = self.manifest(tag).await?;
        if found.digest != root.digest {
            let what = format!("push {tag}");
            return Err(RegistryError::Answer {
                what,
                problem: format!("the tag is {} afterwards", found.digest),
            });
        }
        Ok(found.digest)
    }

    /// Reads an image with all of its blobs into memory.
    ///
    /// # Errors
    ///
    /// When it is not there, or more than is read.
    pub async fn pull(&mut self, reference: &Reference) -> Result<Store, RegistryError> {
        let (root, bytes) = self.root(reference).await?;
        let mut blobs = BTreeMap::new();
        let mut open = vec![(root.clone(), Some(bytes))];
        let mut total = 0;
        while let Some((descriptor, bytes)) = open.pop() {
            if blobs.contains_key(&descriptor.digest) {
                continue;
            }
            total += descriptor.size;
            if total > MAX_BLOBS || blobs.len() > MAX_PULLED {
                return Err(LayoutError::TooLarge { what: reference.to_string(), limit: MAX_BLOBS }.into());
            }
            let bytes = match bytes {
                Some(bytes) => bytes,
                None => self.fetch(&descriptor, MAX_BLOBS).await?,
            };
            let what = format!("the document {}", descriptor.digest);
            if descriptor.is_index() {
                let index: Index = parse(&bytes, &what)?;
                open.extend(index.manifests.into_iter().filter(Descriptor::is_document).map(|it| (it, None)));
            } else if descriptor.is_manifest() {
                let manifest: Manifest = parse(&bytes, &what)?;
                open.extend(manifest.layers.into_iter().chain([manifest.config]).map(|it| (it, None)));
            }
            blobs.insert(descriptor.digest, bytes);
        }
        let index = Index { schema_version: 2, media_type: None, manifests: vec![root] };
        Ok(Store::new(reference.to_string(), json(&index), blobs))
    }

    /// What the installer image at a reference installs on machines of this kind (`amd64` or `arm64`). Only the layer is
    /// read that its kernel is in: the last but, maybe, one.
    ///
    /// # Errors
    ///
    /// When it is not there, is no installer, or cannot be read.
    pub async fn installer(
        &mut self,
        reference: &Reference,
        machine: &str,
    ) -> Result<InstallerContents, InstallerImageError> {
        let (root, mut bytes) = self.root(reference).await?;
        let mut descriptor = root.clone();
        if descriptor.is_index() {
            let index: Index = parse(&bytes, "the index")?;
            let is_it = |it: &Descriptor| {
                it.is_manifest() && it.platform.as_ref().is_some_and(|it| it.architecture == machine)
            };
            let found = index.manifests.into_iter().find(is_it);
            descriptor = found.ok_or_else(|| InstallerImageError::Machine(machine.to_owned()))?;
            bytes = self.fetch(&descriptor, MAX_BLOBS).await?;
        }
        let manifest: Manifest = parse(&bytes, "the manifest")?;
        for layer in manifest.layers.iter().rev().take(MAX_PULLED) {
            let blob = self.fetch(layer, installer::MAX_LAYER).await?;
            if let Some(kernel) = installer::kernel(layer, &blob, machine)? {
                drop(blob);
                return installer::installer_contents(root.digest, machine, &kernel);
            }
        }
        Err(InstallerImageError::NoKernel(machine.to_owned()))
    }

    /// The document that a reference stands for.
    async fn root(&mut self, reference: &Reference) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let (root, bytes) = self.manifest(&reference.name()).await?;
        match reference.digest {
            Some(wanted) if wanted != root.digest => {
                Err(LayoutError::WrongBlob { digest: wanted, what: "digest" }.into())
            }
            _ => Ok((root, bytes)),
        }
    }

    async fn upload(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), RegistryError> {
        let what = format!("upload {digest}");
        let url = format!("{}/blobs/{digest}", self.base);
        if self.call(Method::HEAD, &url, Body::none(), Access::Push, &what).await?.status == StatusCode::OK {
            return Ok(());
        }
        let start = format!("{}/blobs/uploads/", self.base);
        let answer = self.call(Method::POST, &start, Body::none(), Access::Push, &what).await?;
        let answer = expect(answer, &[StatusCode::ACCEPTED], &what)?;
        let refuse =
            |problem: &str| RegistryError::Answer { what: what.clone(), problem: problem.to_owned() };
        let location = answer.location.ok_or_else(|| refuse("the answer names no place for it"))?;
        let mut url =
            http::resolve(&start, &location).ok_or_else(|| refuse("the place for it is no address"))?;
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(&format!("digest={}", http::encode(&digest.to_string())));
        let body = Body::new("application/octet-stream", bytes.to_vec());
        let answer = self.call(Method::PUT, &url, body, Access::Push, &what).await?;
        expect(answer, &[StatusCode::CREATED], &what).map(|_| ())
    }

    async fn put_manifest(&mut self, name: &str, kind: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let what = format!("push the document {name}");
        let url = format!("{}/manifests/{name}", self.base);
        let body = Body::new(kind, bytes.to_vec());
        let answer = self.call(Method::PUT, &url, body, Access::Push, &what).await?;
        expect(answer, &[StatusCode::CREATED], &what).map(|_| ())
    }

    /// A document by tag or digest, and its descriptor: what the registry says about it is not trusted.
    async fn manifest(&mut self, name: &str) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let what = format!("read {name}");
        let url = format!("{}/manifests/{name}", self.base);
        let accept = [INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        let answer = self.get(&url, &accept, MAX_DOCUMENT, &what).await?;
        let kind = answer.content_type.unwrap_or_default();
        let descriptor = Descriptor::new(&kind, &answer.body);
        if !descriptor.is_document() {
            let problem = format!("it is of type {kind:?}, and no image");
            return Err(RegistryError::Answer { what, problem });
        }
        Ok((descriptor, answer.body))
    }

    /// A document, or a blob of at most `limit` bytes.
    async fn fetch(&mut self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("read {}", descriptor.digest);
        let kind = if descriptor.is_document() { "manifests" } else { "blobs" };
        let limit = if descriptor.is_document() { MAX_DOCUMENT } else { limit };
        let url = format!("{}/{kind}/{}", self.base, descriptor.digest);
        let answer = self.get(&url, &descriptor.media_type, descriptor.size.min(limit), &what).await?;
        verify(descriptor, &answer.body)?;
        Ok(answer.body)
    }

    async fn get(
        &mut self,
        url: &str,
        accept: &str,
        limit: u64,
        what: &str,
    ) -> Result<Answer, RegistryError> {
        let mut url = url.to_owned();
        for hop in 0..=MAX_REDIRECTS {
            let body = Body::accepting(accept, limit);
            // Where a registry sends us gets no credentials.
            let answer = match hop {
                0 => self.call(Method::GET, &url, body, Access::Pull, what).await?,
                _ => self
                    .client
                    .send(&Method::GET, &url, &body, None)
                    .await
                    .map_err(|source| failed(what, source))?,
            };
            if !answer.status.is_redirection() {
                return expect(answer, &[StatusCode::OK], what);
            }
            let next = answer.location.and_then(|location| http::resolve(&url, &location));
            let refuse =
                || RegistryError::Answer { what: what.to_owned(), problem: "it leads nowhere".to_owned() };
            url = next.ok_or_else(refuse)?;
        }
        Err(RegistryError::Answer { what: what.to_owned(), problem: "it leads on and on".to_owned() })
    }

    /// A request, with what the registry asks for if it asks who we are.
    async fn call(
        &mut self,
        method: Method,
        url: &str,
        body: Body,
        access: Access,
        what: &str,
    ) -> Result<Answer, RegistryError> {
        // An upload may be sent to another host; our credentials are for this one.
        let is_home = http::same_origin(&self.base, url);
        let header = if is_home { self.authorizer.header() } else { None };
        let answer =
            self.client.send(&method, url, &body, header).await.map_err(|source| failed(what, source))?;
        if answer.status != StatusCode::UNAUTHORIZED || !is_home {
            return Ok(answer);
        }
        let Some(challenge) = &answer.challenge else { return Ok(answer) };
        let granted = self.authorizer.answer(&self.client, challenge, &self.repository, access).await;
        if !granted.map_err(|source| failed(what, source))? {
            return Ok(answer);
        }
        let header = self.authorizer.header();
        self.client.send(&method, url, &body, header).await.map_err(|source| failed(what, source))
    }
}

impl Descriptor {
    fn is_document(&self) -> bool {
        self.is_index() || self.is_manifest()
    }
}

fn failed(what: &str, source: HttpProblem) -> RegistryError {
    RegistryError::Http { what: what.to_owned(), source: Box::new(source) }
}

fn expect(answer: Answer, good: &[StatusCode], what: &str) -> Result<Answer, RegistryError> {
    if good.contains(&answer.status) {
        return Ok(answer);
    }
    let message = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
    Err(RegistryError::Refused { what: what.to_owned(), status: answer.status, message })
}
