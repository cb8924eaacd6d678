//! HTTP proxies: CONNECT, and who is exempt.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::ByteStream;
use super::endpoint::Endpoint;
use super::error::ConnectError;
use crate::talosconfig::{Environment, ProxySetting};

/// More header than this is no answer to CONNECT.
const MAX_HEADER_BYTES: usize = 8 << 10;

/// An HTTP proxy.
#[derive(Clone)]
pub struct Proxy {
    endpoint: Endpoint,
    tls: bool,
    authorization: Option<Zeroizing<String>>,
}

/// A proxy URL that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Not a URL with a host.
    #[error("the proxy URL is not valid")]
    Url,
    /// Another scheme than http and https.
    #[error("the proxy URL has a scheme other than http and https, which is not supported")]
    Scheme,
}

impl Proxy {
    /// Parses `[http[s]://][user:password@]host[:port]`.
    ///
    /// # Errors
    ///
    /// When it is nothing of the kind. The URL is not repeated: it may hold a password.
    pub fn parse(url: &str) -> Result<Self, ProxyError> {
        let (tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(ProxyError::Scheme),
            None => (false, url),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let scheme = if tls { "https" } else { "http" };
        let mut endpoint: Endpoint = format!("{scheme}://{address}").parse().map_err(|_| ProxyError::Url)?;
        let has_port = address.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        if !tls && !has_port {
            endpoint = Endpoint::new(endpoint.host(), 80).map_err(|_| ProxyError::Url)?;
        }
        let authorization = user.map(|user| {
            let pair = Zeroizing::new(percent_decode(user));
            Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)))
        });
        Ok(Self { endpoint, tls, authorization })
    }

    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) const fn is_tls(&self) -> bool {
        self.tls
    }

    /// Asks the proxy on the other end of `stream` for a tunnel to `target`.
    pub(super) async fn tunnel(
        &self,
        mut stream: ByteStream,
        target: &Endpoint,
    ) -> Result<ByteStream, ConnectError> {
        let fail = |problem: String| ConnectError::Proxy { proxy: self.endpoint.to_string(), problem };
        let cut = |error: std::io::Error| fail(format!("cut the connection: {error}"));
        let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(cut)?;
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n\r\n") {
            if header.len() >= MAX_HEADER_BYTES {
                return Err(fail("answered with more than a header".into()));
            }
            // Byte by byte: what follows the header belongs to the tunnel.
            header.push(stream.read_u8().await.map_err(cut)?);
        }
        let status = String::from_utf8_lossy(&header);
        let status = status.lines().next().unwrap_or_default();
        let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
        match code {
            Some(code) if code.len() == 3 && code.starts_with('2') => Ok(stream),
            Some(_) => Err(fail(format!("refused: {}", crate::output::escape(status)))),
            None => Err(fail("does not speak HTTP".into())),
        }
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("endpoint", &self.endpoint)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Which endpoints go through a proxy.
#[derive(Clone, Debug, Default)]
pub struct ProxyRules {
    proxy: Option<Proxy>,
    /// From the environment: loopback and `NO_PROXY` are exempt.
    exemptions: Option<String>,
}

impl ProxyRules {
    /// The context decides when it has a `proxy-url`, else the environment.
    ///
    /// # Errors
    ///
    /// When the URL of the proxy cannot be used.
    pub fn new(setting: Option<&ProxySetting>, environment: &Environment) -> Result<Self, ProxyError> {
        Ok(match (setting, &environment.https_proxy) {
            (Some(ProxySetting::Direct), _) | (None, None) => Self::default(),
            (Some(ProxySetting::Url(url)), _) => Self { proxy: Some(Proxy::parse(url)?), exemptions: None },
            (None, Some(url)) => Self {
                proxy: Some(Proxy::parse(url)?),
                exemptions: Some(environment.no_proxy.clone().unwrap_or_default()),
            },
        })
    }

    pub(super) fn for_endpoint(&self, endpoint: &Endpoint) -> Option<&Proxy> {
        let exempt = self.exemptions.as_ref().is_some_and(|rules| is_exempt(rules, endpoint));
        self.proxy.as_ref().filter(|_| !exempt)
    }
}

/// The rules of Go's httpproxy package, which talosctl follows: a comma list of `*`, hosts, domains (with or
/// without a leading dot), addresses and networks, each of the first kinds with an optional port. Loopback never
/// goes through a proxy of the environment.
fn is_exempt(rules: &str, endpoint: &Endpoint) -> bool {
    let host = endpoint.host().trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    rules.split(',').map(|rule| rule.trim().to_ascii_lowercase()).filter(|rule| !rule.is_empty()).any(
        |rule| {
            if rule == "*" {
                return true;
            }
            if let (Some(address), Ok(network)) = (address, rule.parse::<IpNet>()) {
                return network.contains(&address);
            }
            let (rule, port) = split_port(&rule);
            if port.is_some_and(|port| port != endpoint.port().to_string()) {
                return false;
            }
            if let Ok(exempt) = rule.trim_matches(['[', ']']).parse::<IpAddr>() {
                return address == Some(exempt);
            }
            let domain = rule.strip_prefix('*').unwrap_or(rule);
            match domain.strip_prefix('.') {
                Some(_) => host.ends_with(domain),
                None => host == domain || host.ends_with(&format!(".{domain}")),
            }
        },
    )
}

fn split_port(rule: &str) -> (&str, Option<&str>) {
    if rule.parse::<IpAddr>().is_ok() {
        return (rule, None);
    }
    match rule.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (rule, None),
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            None => {
                decoded.push(first);
                rest = tail;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_urls_or_hosts() {
        let shown = |url: &str| {
            let proxy = Proxy::parse(url).unwrap();
            (proxy.endpoint.to_string(), proxy.tls, proxy.authorization.map(|text| text.to_string()))
        };
        assert_eq!(shown("proxy:3128"), ("proxy:3128".into(), false, None));
        assert_eq!(shown("http://proxy/"), ("proxy:80".into(), false, None));
        assert_eq!(shown("http://[::1]"), ("[::1]:80".into(), false, None));
        assert_eq!(shown("https://proxy"), ("proxy:443".into(), true, None));
        let (_, _, authorization) = shown("http://alice:p%40ss@proxy:1");
        assert_eq!(authorization.unwrap(), format!("Basic {}", STANDARD.encode("alice:p@ss")));
        assert_eq!(Proxy::parse("socks5://proxy").unwrap_err(), ProxyError::Scheme);
        assert_eq!(Proxy::parse("http://").unwrap_err(), ProxyError::Url);
    }

    #[test]
    fn a_context_overrules_the_environment() {
        let environment = Environment { https_proxy: Some("proxy:1".into()), ..Environment::default() };
        let endpoint: Endpoint = "10.0.0.2".parse().unwrap();
        let rules = |setting: Option<&ProxySetting>| ProxyRules::new(setting, &environment).unwrap();
        let host = |rules: &ProxyRules| rules.for_endpoint(&endpoint).map(|proxy| proxy.endpoint.to_string());
        assert_eq!(host(&rules(None)).as_deref(), Some("proxy:1"));
        assert_eq!(host(&rules(Some(&ProxySetting::Direct))), None);
        let other = ProxySetting::Url("http://other:2".into());
        assert_eq!(host(&rules(Some(&other))).as_deref(), Some("other:2"));
        let none = ProxyRules::new(None, &Environment::default()).unwrap();
        assert_eq!(host(&none), None);
    }

    #[test]
    fn exemptions_follow_the_rules_of_go() {
        for (rules, endpoint, exempt) in [
            ("", "10.0.0.2", false),
            ("", "127.0.0.1", true),
            ("", "[::1]:50000", true),
            ("", "localhost", true),
            ("*", "10.0.0.2", true),
            ("10.0.0.0/8", "10.0.0.2", true),
            ("10.0.0.0/8", "cp", false),
            ("10.0.0.2", "10.0.0.2", true),
            ("10.0.0.2:6000", "10.0.0.2", false),
            ("10.0.0.2:50000", "10.0.0.2", true),
            ("[2001:db8::1]:50000", "2001:db8::1", true),
            ("example.com", "cp.Example.com", true),
            ("example.com", "example.com", true),
            ("example.com", "badexample.com", false),
            (".example.com", "example.com", false),
            (".example.com", "cp.example.com", true),
            ("*.example.com", "cp.example.com", true),
            (" a , cp ", "cp", true),
        ] {
            let endpoint: Endpoint = endpoint.parse().unwrap();
            assert_eq!(is_exempt(rules, &endpoint), exempt, "{rules:?} {endpoint}");
        }
    }
}
