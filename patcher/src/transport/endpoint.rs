//! Addresses of the Talos API.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use tokio_rustls::rustls::pki_types::ServerName;

/// The port of apid on every node.
pub const API_PORT: u16 = 50000;

/// A host and port to connect to.
///
/// Written as `host`, `host:port`, a bare or bracketed IPv6 address, or a URL: `https` without a port means 443,
/// any other scheme only names host and port (Talos: pkg/machinery/client/connection.go).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// Text that is no endpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an endpoint: {problem}")]
pub struct EndpointError {
    text: String,
    problem: &'static str,
}

impl Endpoint {
    /// A host, with no brackets around an IPv6 address, at the port of the API.
    ///
    /// # Errors
    ///
    /// When it has characters that no host has.
    pub fn new(host: &str, port: u16) -> Result<Self, EndpointError> {
        let refuse = |problem| Err(EndpointError { text: host.to_owned(), problem });
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '%');
        if host.is_empty() {
            return refuse("the host is missing");
        }
        if host.starts_with('-') || !host.chars().all(is_host) {
            return refuse("the host has characters that no host has");
        }
        if host.contains(':') && strip_zone(host).parse::<IpAddr>().is_err() {
            return refuse("the port is not a number from 1 to 65535");
        }
        if port == 0 {
            return refuse("the port is not a number from 1 to 65535");
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// Host without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The name that the certificate has to be for.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(strip_zone(&self.host).to_owned()).ok()
    }

    /// Host and port as in a URL, without an IPv6 zone, which no URL has.
    pub(crate) fn authority(&self) -> String {
        let host = strip_zone(&self.host);
        if host.contains(':') { format!("[{host}]:{}", self.port) } else { format!("{host}:{}", self.port) }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        let refuse = |problem| EndpointError { text: text.to_owned(), problem };
        let (default_port, rest) = match text.split_once("://") {
            Some(("https", rest)) => (443, rest),
            Some((_, rest)) => (API_PORT, rest),
            None => (API_PORT, text),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(refuse("a user name does not belong here"));
        }
        if strip_zone(authority).parse::<IpAddr>().is_ok() {
            return Self::new(authority, default_port).map_err(|error| refuse(error.problem));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or_else(|| refuse("a bracket is not closed"))?,
            None => authority.split_at(authority.rfind(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| refuse("the port is not a number from 1 to 65535"))?,
            None if port.is_empty() => default_port,
            None => return Err(refuse("there is something between the bracket and the port")),
        };
        Self::new(host, port).map_err(|error| refuse(error.problem))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

fn strip_zone(host: &str) -> &str {
    host.split_once('%').map_or(host, |(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_talosctl_takes_is_understood() {
        for (text, shown) in [
            ("10.0.0.2", "10.0.0.2:50000"),
            (" cp.example.com ", "cp.example.com:50000"),
            ("cp:6000", "cp:6000"),
            ("2001:db8::1", "[2001:db8::1]:50000"),
            ("[2001:db8::1]", "[2001:db8::1]:50000"),
            ("[2001:db8::1]:6000", "[2001:db8::1]:6000"),
            ("fe80::1%eth0", "[fe80::1%eth0]:50000"),
            ("https://cp.example.com", "cp.example.com:443"),
            ("https://cp.example.com/", "cp.example.com:443"),
            ("https://[2001:db8::1]:6443/path?query", "[2001:db8::1]:6443"),
            ("https://2001:db8::1", "[2001:db8::1]:443"),
            ("tcp://cp:6000", "cp:6000"),
            ("http://cp", "cp:50000"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, problem) in [
            ("", "missing"),
            ("https://", "missing"),
            ("-oProxyCommand=x", "characters"),
            ("a b", "characters"),
            ("a\n", ""),
            ("a\nb", "characters"),
            ("cp:", "port"),
            ("cp:0", "port"),
            ("cp:65536", "port"),
            ("1:2:3", "port"),
            ("[::1", "bracket"),
            ("[::1]x", "between"),
            ("user@cp", "user name"),
        ] {
            match text.parse::<Endpoint>() {
                Ok(_) => assert!(problem.is_empty(), "{text:?} is accepted"),
                Err(error) => {
                    assert!(!problem.is_empty() && error.problem.contains(problem), "{text:?}: {error}")
                }
            }
        }
    }

    #[test]
    fn zones_are_for_routing_only() {
        let endpoint: Endpoint = "fe80::1%eth0".parse().unwrap();
        assert_eq!(endpoint.authority(), "[fe80::1]:50000");
        assert!(matches!(endpoint.server_name(), Some(ServerName::IpAddress(_))));
    }
}
