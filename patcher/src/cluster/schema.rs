//! The keys of a cluster file, once for the reader and for the JSON Schema.

use serde_json::{Map, Value, json};

use super::{Hosts, Membership, Profile, Role, Route};

/// A key of a mapping.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The key.
    pub key: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// What it means.
    pub about: &'static str,
    /// What its value is.
    pub form: Form,
}

/// What a value is.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// Kept for later; anything.
    Any,
    /// `true` or `false`
    Bool,
    /// A whole number between two bounds.
    Int(u32, u32),
    /// A list of mappings.
    List(&'static [Field]),
    /// A mapping.
    Map(&'static [Field]),
    /// A text, with a pattern.
    Text(&'static str),
    /// A list of texts, with a pattern.
    Texts(&'static str),
    /// One of some words.
    Word(&'static [&'static str]),
}

/// A name as DNS labels have it (RFC 1123): it becomes a host name and a label of Kubernetes.
pub const NAME: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
const IPV4: &str = r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$";
const IPV6: &str = "^[0-9a-fA-F:.]+$";
const ADDRESS: &str = "^.+:[0-9]{1,5}$";
const CIDR: &str = "^[0-9a-fA-F.:]+/[0-9]{1,3}$";
const ANY: &str = "^.+$";

const fn field(key: &'static str, required: bool, form: Form, about: &'static str) -> Field {
    Field { key, required, about, form }
}

/// The whole file.
pub const FILE: &[Field] = &[
    field("mesh", true, Form::Map(MESH), "The mesh: what all nodes share."),
    field("sites", true, Form::List(SITE), "Places whose nodes reach each other without the mesh."),
    field("nodes", true, Form::List(NODE), "The members."),
    field("install", false, Form::Any, "Reserved for images."),
    field("upgrade", false, Form::Any, "Reserved for rollouts."),
];

/// `mesh`
pub const MESH: &[Field] = &[
    field("name", true, Form::Text(NAME), "Name of the mesh."),
    field("range", true, Form::Text(CIDR), "IPv4 range that members get their addresses from."),
    field(
        "range6",
        false,
        Form::Text(CIDR),
        "IPv6 range of the mesh beside it, a part of fc00::/7. Without it the mesh carries IPv4 only.",
    ),
    field(
        "membership",
        false,
        Form::Word(Membership::WORDS),
        "How the daemons know each other. listed (default): by the public keys of this file. tokens: an owner lets them \
         in, by what `ichorctl token create --patch` prints; the plan leaves the daemon's own file alone.",
    ),
    field("port", false, Form::Int(1, 65535), "UDP port of the mesh. Default 51840."),
    field("mtu", false, Form::Int(576, 65535), "MTU of the interface in bytes. Default 1420."),
    field(
        "profile",
        false,
        Form::Word(Profile::WORDS),
        "What runs over the mesh. beside (default): nothing of Kubernetes. nodes: kubelet node addresses, etcd \
         stays on the LAN. stretched: etcd too, for voters in several sites.",
    ),
    field(
        "route",
        false,
        Form::Word(Route::WORDS),
        "Who owns the route to the range. daemon (default), or config: a route in the machine config.",
    ),
    field(
        "hosts",
        false,
        Form::Word(Hosts::WORDS),
        "Which members every node knows by name without DNS. Default: all up to 64 members, then controlplanes.",
    ),
    field(
        "firewall",
        false,
        Form::Bool,
        "Whether nodes get an ingress firewall: the port of the mesh open to the world, everything else to mesh and \
         LAN only. Default false.",
    ),
    field("measured", false, Form::Map(MEASURED), "Paths between the sites of voters; needed for stretched."),
];

/// `mesh.measured`
pub const MEASURED: &[Field] = &[
    field("rttMs", true, Form::Int(0, 60_000), "Longest round trip in milliseconds (P99)."),
    field("lossPerMille", true, Form::Int(0, 1000), "Most packets lost, in parts of a thousand."),
];

/// `sites[]`
pub const SITE: &[Field] = &[
    field("name", true, Form::Text(NAME), "Name of the site; becomes the label topology.kubernetes.io/zone."),
    field("lans", true, Form::Texts(CIDR), "Networks of the site."),
    field(
        "gateway",
        false,
        Form::Text(IPV4),
        "Gateway that is reached on the link although no address of the node contains it, as 10.0.0.1 of a VPC \
         whose nodes have a /32.",
    ),
];

/// `nodes[]`
pub const NODE: &[Field] = &[
    field("name", true, Form::Text(NAME), "Name of the node, in Kubernetes too."),
    field("role", true, Form::Word(Role::WORDS), "What the node is for."),
    field("site", true, Form::Text(NAME), "Its site."),
    field("address", true, Form::Text(IPV4), "Its address in the mesh."),
    field("address6", false, Form::Text(IPV6), "Its IPv6 address in the mesh, from range6."),
    field("api", false, Form::Text(ANY), "Address or name of its Talos API. Needed for all but admin."),
    field("endpoint", false, Form::Text(ADDRESS), "Public address:port of its mesh; none behind NAT."),
    field("via", false, Form::Text("^ssh://"), "Jump host to its Talos API, ssh://user@host."),
    field("publicKey", false, Form::Text("^[A-Za-z0-9+/]{43}=$"), "Public key of its daemon."),
    field("link", false, Form::Text("^[^\\s/:]{1,15}$"), "Link that carries its LAN, such as eth0."),
];

/// The JSON Schema of the file, for editors.
pub fn json_schema() -> Value {
    let mut schema = mapping(FILE);
    if let Value::Object(entries) = &mut schema {
        entries.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        entries.insert("title".to_owned(), json!("ichor.yaml: an Ichor mesh on a Talos cluster"));
    }
    schema
}

fn mapping(fields: &[Field]) -> Value {
    let mut properties = Map::new();
    for field in fields {
        let mut value = form(field.form);
        if let Value::Object(entries) = &mut value {
            entries.insert("description".to_owned(), json!(field.about));
        }
        properties.insert(field.key.to_owned(), value);
    }
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.key).collect();
    json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties})
}

fn form(form: Form) -> Value {
    match form {
        Form::Any => json!({}),
        Form::Bool => json!({"type": "boolean"}),
        Form::Int(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Form::List(fields) => json!({"type": "array", "minItems": 1, "items": mapping(fields)}),
        Form::Map(fields) => mapping(fields),
        Form::Text(pattern) => json!({"type": "string", "pattern": pattern}),
        Form::Texts(pattern) => {
            json!({"type": "array", "minItems": 1, "items": {"type": "string", "pattern": pattern}})
        }
        Form::Word(words) => json!({"type": "string", "enum": words}),
    }
}
