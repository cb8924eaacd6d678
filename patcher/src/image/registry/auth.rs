//! How a registry is told who we are: a name and password, or a token from the service that it names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::http::{Body, Client, HttpProblem, encode};
use crate::image::docker::{Credentials, secret};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// Read.
    Pull,
    /// Write.
    Push,
}

/// Answers challenges and remembers what was granted.
pub(super) struct Authorizer {
    credentials: Option<Credentials>,
    header: Option<(Access, Zeroizing<String>)>,
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Granted {
    #[serde(default, deserialize_with = "secret")]
    token: Zeroizing<String>,
    #[serde(default, deserialize_with = "secret")]
    access_token: Zeroizing<String>,
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorizer(..)")
    }
}

impl Authorizer {
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, header: None }
    }

    /// The header that was granted.
    pub(super) fn header(&self) -> Option<Zeroizing<String>> {
        self.header.as_ref().map(|(_, value)| value.clone())
    }

    /// Gets what a challenge asks for. False when that is not possible, or was not enough before.
    pub(super) async fn answer(
        &mut self,
        client: &Client,
        challenge: &str,
        repository: &str,
        access: Access,
    ) -> Result<bool, HttpProblem> {
        if self.header.as_ref().is_some_and(|(granted, _)| *granted >= access) {
            return Ok(false);
        }
        let value = match parse(challenge) {
            Some(Challenge::Basic) => match self.basic() {
                Some(value) => value,
                None => return Ok(false),
            },
            Some(Challenge::Bearer { realm, service }) => {
                match self.token(client, &realm, service.as_deref(), repository, access).await? {
                    Some(token) => Zeroizing::new(format!("Bearer {}", &*token)),
                    None => return Ok(false),
                }
            }
            None => return Ok(false),
        };
        self.header = Some((access, value));
        Ok(true)
    }

    fn basic(&self) -> Option<Zeroizing<String>> {
        let Some(Credentials::Basic { user, password }) = &self.credentials else { return None };
        let pair = Zeroizing::new(format!("{user}:{}", &**password));
        Some(Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair))))
    }

    /// A token for the repository (distribution: docs/spec/auth/token), anonymous without credentials.
    async fn token(
        &self,
        client: &Client,
        realm: &str,
        service: Option<&str>,
        repository: &str,
        access: Access,
    ) -> Result<Option<Zeroizing<String>>, HttpProblem> {
        let actions = if access == Access::Push { "pull,push" } else { "pull" };
        let mut query = format!("scope={}", encode(&format!("repository:{repository}:{actions}")));
        if let Some(service) = service {
            query.push_str(&format!("&service={}", encode(service)));
        }
        let answer = match &self.credentials {
            Some(Credentials::Identity(token)) => {
                query.push_str("&grant_type=refresh_token&client_id=ichorctl&refresh_token=");
                query.push_str(&encode(token));
                let form = Zeroizing::new(query);
                let body = Body::new("application/x-www-form-urlencoded", form.as_bytes().to_vec());
                client.send(&Method::POST, realm, &body, None).await?
            }
            _ => {
                let url = format!("{realm}{}{query}", if realm.contains('?') { '&' } else { '?' });
                client.send(&Method::GET, &url, &Body::none(), self.basic()).await?
            }
        };
        if answer.status != StatusCode::OK {
            return Ok(None);
        }
        let body = Zeroizing::new(answer.body);
        let granted: Granted =
            serde_json::from_slice(&body).map_err(|_| HttpProblem::Token(realm.to_owned()))?;
        let token = if granted.token.is_empty() { granted.access_token } else { granted.token };
        // It becomes part of a header.
        let is_clean = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        if is_clean { Ok(Some(token)) } else { Err(HttpProblem::Token(realm.to_owned())) }
    }
}

/// Reads a `WWW-Authenticate` header (RFC 9110, 11.6.1) of the two schemes that registries use.
fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameters = parameters(rest)?;
    let find = |name: &str| {
        parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    };
    Some(Challenge::Bearer { realm: find("realm")?, service: find("service") })
}

fn parameters(text: &str) -> Option<Vec<(String, String)>> {
    let mut parameters = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            // None of the values that matter has quotes or backslashes in it.
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        parameters.push((key.trim().to_owned(), value.trim().to_owned()));
        rest = after.trim_start_matches([' ', ',']);
    }
    Some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_schemes_of_registries_are_read() {
        let text = r#"Bearer realm="https://auth.a.b/token",service="a.b",scope="repository:x:pull,push""#;
        let bearer =
            Challenge::Bearer { realm: "https://auth.a.b/token".into(), service: Some("a.b".into()) };
        assert_eq!(parse(text), Some(bearer));
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        for bad in ["", "Digest x=y", "Bearer", "Bearer realm", "Bearer realm=\"x", "Bearer service=a"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        let secret = Credentials::Identity(Zeroizing::new("hunter2".into()));
        assert!(!format!("{:?}", Authorizer::new(Some(secret))).contains("hunter2"));
    }
}
