use super::*;

const FILE: &str = "\
mesh:
  name: home
  range: 10.213.0.0/16
sites:
  - name: rack
    lans: [192.168.1.0/24]
  - name: cloud
    lans: [10.0.0.0/24]
    gateway: 10.0.0.1
nodes:
  - {name: cp-1, role: controlplane, site: rack, address: 10.213.0.1, api: 192.168.1.11}
  - name: w-1
    role: worker
    site: cloud
    address: 10.213.0.2
    api: 10.0.0.5
    via: ssh://root@203.0.113.7
    endpoint: 203.0.113.7:51840
    publicKey: hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=
";

#[test]
fn a_file_has_defaults_for_what_it_does_not_say() {
    let cluster = Cluster::parse(FILE).unwrap();
    assert_eq!((cluster.mesh.port, cluster.mesh.mtu), (51840, 1420));
    assert_eq!((cluster.mesh.profile, cluster.mesh.route), (Profile::Beside, Route::Daemon));
    assert_eq!((cluster.hosts(), cluster.mesh.firewall), (Hosts::All, false));
    assert_eq!(cluster.site("cloud").unwrap().gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(cluster.voters().count(), 1);
    assert_eq!(cluster.nodes[1].line, 12);
}

#[test]
fn errors_name_line_and_key_and_what_was_meant() {
    let cases = [
        ("  range:", "  rnage:", "line 3: mesh.rnage: unknown key; did you mean `range`?"),
        (
            "role: worker",
            "role: wroker",
            "line 13: nodes[1].role: \"wroker\" is unknown: expected one of controlplane, worker, relay, admin; did you mean `worker`?",
        ),
        ("publicKey:", "publickey:", "line 19: nodes[1].publickey: unknown key; did you mean `publicKey`?"),
        (
            "10.213.0.2",
            "10.214.0.2",
            "line 15: nodes[1].address: 10.214.0.2 is outside of the range 10.213.0.0/16 of the mesh",
        ),
        ("10.213.0.2", "10.213.0.1", "line 15: nodes[1].address: 10.213.0.1 is that of nodes[0] already"),
        (
            "10.213.0.2",
            "10.213.255.255",
            "line 15: nodes[1].address: 10.213.255.255 is the first or last address of 10.213.0.0/16, which no host can have",
        ),
        ("name: w-1", "name: cp-1", "line 12: nodes[1].name: cp-1 is that of nodes[0] already"),
        (
            "site: cloud",
            "site: moon",
            "line 14: nodes[1].site: there is no site \"moon\"; there are rack, cloud",
        ),
        (
            "10.213.0.0/16",
            "10.213.0.1/16",
            "line 3: mesh.range: 10.213.0.1/16 has bits behind its prefix, 10.213.0.0/16 is meant",
        ),
        (
            "[192.168.1.0/24]",
            "[192.168.1.0/34]",
            "line 6: sites[0].lans[0]: \"192.168.1.0/34\" cannot be used: invalid IP address syntax",
        ),
        ("    api: 10.0.0.5\n", "", "line 12: nodes[1]: the key `api` is missing: where its Talos API is"),
        (
            "  name: home\n",
            "  name: home\n  port: 70000\n",
            "line 3: mesh.port: \"70000\" is not a number of 1 to 65535",
        ),
        (
            "  name: home\n",
            "  name: home\n  firewall: yes\n",
            "line 3: mesh.firewall: expected true or false",
        ),
        ("  name: home\n", "  name: home\n  name: x\n", "line 3: mesh.name: the key occurs twice"),
        (
            "mesh:",
            "extra: 1\nmesh:",
            "line 1: extra: unknown key, expected one of mesh, sites, nodes, install, upgrade",
        ),
        ("hSDw", "hSD", "line 19: nodes[1].publicKey: expected a WireGuard public key: 32 bytes in base64"),
    ];
    for (from, to, expected) in cases {
        let text = FILE.replace(from, to);
        assert_ne!(text, FILE, "{from} occurs");
        let error = Cluster::parse(&text).unwrap_err().to_string();
        assert!(error.lines().any(|line| line == expected), "{expected}\nis not in\n{error}");
    }
}

#[test]
fn whatever_is_no_cluster_file_is_an_error() {
    for text in
        ["", "a: [", "[]", "mesh: 1\nsites: []\nnodes: {}\n", "--- {}\n--- {}\n", "? [a]\n: b\n", "\u{0}"]
    {
        assert!(Cluster::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn sections_for_later_are_let_through() {
    let text = format!("{FILE}install: {{image: x}}\nupgrade: [1]\n");
    assert!(Cluster::parse(&text).is_ok());
}

#[test]
fn the_schema_knows_every_key_of_the_example() {
    let schema = schema::json_schema();
    assert_eq!(schema["properties"]["mesh"]["properties"]["profile"]["enum"][1], "nodes");
    assert_eq!(schema["properties"]["nodes"]["items"]["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["mesh", "sites", "nodes"]));
    for key in ["name", "role", "site", "address", "api", "via", "endpoint", "publicKey"] {
        let property = &schema["properties"]["nodes"]["items"]["properties"][key];
        assert!(property["description"].is_string(), "{key}");
    }
}

#[test]
fn ipv6_addresses_are_from_a_unique_local_range_that_the_daemon_routes() {
    let with = |range: &str, address: &str| {
        let nodes = format!("address: 10.213.0.1, address6: \"{address}\"");
        FILE.replacen("address: 10.213.0.1", &nodes, 1).replacen(
            "mesh:",
            &format!("mesh:\n  range6: {range}"),
            1,
        )
    };
    let cluster = Cluster::parse(&with("fd12:3456:789a::/48", "fd12:3456:789a::1"));
    assert_eq!(cluster.unwrap().mesh.ranges().count(), 2);
    for (range, address, says) in [
        ("fd12:3456:789a::/48", "fd12:3456:789b::1", "outside of the range"),
        ("fd12:3456:789a::/48", "fd12:3456:789a::", "every router's"),
        ("2001:db8::/48", "2001:db8::1", "no unique local range"),
        ("fd12:3456:789a::1/48", "fd12:3456:789a::1", "bits behind its prefix"),
    ] {
        let error = Cluster::parse(&with(range, address)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let error =
        Cluster::parse(&FILE.replacen("address: 10.213.0.1", "address: 10.213.0.1, address6: fd00::1", 1));
    assert!(error.unwrap_err().to_string().contains("no range6"));
}

#[test]
fn many_members_are_not_all_known_by_name() {
    let mut cluster = Cluster::parse(FILE).unwrap();
    let node = cluster.nodes[0].clone();
    cluster.nodes.resize(MAX_HOSTS + 1, node);
    assert_eq!(cluster.hosts(), Hosts::ControlPlanes);
    cluster.mesh.hosts = Some(Hosts::All);
    assert_eq!(cluster.hosts(), Hosts::All);
}

const EXAMPLES: [(&str, &str); 3] = [
    ("beside", include_str!("../../../docs/examples/beside.yaml")),
    ("nodes", include_str!("../../../docs/examples/nodes.yaml")),
    ("stretched", include_str!("../../../docs/examples/stretched.yaml")),
];

#[test]
fn the_examples_are_right_and_show_every_key() {
    let mut shown = std::collections::BTreeSet::new();
    for (name, text) in EXAMPLES {
        let cluster = Cluster::parse(text);
        assert!(cluster.is_ok(), "{name}: {:?}", cluster.err());
        keys(&yaml_serde::from_str(text).unwrap(), "", &mut shown);
    }
    let mut known = std::collections::BTreeSet::new();
    properties(&schema::json_schema(), "", &mut known);
    // They are reserved for later.
    known.retain(|key| !matches!(key.as_str(), ".install" | ".upgrade"));
    assert!(known.len() > 20, "{known:?}");
    assert_eq!(shown, known);
}

fn keys(value: &yaml_serde::Value, path: &str, into: &mut std::collections::BTreeSet<String>) {
    match value {
        yaml_serde::Value::Mapping(mapping) => {
            for (key, value) in mapping {
                let path = format!("{path}.{}", key.as_str().unwrap());
                keys(value, &path, into);
                into.insert(path);
            }
        }
        yaml_serde::Value::Sequence(list) => list.iter().for_each(|value| keys(value, path, into)),
        _ => {}
    }
}

fn properties(schema: &serde_json::Value, path: &str, into: &mut std::collections::BTreeSet<String>) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        properties(property, &path, into);
        properties(&property["items"], &path, into);
        into.insert(path);
    }
}
