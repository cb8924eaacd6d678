//! References to images in registries: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`.

use std::fmt;
use std::str::FromStr;

use super::Digest;

/// Longest repository and longest tag (OCI distribution-spec 1.1).
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// A reference. The registry is always named: there is no default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The registry, with its port if there is one.
    pub host: String,
    /// The path of the image in it.
    pub repository: String,
    /// A tag.
    pub tag: Option<String>,
    /// A digest, which decides if there is a tag too.
    pub digest: Option<Digest>,
}

/// Text that is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no image reference: {problem}")]
pub struct ReferenceError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Reference {
    /// What a registry calls the image: the digest, or else the tag, or else `latest`.
    pub fn name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".to_owned()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |problem| ReferenceError { text: text.chars().take(300).collect(), problem };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| refuse("the digest is no sha256:..."))?))
            }
            None => (text, None),
        };
        let (host, rest) = rest.split_once('/').ok_or_else(|| refuse("there is no registry in front"))?;
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !is_host(host) {
            return Err(refuse("the part before the first slash is no registry"));
        }
        if !is_repository(repository) {
            return Err(refuse("a repository has lower-case letters, digits and . _ - / between them"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(refuse("a tag has up to 128 letters, digits and . _ -"));
        }
        let (host, repository) = (host.to_owned(), repository.to_owned());
        Ok(Self { host, repository, tag: tag.map(str::to_owned), digest })
    }
}

/// A name with a dot, an address, localhost, or anything with a port: as docker tells hosts from paths.
fn is_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            return address.parse::<std::net::Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
        }
        None => match host.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None if host.contains('.') || host == "localhost" => host,
            None => return false,
        },
    };
    name.split('.').all(|label| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    })
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Parts of lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_repository(repository: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let inner =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
    repository.len() <= MAX_REPOSITORY
        && repository.split('/').all(|part| {
            edge(part.bytes().next())
                && edge(part.bytes().last())
                && part.bytes().all(inner)
                && ["..", "___", "._", "_.", ".-", "-.", "_-", "-_"].iter().all(|pair| !part.contains(pair))
        })
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=MAX_TAG).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_reads_what_it_writes() {
        let digest = Digest::of(b"");
        for text in [
            "ghcr.io/ichor-mesh/ichor:0.1.0".to_owned(),
            "localhost:5000/ichor".to_owned(),
            "[::1]:5000/a/b-c__d:v1".to_owned(),
            format!("10.0.0.1:80/x@{digest}"),
            format!("registry.example/x:1@{digest}"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "ichor",
            "ichor:0.1.0",
            "siderolabs/x",
            "a.b/",
            "a.b/X",
            "a.b/x:",
            "a.b/x:-t",
            "a.b/x@sha256:1",
            "a.b:0/x",
            "a.b:99999/x",
            "[::1/x",
            "a.b/../x",
            "a.b/x//y",
            "-a.b/x",
            "a.b/x y",
            "a.b/x\n",
            "http://a.b/x",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_digest_decides_over_a_tag() {
        let digest = Digest::of(b"");
        let name = |text: &str| text.parse::<Reference>().unwrap().name();
        assert_eq!(name(&format!("a.b/x:1@{digest}")), digest.to_string());
        assert_eq!((name("a.b/x:1"), name("a.b/x")), ("1".into(), "latest".into()));
    }
}
