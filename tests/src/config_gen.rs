//! Configs and patches of any Talos line, made from the tables of its types.

use ichorctl::patch::TalosLine;
use ichorctl::patch::codec::Codec;
use ichorctl::patch::schema::{Field, Schema, Shape, TypeId};

use crate::random::Random;
use crate::yaml_model::Yaml;

/// Makes values of the types of a line.
#[derive(Debug)]
pub struct Generator<'a> {
    schema: &'a Schema,
    /// The line.
    pub line: TalosLine,
    /// Where all choices come from.
    pub random: &'a mut Random,
    /// How many of 100 values are such as the type does not take.
    pub bad: usize,
}

const WORDS: &[&str] =
    &["a", "b", "eth0", "eth1", "10.0.0.0/24", "x y", "k8s.io/x", "v1", "node-1", "ghcr.io/a/b:1"];
const ODD_WORDS: &[&str] = &[
    "off",
    "017",
    "yes",
    "1.10",
    "",
    "null",
    "true",
    "0x1F",
    "-",
    "a: b",
    "#x",
    "l1\nl2\n",
    "~",
    "é",
    "1e3",
    "2001-12-14",
];

impl<'a> Generator<'a> {
    /// A generator for a line.
    pub fn new(line: TalosLine, random: &'a mut Random) -> Self {
        Self { schema: line.schema(), line, random, bad: 0 }
    }

    /// The kinds of the line, the legacy one left out.
    pub fn kinds(&self) -> Vec<&'a str> {
        self.schema.kinds.keys().map(String::as_str).filter(|kind| *kind != "v1alpha1").collect()
    }

    /// A document of a kind, with the name.
    pub fn document(&mut self, kind: &str, name: &str) -> Yaml {
        let Some(info) = self.schema.kinds.get(kind) else { return Yaml::Map(Vec::new()) };
        let mut document = if kind == "v1alpha1" {
            Yaml::map([("version", Yaml::str("v1alpha1"))])
        } else {
            Yaml::map([("apiVersion", Yaml::str("v1alpha1")), ("kind", Yaml::str(kind))])
        };
        if info.named && kind != "v1alpha1" {
            document.join(Yaml::map([("name", Yaml::str(name))]));
        }
        let body = self.value(info.typ, "", 0);
        if let Yaml::Map(entries) = body {
            let fixed = ["apiVersion", "kind", "name", "version"];
            let rest = entries.into_iter().filter(|(key, _)| !fixed.contains(&key.as_str())).collect();
            document.join(Yaml::Map(rest));
        }
        document
    }

    fn fields(&self, fields: &[Field]) -> Vec<Field> {
        let mut out = Vec::new();
        for field in fields.iter().filter(|field| !field.hidden) {
            match &self.schema.typ(field.typ).shape {
                Shape::Struct(inner) if field.inline => out.extend(self.fields(inner)),
                _ if field.inline => {}
                _ => out.push(field.clone()),
            }
        }
        out
    }

    /// A value of a type; the key in front of it helps to find likely ones.
    pub fn value(&mut self, typ: TypeId, key: &str, depth: usize) -> Yaml {
        if self.bad > 0 && self.random.chance(self.bad, 100) {
            return self.wrong();
        }
        if !matches!(key, "protocol" | "portSelector") && self.random.chance(1, 60) {
            return Yaml::plain(*self.random.pick(&["null", "~", ""]));
        }
        let definition = self.schema.typ(typ);
        if let Some(value) = self.custom(&definition.codec, key) {
            return value;
        }
        match &definition.shape {
            Shape::Pointer(inner) => self.value(*inner, key, depth),
            Shape::Bool => {
                let odd = self.random.chance(1, 10);
                Yaml::plain(*self.random.pick(if odd {
                    &["yes", "off", "on", "n", "True"]
                } else {
                    &["true", "false"]
                }))
            }
            Shape::Int(_) | Shape::Uint(_) => {
                let odd = self.random.chance(1, 10);
                Yaml::plain(*self.random.pick(if odd {
                    &["0x10", "010", "1_0", "7.0", "0b11"]
                } else {
                    &["0", "1", "5", "100", "51"]
                }))
            }
            Shape::Float => Yaml::plain("1.5"),
            Shape::Str => self.text(key),
            Shape::Any => self.free(depth),
            Shape::Bytes | Shape::Opaque => Yaml::str(""),
            Shape::List(item) => {
                let count = *self.random.pick(&[0, 1, 1, 2, 2, 3]);
                Yaml::List((0..count).map(|_| self.value(*item, key, depth + 1)).collect())
            }
            Shape::Map(item) => {
                let count = *self.random.pick(&[0, 1, 2, 2]);
                let mut entries: Vec<(String, Yaml)> = Vec::new();
                for _ in 0..count {
                    let name = (*self.random.pick(&["a", "b", "c", "a.b/c", "1", "off"])).to_owned();
                    if entries.iter().all(|(known, _)| *known != name) {
                        entries.push((name, self.value(*item, key, depth + 1)));
                    }
                }
                Yaml::Map(entries)
            }
            Shape::Struct(fields) => {
                let free = fields.iter().find_map(|field| match self.schema.typ(field.typ).shape {
                    Shape::Map(item) if field.inline => Some(item),
                    _ => None,
                });
                if free.is_some() {
                    return self.free_map(depth);
                }
                let fields = self.fields(fields);
                // Few of many, more of few, and fewer the deeper.
                let part = (6 + depth * 2).max(fields.len() * (depth + 2) / 5).max(2);
                let mut entries = Vec::new();
                for field in fields {
                    let identity =
                        matches!(field.key.as_str(), "interface" | "name" | "mountPath" | "vlanId" | "image");
                    // Its zero value has no name: the library writes what it cannot read.
                    let needed = matches!(field.key.as_str(), "protocol" | "portSelector");
                    if needed
                        || self.random.chance(if identity && depth > 0 { part } else { 4 }, part.max(4))
                            && depth < 9
                    {
                        entries.push((field.key.clone(), self.value(field.typ, &field.key, depth + 1)));
                    }
                }
                Yaml::Map(entries)
            }
        }
    }

    fn custom(&mut self, codec: &Codec, key: &str) -> Option<Yaml> {
        let text = match codec {
            Codec::Kind | Codec::Args | Codec::InlineManifests => return None,
            Codec::Address => *self.random.pick(&["10.0.0.1", "fd00::1", "", "::ffff:1.2.3.4"]),
            Codec::AddressPort => *self.random.pick(&["10.0.0.1:53", "[fd00::1]:51820"]),
            Codec::Prefix => *self.random.pick(&["10.0.0.0/8", "10.1.0.1/16", "fd00::/64", "0.0.0.0/0"]),
            Codec::ArgValue if self.random.chance(1, 3) => {
                return Some(Yaml::list([Yaml::str("x"), Yaml::str(*self.random.pick(WORDS))]));
            }
            Codec::ArgValue => return Some(self.text(key)),
            Codec::Base64 => *self.random.pick(&["aGVsbG8=", "", "AAAA"]),
            Codec::ByteSize => *self.random.pick(&["10GiB", "1.5 GB", "100", "1,000k"]),
            Codec::Cel => *self.random.pick(&["true", "system_disk", "disk.size > 1u"]),
            Codec::DiskMatcher => *self.random.pick(&[">= 10GB", "5GB", "<= 1TB"]),
            Codec::DiskSize => *self.random.pick(&["10GB", "1000000", "1.5 GiB"]),
            Codec::Duration => *self.random.pick(&["1m", "90s", "1h0m0s", "0s", "100ms"]),
            Codec::Endpoint | Codec::Url => *self.random.pick(&[
                "https://10.0.0.1:6443",
                "https://h/p?q=1",
                "tcp://1.2.3.4:5",
                "",
                "https://u@h:1",
                "http://other",
            ]),
            Codec::Enum(values) => return Some(Yaml::str(self.random.pick(values).1.clone())),
            Codec::FailOverMac => *self.random.pick(&["none", "active", "follow", "1"]),
            Codec::FileMode => return Some(Yaml::plain(*self.random.pick(&["0o644", "0600", "420"]))),
            Codec::HardwareAddress => *self.random.pick(&["02:00:00:00:00:01", "2e:3c:4d:5e:6f:70"]),
            Codec::PemCertificate => {
                return Some(Yaml::map([("crt", Yaml::str(*self.random.pick(&["aGk=", ""])))]));
            }
            Codec::PemCertificateAndKey => {
                let mut pair = Yaml::map([("crt", Yaml::str("aGk="))]);
                if self.random.chance(2, 3) {
                    pair.join(Yaml::map([("key", Yaml::str(*self.random.pick(&["a2V5", "", "b3RoZXI="])))]));
                }
                return Some(pair);
            }
            Codec::PemKey => return Some(Yaml::map([("key", Yaml::str("a2V5"))])),
            Codec::Percentage => *self.random.pick(&["50%", "7.5%", "100%"]),
            Codec::PortRange => {
                return Some(Yaml::plain(*self.random.pick(&["80", "443", "8000-8080", "\"22\"", "1-1"])));
            }
            Codec::Size => *self.random.pick(&["10GiB", "50%", "100"]),
        };
        Some(Yaml::str(text))
    }

    fn text(&mut self, key: &str) -> Yaml {
        let odd = self.random.chance(1, 8);
        match key {
            "interface" | "deviceSelector" => Yaml::str(*self.random.pick(&["eth0", "eth1", ""])),
            "type" => Yaml::str(*self.random.pick(&["controlplane", "worker"])),
            "mountPath" => Yaml::str(*self.random.pick(&["/etc/a", "/etc/b"])),
            _ if odd => {
                let text = *self.random.pick(ODD_WORDS);
                // Plain now and then: what a string field makes of it is a question of its own.
                let risky = text.contains(['\n', '#']) || text == "<<" || text == "-" || text.contains(": ");
                if risky || text == "2001-12-14" || self.random.chance(1, 2) {
                    Yaml::str(text)
                } else {
                    Yaml::plain(text)
                }
            }
            _ => Yaml::str(*self.random.pick(WORDS)),
        }
    }

    /// A value without a type.
    pub fn free(&mut self, depth: usize) -> Yaml {
        match self.random.below(if depth > 6 { 6 } else { 9 }) {
            0 => Yaml::str(*self.random.pick(WORDS)),
            1 => Yaml::plain(*self.random.pick(&["1", "0", "-3", "018", "0o17", "18446744073709551615"])),
            2 => Yaml::plain(*self.random.pick(&["true", "false", "off"])),
            3 => Yaml::plain(*self.random.pick(&["1.5", "-0", "1e3", ".inf", "0.0", "123456789.0"])),
            4 => Yaml::str(*self.random.pick(ODD_WORDS)),
            5 => Yaml::plain(*self.random.pick(&[
                "null",
                "~",
                "2001-12-14",
                "\"\"",
                "2001-12-14T21:59:43.10Z",
            ])),
            6 => {
                let count = self.random.below(3);
                Yaml::List((0..count).map(|_| self.free(depth + 1)).collect())
            }
            _ => self.free_map(depth),
        }
    }

    /// A mapping without types.
    pub fn free_map(&mut self, depth: usize) -> Yaml {
        let count = self.random.below(4);
        let mut entries: Vec<(String, Yaml)> = Vec::new();
        for _ in 0..count {
            let name = (*self.random.pick(&["a", "b", "c", "kind", "rules"])).to_owned();
            if entries.iter().all(|(known, _)| *known != name) {
                entries.push((name, self.free(depth + 1)));
            }
        }
        Yaml::Map(entries)
    }

    /// A value that hardly any type takes.
    pub fn wrong(&mut self) -> Yaml {
        match self.random.below(9) {
            0 => Yaml::map([("unexpected", Yaml::plain("1"))]),
            1 => Yaml::list([Yaml::str("x")]),
            2 => Yaml::plain("-5"),
            3 => Yaml::plain("99999999999"),
            4 => Yaml::str("nonsense"),
            5 => Yaml::plain("!!int x"),
            6 => Yaml::list([Yaml::plain("null"), Yaml::map([("a", Yaml::plain("1"))])]),
            7 => Yaml::plain("1.5"),
            _ => Yaml::plain("true"),
        }
    }
}
