//! Which values of a config are secret, and texts in which those are covered.
//!
//! Three things make a value secret: the official library redacts it, its key says so, or it looks like one where
//! anything may stand (environment variables, contents of files). Too much covered is a nuisance, too little a
//! leak, so doubt covers.

use std::ops::Range;

use super::line::TalosLine;
use crate::machine::{Dialect, Document, Kind, NodeId, Style, parse};

/// What stands in place of a secret.
pub(super) const COVER: &str = "******";

/// Words in keys that announce a secret, in lower case.
const WORDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "privatekey",
    "private_key",
    "presharedkey",
    "preshared_key",
    "psk",
    "apikey",
    "api_key",
    "authkey",
    "auth_key",
    "accesskey",
    "access_key",
    "credential",
    "joinstring",
    "join_string",
];

/// Keys below which a name of a variable stands for a value.
const VARIABLES: &[&str] = &["environment", "env", "variables"];

/// Keys whose text may be a file, or a document of another program.
const CONTENTS: &[&str] = &["content", "contents", "op", "data", "config", "configuration"];

/// The text with every secret covered, line by line: as many lines as before.
pub(super) fn cover(text: &str) -> String {
    match parse(text.as_bytes(), Dialect::V4Rc6) {
        Ok(documents) => {
            let mut ranges = Vec::new();
            for document in &documents {
                Finder {
                    tree: &document.tree,
                    text,
                    ranges: &mut ranges,
                    path: Vec::new(),
                    rules: rules(&document.tree),
                }
                .walk(document.tree.root(), false);
            }
            cover_ranges(text, ranges)
        }
        // What cannot be read is judged by its lines.
        Err(_) => cover_unread(text),
    }
}

fn cover_unread(text: &str) -> String {
    let mut below: Option<usize> = None;
    let mut inside_pem = false;
    let line = |line: &str| {
        let body = line.trim_end_matches(['\n', '\r']);
        let indent = body.len() - body.trim_start().len();
        inside_pem = inside_pem || body.contains("-----BEGIN") && body.contains("PRIVATE");
        let covered = inside_pem || below.is_some_and(|outer| indent > outer);
        if body.contains("-----END") {
            inside_pem = false;
        }
        if body.trim().is_empty() {
            return line.to_owned();
        }
        if covered {
            return format!("{}{COVER}{}", &body[..indent], &line[body.len()..]);
        }
        below = announces_secret(body).then_some(indent);
        if below.is_some() { line.to_owned() } else { cover_line(line) }
    };
    text.split_inclusive('\n').map(line).collect()
}

/// The key paths that the official libraries redact in documents of this kind, over all lines.
fn rules(tree: &Document) -> Vec<&'static [String]> {
    let kind = tree.get(tree.root(), "kind").and_then(|kind| tree.text(kind)).unwrap_or("v1alpha1");
    let of_line = |line: &TalosLine| {
        line.schema().secrets.iter().filter(|(known, _)| known == kind).map(|(_, path)| path.as_slice())
    };
    TalosLine::ALL.iter().flat_map(of_line).collect()
}

fn cover_ranges(text: &str, mut ranges: Vec<Range<usize>>) -> String {
    ranges.sort_by_key(|range| (range.start, std::cmp::Reverse(range.end)));
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for range in ranges {
        if range.end <= done {
            continue;
        }
        let start = range.start.max(done);
        out.push_str(&text[done..start]);
        // Line breaks and indentation stay, so that lines can be matched.
        for (index, line) in text[start..range.end].split_inclusive('\n').enumerate() {
            let body = line.trim_end_matches(['\n', '\r']);
            let indent = if index == 0 { 0 } else { body.len() - body.trim_start().len() };
            out.push_str(&body[..indent]);
            if body.len() > indent {
                out.push_str(COVER);
            }
            out.push_str(&line[body.len()..]);
        }
        done = range.end;
    }
    out.push_str(&text[done..]);
    out
}

struct Finder<'a, 'r> {
    tree: &'a Document,
    text: &'a str,
    ranges: &'r mut Vec<Range<usize>>,
    path: Vec<&'a str>,
    rules: Vec<&'static [String]>,
}

impl<'a> Finder<'a, '_> {
    /// `secret`: something around this value is.
    fn walk(&mut self, id: NodeId, secret: bool) {
        let node = self.tree.node(id);
        match &node.kind {
            Kind::Mapping(entries) => {
                for (key, value) in entries {
                    let name = self.tree.text(*key).unwrap_or_default();
                    self.path.push(name);
                    let secret = secret || self.is_secret(name, *value);
                    self.walk(*value, secret);
                    self.path.pop();
                }
            }
            Kind::Sequence(items) => {
                for item in items {
                    self.path.push("[]");
                    self.walk(*item, secret || self.is_ruled());
                    self.path.pop();
                }
            }
            Kind::Scalar { text, .. } if secret => {
                if !text.is_empty() {
                    self.ranges.push(self.value_range(id));
                }
            }
            Kind::Scalar { text, .. } => self.scalar(id, text),
            // What an alias stands for was found at its anchor.
            Kind::Alias(target) => {
                if secret {
                    self.ranges.push(self.value_range(*target));
                }
            }
        }
    }

    /// The bytes of a scalar; of a block scalar only its lines, not the sign in front of them.
    fn value_range(&self, id: NodeId) -> Range<usize> {
        let node = self.tree.node(id);
        let range = node.start..node.end;
        let own = &self.text[range.clone()];
        match (&node.kind, own.find('\n')) {
            (Kind::Scalar { style: Style::Literal | Style::Folded, .. }, Some(head)) => {
                node.start + head + 1..node.end
            }
            _ => range,
        }
    }

    fn is_ruled(&self) -> bool {
        let fits = |(rule, key): (&String, &&str)| rule == "*" || rule == key;
        self.rules.iter().any(|rule| rule.len() == self.path.len() && rule.iter().zip(&self.path).all(fits))
    }

    fn is_secret(&self, key: &str, value: NodeId) -> bool {
        if self.is_ruled() {
            return true;
        }
        let is_text = self.tree.text(self.tree.target(value)).is_some();
        // A bare `key` is one when it is long: a key of a taint or a label is not.
        is_text
            && (says_secret(key)
                || (key == "key" && self.tree.text(value).is_some_and(|text| text.len() >= 32)))
    }

    fn scalar(&mut self, id: NodeId, text: &'a str) {
        let free = self.path.iter().any(|key| VARIABLES.contains(key) || CONTENTS.contains(key));
        let name = self.path.iter().rev().find(|key| **key != "[]").copied().unwrap_or_default();
        if text.contains('\n') {
            if free || CONTENTS.contains(&name) || holds_secret(text) {
                self.cover_lines(id);
            }
        } else if free || text.contains("://") {
            let covered = cover_line(text);
            if covered != text || looks_random(text) {
                self.ranges.push(self.value_range(id));
            }
        }
    }

    /// Covers the lines of a text that look as if they held a secret, and what is indented below a key that
    /// announces one.
    fn cover_lines(&mut self, id: NodeId) {
        let range = self.value_range(id);
        let text = &self.text[range.clone()];
        // All of a Kubernetes Secret is one, whatever its keys are called.
        let whole = text.lines().any(|line| line.trim() == "kind: Secret");
        let mut at = range.start;
        let mut inside_pem = false;
        let mut below: Option<usize> = None;
        for line in text.split_inclusive('\n') {
            let body = line.trim_end();
            let indent = body.len() - body.trim_start().len();
            inside_pem = inside_pem || body.contains("-----BEGIN") && body.contains("PRIVATE");
            if !body.trim().is_empty() {
                below = below.filter(|outer| indent > *outer);
                let announces = below.is_none() && announces_secret(body);
                if announces {
                    below = Some(indent);
                }
                if whole || inside_pem || !announces && (below.is_some() || holds_secret(body)) {
                    self.ranges.push(at + indent..at + body.len());
                }
            }
            if body.contains("-----END") {
                inside_pem = false;
            }
            at += line.len();
        }
    }
}

/// Whether a key announces a secret.
fn says_secret(key: &str) -> bool {
    let key = key.to_lowercase().replace('-', "_");
    // These are names and switches, not values.
    let harmless = [
        "secretname",
        "secret_name",
        "secretref",
        "tokenttl",
        "tokenrequest",
        "automountserviceaccounttoken",
    ];
    !harmless.contains(&key.as_str()) && WORDS.iter().any(|word| key.contains(word))
}

/// Whether the value of a key that announces a secret stands on the lines below.
fn announces_secret(line: &str) -> bool {
    let line = line.trim().trim_start_matches("- ").trim_end_matches(['|', '>', '-', '+', ' ']);
    line.strip_suffix(':').is_some_and(|key| says_secret(key.trim_matches(['"', '\''])))
}

/// Whether a line, or a text of several, holds something that looks like a secret.
fn holds_secret(text: &str) -> bool {
    text.lines().any(|line| cover_line(line) != line) || text.split_whitespace().any(looks_random)
}

/// A line `key: value` or `KEY=value` whose key announces a secret, or whose value looks like one, with the value
/// covered; and a URL with a password or a token in it.
fn cover_line(line: &str) -> String {
    let body = line.trim_end_matches(['\n', '\r']);
    let end = &line[body.len()..];
    if let Some(at) = body.find([':', '=']) {
        let key = body[..at].trim().trim_start_matches("- ").trim_matches(['"', '\'']);
        let value = body[at + 1..].trim();
        let secret = says_secret(key) || value.split_whitespace().any(looks_random) || has_url_secret(body);
        if secret && !value.is_empty() {
            let blank = if body[at + 1..].starts_with(' ') { " " } else { "" };
            return format!("{}{blank}{COVER}{end}", &body[..=at]);
        }
    }
    if body.split_whitespace().any(looks_random) || has_url_secret(body) {
        let indent = body.len() - body.trim_start().len();
        return format!("{}{COVER}{end}", &body[..indent]);
    }
    line.to_owned()
}

/// `user:password@`, or a token in the query.
fn has_url_secret(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let password = authority.split_once('@').is_some_and(|(user, _)| user.contains(':'));
    let query = rest.split_once('?').is_some_and(|(_, query)| {
        query.split('&').any(|pair| says_secret(pair.split('=').next().unwrap_or_default()))
    });
    password || query
}

/// A word of 20 and more characters that mixes digits with both cases, or 32 and more hexadecimal digits: keys
/// and tokens look like this, names and addresses do not.
fn looks_random(word: &str) -> bool {
    let word = word.trim_matches(['"', '\'', ',', ';']);
    let word = word.rsplit(['=', ':']).find(|part| !part.is_empty()).unwrap_or(word);
    if word.len() < 20 || !word.chars().all(|c| c.is_ascii_alphanumeric() || "+/=_-.".contains(c)) {
        return false;
    }
    let has = |test: fn(&char) -> bool| word.chars().any(|c| test(&c));
    let mixed = has(char::is_ascii_digit) && has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase);
    let hexadecimal = word.len() >= 32 && word.chars().all(|c| c.is_ascii_hexdigit());
    mixed || hexadecimal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_looks_tell_secrets_from_settings() {
        let text = "\
kind: ExtensionServiceConfig
name: ichor
environment:
  - ICHOR_LOG=debug
  - TS_AUTHKEY=tskey-auth-x
  - PLAIN=AbCdEfGhIj0123456789xyz
configFiles:
  - content: |
      network: home
      join_string: abc
      key = 00112233445566778899aabbccddeeff
    mountPath: /etc/x
";
        let covered = cover(text);
        assert_eq!(covered.lines().count(), text.lines().count());
        for gone in ["tskey", "AbCd", "abc", "0011"] {
            assert!(!covered.contains(gone), "{gone} in {covered}");
        }
        for kept in ["ICHOR_LOG=debug", "network: home", "/etc/x", "name: ichor"] {
            assert!(covered.contains(kept), "{kept} not in {covered}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_covered_by_its_lines() {
        let covered = cover("a: [\n  token: hunter2\n  psk: |\n    hunter2\n\n    hunter2\n  image: x\n");
        assert_eq!(covered, "a: [\n  token: ******\n  psk: |\n    ******\n\n    ******\n  image: x\n");
    }
}
