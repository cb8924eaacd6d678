//! Pairs that show one rule each. The rules are those of the merge, of its exceptions, of deletes, and the
//! contradictions that only validation sees; each has a label, under which its results are counted.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use ichorctl::patch::TalosLine;
use ichorctl::patch::schema::{Shape, TypeId};

use super::{inline, write_stream};
use crate::compare::Pair;
use crate::config_gen::Generator;
use crate::random::Random;
use crate::yaml_model::Yaml;

/// One rule: where it shows, and the values on both sides.
#[derive(Debug, Clone)]
struct Rule {
    label: String,
    kind: String,
    path: Vec<String>,
    make: Make,
}

#[derive(Debug, Clone, Copy)]
enum Make {
    /// Values of the type on both sides.
    Both,
    /// Deletes, of several forms.
    Delete(Delete),
    /// A setting, and a document that does not tolerate it.
    Conflict,
    /// Two kinds for one link, or the like.
    Kinds,
    /// Fixed values: left and right, as flow text.
    Fixed(&'static str, &'static str),
    /// A document that only control planes may have, on a worker.
    Worker,
}

#[derive(Debug, Clone, Copy)]
enum Delete {
    Document,
    Field,
    InnerKey,
    Item,
    LegacyRoot,
    MissingDocument,
    MissingKey,
    ScalarItem,
    ThenAdd,
    TwoDocuments,
}

/// What counts as having shown a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Both came to the same config.
    Result,
    /// Both refused.
    Refusal,
    /// Both refused two kinds of documents side by side.
    Kinds,
    /// Both came to the same config, and both found this contradiction in it.
    Contradiction(String),
}

/// Every rule of a line by its label, so that a run can tell which of them it has not shown.
pub fn proofs(line: TalosLine) -> BTreeMap<String, Proof> {
    let proof = |rule: &Rule| match rule.make {
        Make::Conflict => Proof::Contradiction(conflict_text(line, rule)),
        Make::Worker => Proof::Contradiction("only allowed on control plane machines".into()),
        Make::Kinds => Proof::Kinds,
        _ if is_refused(line, &rule.label) => Proof::Refusal,
        _ => Proof::Result,
    };
    of_line(line).iter().map(|rule| (rule.label.clone(), proof(rule))).collect()
}

fn conflict_text(line: TalosLine, rule: &Rule) -> String {
    let conflicts = &line.schema().conflicts;
    let own = conflicts.iter().find(|conflict| conflict.kind == rule.kind && conflict.path == rule.path);
    own.map(|conflict| conflict.text.clone()).unwrap_or_default()
}

/// Rules that say what is refused. Up to 1.13 those include what 1.14 allows.
fn is_refused(line: TalosLine, label: &str) -> bool {
    match label {
        "9.2 free-form mismatch"
        | "9.4 inner key of an item"
        | "9.4 legacy document"
        | "9.4 missing key"
        | "9.4 scalar item" => true,
        // Their parts cannot be set from outside; 1.14 has a rule of its own for them.
        "9.3 addresses are atomic" => line < TalosLine::V1_14,
        "9.4 missing document" | "9.4 two documents of one identity" => line < TalosLine::V1_14,
        _ => false,
    }
}

/// A pair for one of the rules of the line.
pub fn pair(line: TalosLine, random: &mut Random) -> Pair {
    show(line, random.pick(of_line(line)), random)
}

/// A pair for the rule with this label.
pub fn pair_of(line: TalosLine, label: &str, random: &mut Random) -> Option<Pair> {
    let rules: Vec<&Rule> = of_line(line).iter().filter(|rule| rule.label == label).collect();
    if rules.is_empty() {
        return None;
    }
    let rule = *random.pick(&rules);
    Some(show(line, rule, random))
}

/// The rules of a line, which are the same for every pair.
fn of_line(line: TalosLine) -> &'static [Rule] {
    static RULES: [OnceLock<Vec<Rule>>; 4] = [const { OnceLock::new() }; 4];
    let index = TalosLine::ALL.iter().position(|known| *known == line).unwrap_or_default();
    RULES[index].get_or_init(|| rules(line))
}

const FIXED: &[(&str, &str, &str, &str, &str)] = &[
    ("9.2 plain text", "v1alpha1", "machine.token", "old", "new"),
    ("9.2 plain text", "v1alpha1", "cluster.clusterName", "old", "\"\""),
    ("9.2 plain number", "v1alpha1", "cluster.controlPlane.localAPIServerPort", "6443", "7443"),
    (
        "9.2 plain number",
        "v1alpha1",
        "machine.network.interfaces",
        "[{interface: a, mtu: 9000}]",
        "[{interface: a, mtu: 0}]",
    ),
    ("9.2 pointer", "v1alpha1", "debug", "true", "false"),
    ("9.2 pointer", "v1alpha1", "machine.features.kubePrism.enabled", "true", "false"),
    ("9.2 pointer", "v1alpha1", "machine.kubelet.registerWithFQDN", "true", "null"),
    ("9.2 pointer to number", "v1alpha1", "machine.network.kubespan.mtu", "1400", "0"),
    ("9.2 pointer to number", "v1alpha1", "machine.network.kubespan.mtu", "1400", "1300"),
    (
        "9.2 plain bool",
        "v1alpha1",
        "machine.network.interfaces",
        "[{interface: a, vip: {ip: x}, dhcp: true}]",
        "[{interface: a, vip: {ip: y}}]",
    ),
    ("9.2 null is absent", "v1alpha1", "machine.nodeLabels", "{a: x}", "null"),
    ("9.2 null is absent", "v1alpha1", "machine.certSANs", "[a]", "~"),
    ("9.2 null is absent", "v1alpha1", "cluster.etcd", "{image: x}", "null"),
    ("9.2 map by key", "v1alpha1", "machine.nodeLabels", "{a: x, c: z}", "{a: \"\", b: y}"),
    ("9.2 map by key", "v1alpha1", "machine.sysctls", "{a: x}", "{a: y, b: z}"),
    (
        "9.2 map of structs",
        "v1alpha1",
        "machine.registries.mirrors",
        "{a: {endpoints: [x]}}",
        "{a: {endpoints: [y]}, b: {endpoints: [z]}}",
    ),
    (
        "9.2 free-form map",
        "v1alpha1",
        "machine.kubelet.extraConfig",
        "{a: {b: 1, l: [1]}, c: x}",
        "{a: {b: 2, l: [2]}, d: y}",
    ),
    ("9.2 free-form map", "v1alpha1", "machine.kubelet.extraConfig", "{a: true, z: 5}", "{a: false, z: 0}"),
    ("9.2 free-form mismatch", "v1alpha1", "machine.kubelet.extraConfig", "{a: 1}", "{a: x}"),
    ("9.2 free-form mismatch", "v1alpha1", "machine.kubelet.extraConfig", "{a: [1]}", "{a: {b: 1}}"),
    ("9.2 free-form null", "v1alpha1", "machine.kubelet.extraConfig", "{a: null}", "{a: x}"),
    ("9.2 list appends", "v1alpha1", "machine.certSANs", "[a]", "[a]"),
    ("9.2 list appends", "v1alpha1", "machine.kernel.modules", "[{name: a}]", "[{name: a}]"),
    ("9.2 empty list", "v1alpha1", "machine.certSANs", "[a]", "[]"),
    ("9.2 empty list", "v1alpha1", "machine.network.nameservers", "null", "[]"),
    ("9.2 bytes replace", "v1alpha1", "machine.ca", "{crt: aGk=, key: a2V5}", "{crt: b3RoZXI=, key: \"\"}"),
    ("9.2 struct by field", "v1alpha1", "machine.install", "{disk: /dev/sda, wipe: true}", "{image: x}"),
    (
        "9.3 interfaces by interface",
        "v1alpha1",
        "machine.network.interfaces",
        "[{interface: e, addresses: [1.0.0.1/24]}, {interface: e}]",
        "[{interface: e, addresses: [2.0.0.1/24], mtu: 1400}]",
    ),
    (
        "9.3 interfaces by selector",
        "v1alpha1",
        "machine.network.interfaces",
        "[{deviceSelector: {busPath: x}, mtu: 1}]",
        "[{deviceSelector: {busPath: x}, dhcp: true}]",
    ),
    (
        "9.3 interfaces by physical selector",
        "v1alpha1",
        "machine.network.interfaces",
        "[{deviceSelector: {physical: true}, mtu: 1}]",
        "[{deviceSelector: {physical: true}, dhcp: true}]",
    ),
    (
        "9.3 vlans by id",
        "v1alpha1",
        "machine.network.interfaces",
        "[{interface: e, vlans: [{vlanId: 5, mtu: 1400}]}]",
        "[{interface: e, vlans: [{vlanId: 5, dhcp: true}, {vlanId: 6}]}]",
    ),
    (
        "9.3 admission control by name",
        "v1alpha1",
        "cluster.apiServer.admissionControl",
        "[{name: p, configuration: {a: 1}}]",
        "[{name: p, configuration: {b: 2}}, {name: q}]",
    ),
    (
        "9.3 config files by path",
        "ExtensionServiceConfig",
        "configFiles",
        "[{mountPath: /etc/f, content: old}]",
        "[{mountPath: /etc/f, content: new}, {mountPath: /etc/g, content: x}]",
    ),
    ("9.3 environment appends", "ExtensionServiceConfig", "environment", "[A=1]", "[A=2]"),
    (
        "9.3 image rules by image",
        "ImageVerificationConfig",
        "rules",
        "[{image: a, skip: true}, {image: b}]",
        "[{image: a, deny: true}, {image: c}]",
    ),
    ("9.3 extraArgs by key", "v1alpha1", "cluster.apiServer.extraArgs", "{a: x, b: y}", "{a: z, c: w}"),
    ("9.3 extraArgs by key", "v1alpha1", "machine.kubelet.extraArgs", "{a: x}", "{a: \"\"}"),
    (
        "9.3 sizes are atomic",
        "VolumeConfig",
        "provisioning",
        "{minSize: 10GiB, maxSize: 20GiB, diskSelector: {match: \"true\"}}",
        "{maxSize: 30GiB}",
    ),
    (
        "9.3 expressions are atomic",
        "VolumeConfig",
        "provisioning.diskSelector",
        "{match: system_disk}",
        "{match: \"!system_disk\"}",
    ),
    ("9.3 addresses are atomic", "RoutingRuleConfig", "src", "10.0.0.0/8", "10.1.0.0/16"),
    (
        "9.3 routes append",
        "LinkConfig",
        "routes",
        "[{destination: 10.0.0.0/8}]",
        "[{destination: 10.0.0.0/8, metric: 5}]",
    ),
    ("9.3 subnets append", "v1alpha1", "machine.kubelet.nodeIP.validSubnets", "[a]", "[b]"),
    ("9.3 subnets append", "v1alpha1", "cluster.etcd.advertisedSubnets", "[a]", "[b]"),
    (
        "9.3 manifests append",
        "v1alpha1",
        "cluster.inlineManifests",
        "[{name: a, contents: \"\\n\\nx\"}]",
        "[{name: a, contents: y}]",
    ),
    (
        "9.3 peers append",
        "WireguardConfig",
        "peers",
        "[{publicKey: a}]",
        "[{publicKey: a, endpoint: \"1.2.3.4:5\"}]",
    ),
    (
        "9.3 endpoint by part",
        "v1alpha1",
        "cluster.controlPlane.endpoint",
        "https://old:6443/path",
        "https://new",
    ),
];

fn rules(line: TalosLine) -> Vec<Rule> {
    let schema = line.schema();
    let mut rules = Vec::new();
    let split = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<String>>();
    for (label, kind, path, left, right) in FIXED {
        let known = schema.kinds.get(*kind).is_some_and(|info| leads_somewhere(line, info.typ, &split(path)));
        if known {
            let make = Make::Fixed(left, right);
            rules.push(Rule { label: (*label).into(), kind: (*kind).into(), path: split(path), make });
        }
    }
    for (kind, info) in &schema.kinds {
        let mut found = Vec::new();
        replaced(line, info.typ, &mut Vec::new(), &mut found);
        for path in found {
            let label = format!("9.3 replaced: {kind} {}", path.join("."));
            rules.push(Rule { label, kind: kind.clone(), path, make: Make::Both });
        }
    }
    for (label, delete) in [
        ("9.4 document", Delete::Document),
        ("9.4 field or key", Delete::Field),
        ("9.4 field or key", Delete::Field),
        ("9.4 inner key of an item", Delete::InnerKey),
        ("9.4 list item", Delete::Item),
        ("9.4 list item", Delete::Item),
        ("9.4 legacy document", Delete::LegacyRoot),
        ("9.4 missing document", Delete::MissingDocument),
        ("9.4 missing key", Delete::MissingKey),
        ("9.4 scalar item", Delete::ScalarItem),
        ("9.4 delete, then add", Delete::ThenAdd),
        ("9.4 two documents of one identity", Delete::TwoDocuments),
    ] {
        rules.push(Rule {
            label: label.into(),
            kind: "v1alpha1".into(),
            path: Vec::new(),
            make: Make::Delete(delete),
        });
    }
    for conflict in &schema.conflicts {
        rules.push(Rule {
            label: format!("6 {} {}", conflict.kind, conflict.path.join(".")),
            kind: conflict.kind.clone(),
            path: conflict.path.clone(),
            make: Make::Conflict,
        });
    }
    for (kind, info) in &schema.kinds {
        if !info.conflicts.is_empty() {
            let label = format!("6 kinds: {kind}");
            rules.push(Rule { label, kind: kind.clone(), path: Vec::new(), make: Make::Kinds });
        }
    }
    if let Some((kind, _)) = schema.kinds.iter().find(|(_, info)| info.control_plane) {
        rules.push(Rule {
            label: "6 control plane only".into(),
            kind: kind.clone(),
            path: Vec::new(),
            make: Make::Worker,
        });
    }
    rules
}

fn leads_somewhere(line: TalosLine, typ: TypeId, path: &[String]) -> bool {
    let schema = line.schema();
    let Some((first, rest)) = path.split_first() else { return true };
    match &schema.typ(typ).shape {
        Shape::Pointer(inner) => leads_somewhere(line, *inner, path),
        Shape::Struct(fields) => fields.iter().any(|field| {
            (field.key == *first && leads_somewhere(line, field.typ, rest))
                || (field.inline && leads_somewhere(line, field.typ, path))
        }),
        _ => false,
    }
}

/// Fields that a patch replaces, outside of lists.
fn replaced(line: TalosLine, typ: TypeId, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    if path.len() > 6 {
        return;
    }
    match &line.schema().typ(typ).shape {
        Shape::Pointer(inner) => replaced(line, *inner, path, found),
        Shape::Struct(fields) => {
            for field in fields.iter().filter(|field| !field.hidden && !field.key.is_empty()) {
                path.push(field.key.clone());
                if field.replace {
                    found.push(path.clone());
                } else {
                    replaced(line, field.typ, path, found);
                }
                path.pop();
            }
        }
        _ => {}
    }
}

fn type_at(line: TalosLine, typ: TypeId, path: &[String]) -> Option<TypeId> {
    let schema = line.schema();
    let Some((first, rest)) = path.split_first() else { return Some(typ) };
    match &schema.typ(typ).shape {
        Shape::Pointer(inner) => type_at(line, *inner, path),
        Shape::Struct(fields) => fields.iter().find_map(|field| {
            if field.inline { type_at(line, field.typ, path) } else { None }
                .or_else(|| if field.key == *first { type_at(line, field.typ, rest) } else { None })
        }),
        _ => None,
    }
}

fn under(value: Yaml, path: &[String]) -> Yaml {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    value.under(&path)
}

/// The identity of a document, and nothing else.
fn identity(kind: &str, name: &str, named: bool) -> Yaml {
    if kind == "v1alpha1" {
        return Yaml::map([("version", Yaml::str("v1alpha1"))]);
    }
    let mut document = Yaml::map([("apiVersion", Yaml::str("v1alpha1")), ("kind", Yaml::str(kind))]);
    if named {
        document.join(Yaml::map([("name", Yaml::str(name))]));
    }
    document
}

fn show(line: TalosLine, rule: &Rule, random: &mut Random) -> Pair {
    let mut generator = Generator::new(line, random);
    let name = (*generator.random.pick(&["a", "eth0", "1000"])).to_owned();
    let info = &line.schema().kinds[&rule.kind];
    let empty = |named| identity(&rule.kind, &name, named);
    let (config, patches) = match rule.make {
        Make::Fixed(left, right) => {
            let mut config = generator.document(&rule.kind, &name);
            config.join(under(Yaml::plain(left), &rule.path));
            let mut patch = empty(info.named);
            patch.join(under(Yaml::plain(right), &rule.path));
            (vec![config], vec![vec![patch]])
        }
        Make::Both => {
            let typ = type_at(line, info.typ, &rule.path).unwrap_or(info.typ);
            let key = rule.path.last().cloned().unwrap_or_default();
            let mut config = generator.document(&rule.kind, &name);
            let value = generator.value(typ, &key, 1);
            config.join(under(value, &rule.path));
            let mut patch = empty(info.named);
            let value = generator.value(typ, &key, 1);
            patch.join(under(value, &rule.path));
            (vec![config], vec![vec![patch]])
        }
        Make::Delete(delete) => deletes(&mut generator, delete),
        Make::Conflict => {
            let role = if generator.random.chance(1, 2) { "controlplane" } else { "worker" };
            let mut config = Yaml::map([("version", Yaml::str("v1alpha1"))]);
            config.join(Yaml::str(role).under(&["machine", "type"]));
            if let Some(legacy) = line.schema().kinds.get("v1alpha1")
                && let Some(typ) = type_at(line, legacy.typ, &rule.path)
            {
                let key = rule.path.last().cloned().unwrap_or_default();
                let mut value = generator.value(typ, &key, 3);
                for _ in 0..4 {
                    if !matches!(&value, Yaml::Plain(text) if matches!(text.as_str(), "null" | "~" | "")) {
                        break;
                    }
                    value = generator.value(typ, &key, 3);
                }
                config.join(under(value, &rule.path));
            }
            let document = generator.document(&rule.kind, &name);
            if generator.random.chance(1, 2) {
                (vec![config], vec![vec![document]])
            } else {
                (vec![document], vec![vec![config]])
            }
        }
        Make::Worker => {
            let kinds: Vec<&String> = line
                .schema()
                .kinds
                .iter()
                .filter(|(_, info)| info.control_plane)
                .map(|(kind, _)| kind)
                .collect();
            let role = *generator.random.pick(&["worker", "worker", "controlplane"]);
            let config = Yaml::str(role).under(&["machine", "type"]);
            let kind = *generator.random.pick(&kinds);
            (vec![config], vec![vec![generator.document(kind, &name)]])
        }
        Make::Kinds => {
            let other = generator.random.pick(&info.conflicts).clone();
            let config = generator.document(&rule.kind, &name);
            let name = if generator.random.chance(4, 5) { name.clone() } else { "other".into() };
            let patch = generator.document(&other, &name);
            (vec![config], vec![vec![patch]])
        }
    };
    let config = write_stream(&config, generator.random);
    let patches = patches.iter().map(|patch| inline(write_stream(patch, generator.random))).collect();
    Pair { config, patches, label: rule.label.clone() }
}

type Documents = Vec<Yaml>;

fn deletes(generator: &mut Generator<'_>, delete: Delete) -> (Documents, Vec<Documents>) {
    let gone = || Yaml::map([("$patch", Yaml::str("delete"))]);
    let kinds = generator.kinds();
    let kind = *generator.random.pick(&kinds);
    let named = generator.line.schema().kinds[kind].named;
    let mut legacy = generator.document("v1alpha1", "");
    match delete {
        Delete::Document => {
            let document = generator.document(kind, "a");
            let mut patch = identity(kind, "a", named);
            patch.join(gone());
            (vec![legacy, document], vec![vec![patch]])
        }
        Delete::MissingDocument => {
            let mut patch = identity(kind, "missing", named);
            patch.join(gone());
            (vec![legacy], vec![vec![patch]])
        }
        Delete::LegacyRoot => {
            let mut patch = gone();
            if generator.random.chance(1, 2) {
                patch.join(Yaml::map([("version", Yaml::str("v1alpha1"))]));
            }
            (vec![legacy], vec![vec![patch]])
        }
        Delete::Field => {
            let path = *generator.random.pick::<&[&str]>(&[
                &["machine", "nodeLabels", "a"][..],
                &["machine", "nodeLabels"],
                &["machine", "kubelet"],
                &["machine", "network", "hostname"],
                &["cluster", "network", "podSubnets"],
                &["machine", "kubelet", "extraConfig", "a", "b"],
                &["machine", "token"],
                &["cluster", "apiServer", "extraArgs", "x"],
            ]);
            let value = match path.last() {
                Some(&"nodeLabels") => Yaml::map([("a", Yaml::str("x"))]),
                Some(&"kubelet") => Yaml::map([("image", Yaml::str("x"))]),
                Some(&"podSubnets") => Yaml::list([Yaml::str("x")]),
                _ => Yaml::str("x"),
            };
            legacy.join(value.under(path));
            (vec![legacy], vec![vec![gone().under(path)]])
        }
        Delete::MissingKey => {
            let path = *generator.random.pick::<&[&str]>(&[
                &["machine", "nodeLabels", "missing"][..],
                &["machine", "kubelet", "extraConfig", "missing"],
                &["machine", "nope"],
                &["cluster", "etcd", "image"],
                &["machine", "network", "kubespan", "mtu"],
                &["machine", "sysctls", "missing", "deeper"],
            ]);
            (vec![legacy], vec![vec![gone().under(path)]])
        }
        Delete::Item => {
            let (path, key): (&[&str], &str) = *generator.random.pick(&[
                (&["machine", "network", "interfaces"][..], "interface"),
                (&["machine", "kernel", "modules"], "name"),
                (&["cluster", "inlineManifests"], "name"),
                (&["machine", "files"], "path"),
                (&["cluster", "apiServer", "admissionControl"], "name"),
            ]);
            let item = |text: &str| Yaml::Map(vec![(key.to_owned(), Yaml::str(text))]);
            legacy.join(Yaml::list([item("a"), item("b"), item("a")]).under(path));
            let mut gone = gone();
            let text = *generator.random.pick(&["a", "b", "a", "missing"]);
            if generator.random.chance(1, 2) {
                gone.join(item(text));
            } else {
                let mut first = item(text);
                first.join(gone);
                gone = first;
            }
            (vec![legacy], vec![vec![Yaml::List(vec![gone]).under(path)]])
        }
        Delete::InnerKey => {
            let item = Yaml::map([("interface", Yaml::str("a")), ("mtu", Yaml::plain("5"))]);
            legacy.join(Yaml::List(vec![item]).under(&["machine", "network", "interfaces"]));
            let item = Yaml::map([("interface", Yaml::str("a")), ("mtu", gone())]);
            (vec![legacy], vec![vec![Yaml::List(vec![item]).under(&["machine", "network", "interfaces"])]])
        }
        Delete::ScalarItem => {
            legacy.join(Yaml::list([Yaml::str("a")]).under(&["machine", "certSANs"]));
            let item = if generator.random.chance(1, 2) {
                gone()
            } else {
                Yaml::map([("a", Yaml::str("x")), ("$patch", Yaml::str("delete"))])
            };
            (vec![legacy], vec![vec![Yaml::List(vec![item]).under(&["machine", "certSANs"])]])
        }
        Delete::ThenAdd => {
            let path = ["machine", "certSANs"];
            legacy.join(Yaml::list([Yaml::str("old")]).under(&path));
            let add = Yaml::list([Yaml::str("new")]).under(&path);
            (vec![legacy], vec![vec![gone().under(&path)], vec![add]])
        }
        Delete::TwoDocuments => {
            let path = ["environment"];
            let base = || identity("ExtensionServiceConfig", "a", true);
            let mut document = base();
            document.join(Yaml::list([Yaml::str("A=1")]).under(&path));
            let mut first = base();
            first.join(gone().under(&path));
            let mut second = base();
            second.join(Yaml::list([Yaml::str("A=2")]).under(&path));
            (vec![legacy, document], vec![vec![first, second]])
        }
    }
}
