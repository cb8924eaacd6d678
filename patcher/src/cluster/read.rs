//! From text to a cluster, with the place of everything that is wrong.

use std::fmt::Display;
use std::str::FromStr;

use super::schema::{FILE, Field, Form, MEASURED, MESH, NODE, SITE};
use super::{
    Cluster, ClusterError, ClusterErrors, Measured, Membership, Mesh, Node, Profile, Route, Site, check,
};
use crate::machine::{self, Dialect, Document, Kind, NodeId, Style};

/// Most errors that are told at once.
const MAX_ERRORS: usize = 20;

/// Where the reader is, and what it found wrong so far.
pub(super) struct Reader<'a> {
    tree: &'a Document,
    errors: Vec<ClusterError>,
}

/// A mapping, with the keys that it may have.
#[derive(Clone)]
struct Mapping {
    node: NodeId,
    path: String,
}

pub(super) fn cluster(text: &str) -> Result<Cluster, ClusterErrors> {
    let one = |line, message: &str| {
        ClusterErrors(vec![ClusterError {
            line,
            key: String::new(),
            message: message.to_owned(),
            suggestion: None,
        }])
    };
    let parsed = machine::parse(text.as_bytes(), Dialect::V4Rc6)
        .map_err(|error| one(error.line().unwrap_or(1), &error.to_string()))?;
    let tree = match &*parsed {
        [] => return Err(one(1, "the file is empty")),
        [only] => &only.tree,
        [_, second, ..] => {
            return Err(one(second.tree.node(second.tree.root()).line, "expected one document, not several"));
        }
    };
    let mut reader = Reader { tree, errors: Vec::new() };
    let cluster = reader.file(tree.root());
    let mut errors = reader.errors;
    if let (Some(cluster), true) = (&cluster, errors.is_empty()) {
        errors = check::cluster(cluster, tree);
    }
    match cluster {
        Some(cluster) if errors.is_empty() => Ok(cluster),
        _ => {
            errors.sort_by_key(|error| error.line);
            errors.truncate(MAX_ERRORS);
            Err(ClusterErrors(errors))
        }
    }
}

impl Reader<'_> {
    fn file(&mut self, root: NodeId) -> Option<Cluster> {
        let file = self.mapping(root, String::new(), FILE)?;
        let mesh = self.child(&file, "mesh", MESH).and_then(|mapping| self.mesh(&mapping));
        let sites = self.items(&file, "sites", SITE).into_iter().map(|item| self.site(&item));
        let sites: Vec<Option<Site>> = sites.collect();
        let nodes = self.items(&file, "nodes", NODE).into_iter().map(|item| self.node(&item));
        let nodes: Vec<Option<Node>> = nodes.collect();
        let sites: Option<Vec<Site>> = sites.into_iter().collect();
        let nodes: Option<Vec<Node>> = nodes.into_iter().collect();
        Some(Cluster { mesh: mesh?, sites: sites?, nodes: nodes? })
    }

    fn mesh(&mut self, mapping: &Mapping) -> Option<Mesh> {
        let measured = self.child(mapping, "measured", MEASURED).and_then(|inner| {
            let rtt_ms = self.int(&inner, "rttMs", MEASURED);
            let loss_per_mille = self.int(&inner, "lossPerMille", MEASURED);
            Some(Measured { rtt_ms: rtt_ms?, loss_per_mille: loss_per_mille? })
        });
        let name = self.name(mapping, "name");
        let range = self.text(mapping, "range");
        let range6 = self.text(mapping, "range6");
        let membership = self.word(mapping, "membership", Membership::WORDS);
        let port = self.int(mapping, "port", MESH);
        let mtu = self.int(mapping, "mtu", MESH);
        let profile = self.word(mapping, "profile", Profile::WORDS);
        let route = self.word(mapping, "route", Route::WORDS);
        let hosts = self.word(mapping, "hosts", super::Hosts::WORDS);
        let firewall = self.bool(mapping, "firewall");
        Some(Mesh {
            name: name?,
            membership: membership.unwrap_or(Membership::Listed),
            range: range?,
            range6,
            port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(51840),
            mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(1420),
            profile: profile.unwrap_or(Profile::Beside),
            route: route.unwrap_or(Route::Daemon),
            hosts,
            firewall: firewall.unwrap_or(false),
            measured,
        })
    }

    fn site(&mut self, mapping: &Mapping) -> Option<Site> {
        let name = self.name(mapping, "name");
        let lans = self.texts(mapping, "lans");
        let gateway = self.text(mapping, "gateway");
        Some(Site { name: name?, lans, gateway })
    }

    fn node(&mut self, mapping: &Mapping) -> Option<Node> {
        let name = self.name(mapping, "name");
        let role = self.word(mapping, "role", super::Role::WORDS);
        let site = self.name(mapping, "site");
        let address = self.text(mapping, "address");
        let address6 = self.text(mapping, "address6");
        let api: Option<String> = self.text(mapping, "api");
        let endpoint = self.text(mapping, "endpoint");
        let via = self.text(mapping, "via");
        let public_key = self.public_key(mapping);
        let link: Option<String> = self.text(mapping, "link");
        let line = self.line(mapping.node);
        if api.is_none() && role.is_some_and(|role| role != super::Role::Admin) && !self.has(mapping, "api") {
            self.error(mapping.node, &mapping.path, "the key `api` is missing: where its Talos API is");
        }
        let api = api.unwrap_or_default();
        Some(Node {
            name: name?,
            role: role?,
            site: site?,
            address: address?,
            address6,
            api,
            endpoint,
            via,
            public_key,
            link,
            line,
        })
    }

    fn public_key(&mut self, mapping: &Mapping) -> Option<String> {
        use base64::Engine as _;

        let key: String = self.text(mapping, "publicKey")?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(&key);
        if bytes.is_ok_and(|bytes| bytes.len() == 32) {
            return Some(key);
        }
        self.error_at(mapping, "publicKey", "expected a WireGuard public key: 32 bytes in base64");
        None
    }

    /// Checks that a node is a mapping whose keys are all known and that has all that it needs.
    fn mapping(&mut self, node: NodeId, path: String, fields: &[Field]) -> Option<Mapping> {
        let node = self.tree.target(node);
        if !matches!(self.tree.node(node).kind, Kind::Mapping(_)) {
            self.error(node, &path, "expected a mapping");
            return None;
        }
        let mut seen: Vec<&str> = Vec::new();
        for (key, _) in self.tree.entries(node) {
            let Some(text) = self.tree.text(*key) else {
                self.error(*key, &path, "expected a key that is a text");
                continue;
            };
            let place = join(&path, text);
            if seen.contains(&text) {
                self.error(*key, &place, "the key occurs twice");
            } else if !fields.iter().any(|field| field.key == text) {
                let suggestion = nearest(text, fields.iter().map(|field| field.key));
                let message = match suggestion {
                    Some(_) => "unknown key".to_owned(),
                    None => {
                        let keys: Vec<&str> = fields.iter().map(|field| field.key).collect();
                        format!("unknown key, expected one of {}", keys.join(", "))
                    }
                };
                self.errors.push(ClusterError { line: self.line(*key), key: place, message, suggestion });
            }
            seen.push(text);
        }
        for field in fields.iter().filter(|field| field.required && !seen.contains(&field.key)) {
            self.error(node, &path, &format!("the key `{}` is missing", field.key));
        }
        Some(Mapping { node, path })
    }

    fn child(&mut self, mapping: &Mapping, key: &str, fields: &[Field]) -> Option<Mapping> {
        let value = self.tree.get(mapping.node, key)?;
        self.mapping(value, join(&mapping.path, key), fields)
    }

    fn items(&mut self, mapping: &Mapping, key: &str, fields: &[Field]) -> Vec<Mapping> {
        let Some(value) = self.list(mapping, key) else { return Vec::new() };
        let place = join(&mapping.path, key);
        let items = value.into_iter().enumerate();
        items.filter_map(|(index, item)| self.mapping(item, format!("{place}[{index}]"), fields)).collect()
    }

    fn list(&mut self, mapping: &Mapping, key: &str) -> Option<Vec<NodeId>> {
        let value = self.tree.target(self.tree.get(mapping.node, key)?);
        match &self.tree.node(value).kind {
            Kind::Sequence(items) if !items.is_empty() => Some(items.clone()),
            _ => {
                self.error(value, &join(&mapping.path, key), "expected a list with at least one item");
                None
            }
        }
    }

    fn scalar(&mut self, mapping: &Mapping, key: &str) -> Option<String> {
        let value = self.tree.target(self.tree.get(mapping.node, key)?);
        let text = self.tree.text(value).map(str::to_owned);
        if text.as_deref().is_none_or(str::is_empty) {
            self.error(value, &join(&mapping.path, key), "expected a value");
            return None;
        }
        text
    }

    fn text<T: FromStr<Err: Display>>(&mut self, mapping: &Mapping, key: &str) -> Option<T> {
        let text = self.scalar(mapping, key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.error_at(mapping, key, &format!("{text:?} cannot be used: {error}"));
                None
            }
        }
    }

    fn texts<T: FromStr<Err: Display>>(&mut self, mapping: &Mapping, key: &str) -> Vec<T> {
        let mut values = Vec::new();
        for (index, item) in self.list(mapping, key).unwrap_or_default().into_iter().enumerate() {
            let place = format!("{}[{index}]", join(&mapping.path, key));
            match self.tree.text(self.tree.target(item)) {
                None => self.error(item, &place, "expected a text"),
                Some(text) => match text.parse() {
                    Ok(value) => values.push(value),
                    Err(error) => {
                        let message = format!("{text:?} cannot be used: {error}");
                        self.error(item, &place, &message);
                    }
                },
            }
        }
        values
    }

    fn name(&mut self, mapping: &Mapping, key: &str) -> Option<String> {
        let name = self.scalar(mapping, key)?;
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.len() > 63 || !name.bytes().all(inner) || name.starts_with('-') || name.ends_with('-') {
            let message =
                format!("{name:?} is not a name: expected up to 63 lower-case letters, digits and dashes");
            self.error_at(mapping, key, &message);
            return None;
        }
        Some(name)
    }

    fn word<T: FromStr<Err: Display>>(
        &mut self,
        mapping: &Mapping,
        key: &str,
        words: &[&'static str],
    ) -> Option<T> {
        let text = self.scalar(mapping, key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let line = self.tree.get(mapping.node, key).map_or(1, |value| self.line(value));
                let suggestion = nearest(&text, words.iter().copied());
                let message = format!("{text:?} is unknown: {error}");
                self.errors.push(ClusterError { line, key: join(&mapping.path, key), message, suggestion });
                None
            }
        }
    }

    fn int(&mut self, mapping: &Mapping, key: &str, fields: &[Field]) -> Option<u32> {
        let text = self.scalar(mapping, key)?;
        let bounds = fields.iter().find(|field| field.key == key).map(|field| field.form);
        let Some(Form::Int(least, most)) = bounds else { return None };
        match text.parse::<u32>() {
            Ok(value) if (least..=most).contains(&value) => Some(value),
            _ => {
                self.error_at(mapping, key, &format!("{text:?} is not a number of {least} to {most}"));
                None
            }
        }
    }

    fn bool(&mut self, mapping: &Mapping, key: &str) -> Option<bool> {
        let text = self.scalar(mapping, key)?;
        let plain = self.tree.get(mapping.node, key).map(|value| &self.tree.node(value).kind);
        let is_plain = matches!(plain, Some(Kind::Scalar { style: Style::Plain, .. }));
        match &*text {
            "true" if is_plain => Some(true),
            "false" if is_plain => Some(false),
            _ => {
                self.error_at(mapping, key, "expected true or false");
                None
            }
        }
    }

    fn has(&self, mapping: &Mapping, key: &str) -> bool {
        self.tree.get(mapping.node, key).is_some()
    }

    fn line(&self, node: NodeId) -> usize {
        self.tree.node(node).line
    }

    fn error_at(&mut self, mapping: &Mapping, key: &str, message: &str) {
        let node = self.tree.get(mapping.node, key).unwrap_or(mapping.node);
        self.error(node, &join(&mapping.path, key), message);
    }

    fn error(&mut self, node: NodeId, key: &str, message: &str) {
        let line = self.line(node);
        let (key, message) = (key.to_owned(), message.to_owned());
        self.errors.push(ClusterError { line, key, message, suggestion: None });
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The word that was probably meant.
fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<String> {
    let lower = text.to_lowercase();
    let scored = words.map(|word| (strsim::damerau_levenshtein(&lower, &word.to_lowercase()), word));
    let (distance, word) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + word.len() / 4).then(|| word.to_owned())
}
