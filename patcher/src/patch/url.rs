//! URLs as Go's `net/url` reads, merges and writes them.
//!
//! Talos keeps endpoints as parsed URLs, and its merge goes field by field into them: a patch that names another
//! host keeps the path of the old endpoint.

use std::net::Ipv6Addr;

/// A URL in its parts, as in Go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Url {
    scheme: String,
    opaque: String,
    user: Option<(String, Option<String>)>,
    host: String,
    path: String,
    fragment: String,
    raw_query: String,
    raw_path: String,
    raw_fragment: String,
    force_query: bool,
    omit_host: bool,
}

/// The part of a URL that some text stands in; it decides what must be escaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Fragment,
    Host,
    Path,
    UserPassword,
    Zone,
}

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// In the words of Go.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = Self::parse_rest(rest)?;
        if !fragment.is_empty() {
            url.fragment = unescape(fragment, Place::Fragment)?;
            if escape(&url.fragment, Place::Fragment) != fragment {
                url.raw_fragment = fragment.to_owned();
            }
        }
        Ok(url)
    }

    fn parse_rest(text: &str) -> Result<Self, String> {
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err("invalid control character in URL".into());
        }
        let mut url = Self::default();
        if text == "*" {
            url.path = "*".into();
            return Ok(url);
        }
        let (scheme, mut rest) = split_scheme(text)?;
        url.scheme = scheme.to_ascii_lowercase();
        if rest.ends_with('?') && rest.matches('?').count() == 1 {
            url.force_query = true;
            rest = &rest[..rest.len() - 1];
        } else if let Some((before, query)) = rest.split_once('?') {
            url.raw_query = query.to_owned();
            rest = before;
        }
        if !rest.starts_with('/') {
            if !url.scheme.is_empty() {
                url.opaque = rest.to_owned();
                return Ok(url);
            }
            if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
                return Err("first path segment in URL cannot contain colon".into());
            }
        }
        if (!url.scheme.is_empty() || !rest.starts_with("///"))
            && let Some(after) = rest.strip_prefix("//")
        {
            let end = after.find('/').unwrap_or(after.len());
            url.parse_authority(&after[..end])?;
            rest = &after[end..];
        } else if !url.scheme.is_empty() && rest.starts_with('/') {
            url.omit_host = true;
        }
        url.path = unescape(rest, Place::Path)?;
        if escape(&url.path, Place::Path) != rest {
            url.raw_path = rest.to_owned();
        }
        Ok(url)
    }

    fn parse_authority(&mut self, authority: &str) -> Result<(), String> {
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        self.host = parse_host(&self.scheme, host)?;
        let Some(user) = user else { return Ok(()) };
        let valid = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
        if !user.chars().all(valid) {
            return Err("net/url: invalid userinfo".into());
        }
        self.user = Some(match user.split_once(':') {
            None => (unescape(user, Place::UserPassword)?, None),
            Some((name, password)) => {
                (unescape(name, Place::UserPassword)?, Some(unescape(password, Place::UserPassword)?))
            }
        });
        Ok(())
    }

    /// Merges another URL into this one as Talos does: every part that is not empty wins, flags always.
    ///
    /// # Errors
    /// The name of the part when both have user information, which cannot be merged.
    pub fn merge(&mut self, other: &Self) -> Result<(), &'static str> {
        let text = |mine: &mut String, theirs: &String| {
            if !theirs.is_empty() {
                theirs.clone_into(mine);
            }
        };
        text(&mut self.scheme, &other.scheme);
        text(&mut self.opaque, &other.opaque);
        match (&self.user, &other.user) {
            (_, None) => {}
            (None, Some(user)) => self.user = Some(user.clone()),
            (Some(_), Some(_)) => return Err("User"),
        }
        text(&mut self.host, &other.host);
        text(&mut self.path, &other.path);
        text(&mut self.fragment, &other.fragment);
        text(&mut self.raw_query, &other.raw_query);
        text(&mut self.raw_path, &other.raw_path);
        text(&mut self.raw_fragment, &other.raw_fragment);
        self.force_query = other.force_query;
        self.omit_host = other.omit_host;
        Ok(())
    }

    fn escaped_path(&self) -> String {
        let raw_is_right = !self.raw_path.is_empty()
            && valid_encoded(&self.raw_path, Place::Path)
            && unescape(&self.raw_path, Place::Path).as_deref() == Ok(self.path.as_str());
        if raw_is_right {
            self.raw_path.clone()
        } else if self.path == "*" {
            "*".into()
        } else {
            escape(&self.path, Place::Path)
        }
    }

    fn escaped_fragment(&self) -> String {
        let raw_is_right = !self.raw_fragment.is_empty()
            && valid_encoded(&self.raw_fragment, Place::Fragment)
            && unescape(&self.raw_fragment, Place::Fragment).as_deref() == Ok(self.fragment.as_str());
        if raw_is_right { self.raw_fragment.clone() } else { escape(&self.fragment, Place::Fragment) }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        if !self.scheme.is_empty() {
            out.push_str(&self.scheme);
            out.push(':');
        }
        if self.opaque.is_empty() {
            let authority = !self.host.is_empty() || self.user.is_some();
            if authority || !(self.scheme.is_empty() || self.omit_host) {
                if authority || !self.path.is_empty() {
                    out.push_str("//");
                }
                if let Some((name, password)) = &self.user {
                    out.push_str(&escape(name, Place::UserPassword));
                    if let Some(password) = password {
                        out.push(':');
                        out.push_str(&escape(password, Place::UserPassword));
                    }
                    out.push('@');
                }
                out.push_str(&escape(&self.host, Place::Host));
            }
            let path = self.escaped_path();
            if !path.is_empty() && !path.starts_with('/') && !self.host.is_empty() {
                out.push('/');
            }
            if out.is_empty() && path.split('/').next().is_some_and(|segment| segment.contains(':')) {
                out.push_str("./");
            }
            out.push_str(&path);
        } else {
            out.push_str(&self.opaque);
        }
        if self.force_query || !self.raw_query.is_empty() {
            out.push('?');
            out.push_str(&self.raw_query);
        }
        if !self.fragment.is_empty() {
            out.push('#');
            out.push_str(&self.escaped_fragment());
        }
        f.write_str(&out)
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if index > 0 => {}
            b':' if index == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((&text[..index], &text[index + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn parse_host(scheme: &str, host: &str) -> Result<String, String> {
    match host.rfind('[') {
        Some(0) => {
            let Some(close) = host.rfind(']') else { return Err("missing ']' in host".into()) };
            let port = &host[close + 1..];
            check_port(port)?;
            let inner = &host[1..close];
            let name = match inner.find("%25") {
                Some(zone) => {
                    let zone_name = unescape(&inner[zone..], Place::Zone)?;
                    format!("{}{zone_name}", unescape(&inner[..zone], Place::Host)?)
                }
                None => unescape(inner, Place::Host)?,
            };
            let (address, zone) = name.split_once('%').map_or((name.as_str(), None), |(a, z)| (a, Some(z)));
            if address.parse::<Ipv6Addr>().is_err() || zone == Some("") {
                return Err(format!("invalid host: ParseAddr({name:?}): unable to parse IP"));
            }
            return Ok(format!("[{name}]{}", unescape(port, Place::Host)?));
        }
        Some(_) => return Err("invalid IP-literal".into()),
        None => {}
    }
    if let (Some(first), Some(last)) = (host.find(':'), host.rfind(':')) {
        let strict = matches!(scheme, "http" | "https");
        check_port(&host[if strict { first } else { last }..])?;
    }
    unescape(host, Place::Host)
}

fn check_port(port: &str) -> Result<(), String> {
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(()),
        _ => Err(format!("invalid port {port:?} after host")),
    }
}

fn stays(byte: u8, place: Place) -> bool {
    if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
        return true;
    }
    let allowed: &[u8] = match place {
        Place::Fragment => b"$&+,/:;=?@!()*",
        Place::Host | Place::Zone => b"!$&'()*+,;=:[]<>\"",
        Place::Path => b"$&+,/:;=@",
        Place::UserPassword => b"$&+,;=",
    };
    allowed.contains(&byte)
}

fn escape(text: &str, place: Place) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if stays(byte, place) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescape(text: &str, place: Place) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        if byte != b'%' {
            if matches!(place, Place::Host | Place::Zone) && byte < 0x80 && !stays(byte, place) {
                return Err(format!("invalid character {:?} in host name", char::from(byte).to_string()));
            }
            out.push(byte);
            index += 1;
            continue;
        }
        let digit = |ahead: usize| bytes.get(index + ahead).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(1), digit(2)) else {
            let end = text.len().min(index + 3);
            return Err(format!("invalid URL escape {:?}", String::from_utf8_lossy(&bytes[index..end])));
        };
        let value = u8::try_from(high * 16 + low).unwrap_or_default();
        let percent = &bytes[index..index + 3] == b"%25";
        let refused = match place {
            Place::Host => high < 8 && !percent,
            Place::Zone => !percent && value != b' ' && !stays(value, Place::Host),
            Place::Fragment | Place::Path | Place::UserPassword => false,
        };
        if refused {
            return Err(format!("invalid URL escape {:?}", &text[index..index + 3]));
        }
        out.push(value);
        index += 3;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn valid_encoded(text: &str, place: Place) -> bool {
    text.bytes().all(|byte| b"!$&'()*+,;=:@[]%".contains(&byte) || stays(byte, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_keeps_what_the_other_url_does_not_name() {
        let mut url = Url::parse("https://10.0.0.1:6443/path").unwrap();
        url.merge(&Url::parse("https://new:443").unwrap()).unwrap();
        assert_eq!(url.to_string(), "https://new:443/path");
    }

    #[test]
    fn odd_urls_are_written_as_go_writes_them() {
        for (text, written) in [
            ("", ""),
            ("foo", "foo"),
            ("tcp://h:1", "tcp://h:1"),
            ("https://[fd00::1]:6443", "https://[fd00::1]:6443"),
            ("mailto:a@b", "mailto:a@b"),
            ("https://h/a%20b?x=1#f", "https://h/a%20b?x=1#f"),
            ("HTTPS://Host", "https://Host"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), written, "{text}");
        }
        for text in ["https://h:port", ":x", "a:b c://d e\u{1}", "https://[::1", "1:2"] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }
}
