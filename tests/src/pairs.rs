//! Generated pairs of configs and patches: random ones over all kinds, and ones that show one rule each.

use ichorctl::patch::TalosLine;

use crate::compare::Pair;
use crate::config_gen::Generator;
use crate::random::Random;
use crate::yaml_model::Yaml;

pub mod rules;

const NAMES: &[&str] = &["a", "b", "eth0", "10.0.0.1", "10.0.0.0/8", "1000"];

/// Makes a pair: every other one shows a rule, the rest is random.
pub fn pair(line: TalosLine, random: &mut Random) -> Pair {
    if random.chance(1, 2) { rules::pair(line, random) } else { random_pair(line, random) }
}

/// A config of a few documents and patches for it, in which anything may be wrong.
pub fn random_pair(line: TalosLine, random: &mut Random) -> Pair {
    let mut generator = Generator::new(line, random);
    let kinds = generator.kinds();
    let mut documents: Vec<(&str, String)> = Vec::new();
    if generator.random.chance(3, 4) {
        documents.push(("v1alpha1", String::new()));
    }
    for _ in 0..generator.random.below(4) {
        let kind = *generator.random.pick(&kinds);
        let name = (*generator.random.pick(NAMES)).to_owned();
        if !documents.iter().any(|(known, other)| *known == kind && *other == name)
            || generator.random.chance(1, 30)
        {
            documents.push((kind, name));
        }
    }
    if generator.random.chance(1, 8) {
        documents.reverse();
    }
    generator.bad = if generator.random.chance(1, 25) { 3 } else { 0 };
    let config: Vec<Yaml> = documents.iter().map(|(kind, name)| generator.document(kind, name)).collect();
    generator.bad = if generator.random.chance(1, 5) { 4 } else { 0 };
    let mut patches = Vec::new();
    for _ in 0..*generator.random.pick(&[1, 1, 1, 2, 3]) {
        patches.push(random_patch(&mut generator, &documents, &kinds));
    }
    let config = write_stream(&config, generator.random);
    Pair { config: damage(config, generator.random, 60), patches, label: "random".into() }
}

fn random_patch(generator: &mut Generator<'_>, documents: &[(&str, String)], kinds: &[&str]) -> String {
    if generator.random.chance(1, 8) {
        return random_json_patch(generator);
    }
    let mut patch = Vec::new();
    let mut used: Vec<(String, String)> = Vec::new();
    for _ in 0..*generator.random.pick(&[1, 1, 2, 3]) {
        let (kind, name) = if !documents.is_empty() && generator.random.chance(4, 5) {
            let (kind, name) = generator.random.pick(documents);
            (*kind, name.clone())
        } else {
            (*generator.random.pick(kinds), (*generator.random.pick(NAMES)).to_owned())
        };
        let again = used.iter().any(|(known, other)| *known == kind && *other == name);
        if again && !generator.random.chance(1, 6) {
            continue;
        }
        used.push((kind.to_owned(), name.clone()));
        let mut document = generator.document(kind, &name);
        if generator.random.chance(1, 6) {
            put_delete(&mut document, generator.random);
        }
        if generator.random.chance(1, 40) {
            spoil_identity(&mut document, generator.random);
        }
        patch.push(document);
    }
    let text = write_stream(&patch, generator.random);
    inline(damage(text, generator.random, 80))
}

/// As a value of `-p` that is not taken for a file name.
pub fn inline(text: String) -> String {
    if text.contains([' ', '\n']) || text.starts_with(['[', '{']) { text } else { format!("{text}\n") }
}

/// Documents as a stream.
pub fn write_stream(documents: &[Yaml], random: &mut Random) -> String {
    let mut out = String::new();
    for (index, document) in documents.iter().enumerate() {
        if index > 0 || random.chance(1, 5) {
            out.push_str("---\n");
        }
        if random.chance(1, 60) {
            out.push_str("# only a comment\n---\n");
        }
        out.push_str(&document.write(random));
    }
    if random.chance(1, 30) {
        out.push_str("...\n");
    }
    if random.chance(1, 12) {
        out = out.replace('\n', "\r\n");
    }
    out
}

fn damage(mut text: String, random: &mut Random, rarity: usize) -> String {
    if !random.chance(1, rarity) {
        return text;
    }
    match random.below(6) {
        0 => text.push_str("broken: [\n"),
        1 => text.push_str("\ttab: 1\n"),
        2 => text.insert_str(0, "a: 1\na: 2\n"),
        3 => {
            let cut = random.below(text.len());
            let cut = (0..=cut).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(cut);
        }
        4 => text.insert_str(0, "just text\n---\n"),
        _ => text.push_str("---\n- a list\n"),
    }
    text
}

fn spoil_identity(document: &mut Yaml, random: &mut Random) {
    let Yaml::Map(entries) = document else { return };
    match random.below(4) {
        0 => entries.retain(|(key, _)| key != "kind"),
        1 => entries.retain(|(key, _)| key != "apiVersion"),
        2 => document.join(Yaml::map([("kind", Yaml::str("NoSuchConfig"))])),
        _ => document.join(Yaml::map([("apiVersion", Yaml::str("v1beta1"))])),
    }
}

/// Puts `$patch: delete` somewhere into a document.
pub fn put_delete(document: &mut Yaml, random: &mut Random) {
    let delete = || Yaml::map([("$patch", Yaml::str("delete"))]);
    match document {
        Yaml::Map(entries) => {
            let fixed = ["apiVersion", "kind", "name", "version"];
            let open: Vec<usize> =
                (0..entries.len()).filter(|index| !fixed.contains(&entries[*index].0.as_str())).collect();
            if open.is_empty() || random.chance(1, 6) {
                entries.push(("$patch".into(), Yaml::str("delete")));
                return;
            }
            let (_, value) = &mut entries[*random.pick(&open)];
            match value {
                Yaml::Map(inner) if !inner.is_empty() && random.chance(2, 3) => put_delete(value, random),
                Yaml::List(items) if !items.is_empty() && random.chance(2, 3) => put_delete(value, random),
                _ => *value = delete(),
            }
        }
        Yaml::List(items) if !items.is_empty() => {
            let index = random.below(items.len());
            match &mut items[index] {
                Yaml::Map(entries) => {
                    if random.chance(1, 8) {
                        put_delete(&mut items[index], random);
                    } else {
                        let at = if random.chance(1, 2) { 0 } else { entries.len() };
                        entries.insert(at, ("$patch".into(), Yaml::str("delete")));
                    }
                }
                item => *item = delete(),
            }
        }
        other => *other = delete(),
    }
}

const POINTERS: &[&str] = &[
    "/machine/type",
    "/machine",
    "/machine/certSANs/-",
    "/machine/certSANs/0",
    "/machine/nodeLabels/a",
    "/cluster/clusterName",
    "/machine/certSANs",
    "/machine/network/hostname",
    "/machine/sysctls",
    "/cluster/network/podSubnets/-1",
    "/debug",
    "",
    "/nope/x",
    "/machine/nodeLabels/a.b~1c",
    "/cluster/etcd/advertisedSubnets",
    "/cluster",
    "/version",
    "machine",
    "/machine/certSANs/9",
];

fn random_json_patch(generator: &mut Generator<'_>) -> String {
    let mut operations = Vec::new();
    for _ in 0..*generator.random.pick(&[1, 1, 2, 3]) {
        let op = *generator
            .random
            .pick(&["add", "add", "replace", "replace", "remove", "test", "move", "copy", "frob"]);
        let mut operation =
            Yaml::map([("op", Yaml::str(op)), ("path", Yaml::str(*generator.random.pick(POINTERS)))]);
        if matches!(op, "move" | "copy") {
            operation.join(Yaml::map([("from", Yaml::str(*generator.random.pick(POINTERS)))]));
        }
        if !generator.random.chance(1, 12) && matches!(op, "add" | "replace" | "test") {
            operation.join(Yaml::Map(vec![("value".into(), generator.free(4))]));
        }
        if generator.random.chance(1, 30) {
            operation.join(Yaml::map([("path", Yaml::plain("null"))]));
        }
        operations.push(operation);
    }
    if generator.random.chance(1, 2) {
        return inline(json(&Yaml::List(operations), generator.random));
    }
    inline(Yaml::List(operations).write(generator.random))
}

/// JSON text of a value; what is no JSON becomes a string.
pub fn json(value: &Yaml, random: &mut Random) -> String {
    match value {
        Yaml::List(items) => {
            let items: Vec<String> = items.iter().map(|item| json(item, random)).collect();
            format!("[{}]", items.join(if random.chance(1, 2) { "," } else { ", " }))
        }
        Yaml::Map(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| {
                    format!("{}: {}", serde_json::Value::from(key.as_str()), json(value, random))
                })
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        Yaml::Plain(text) if matches!(text.as_str(), "true" | "false" | "null") => text.clone(),
        Yaml::Plain(text) if serde_json::from_str::<serde_json::Number>(text).is_ok() => text.clone(),
        Yaml::Plain(text) | Yaml::Str(text) => serde_json::Value::from(text.as_str()).to_string(),
    }
}
