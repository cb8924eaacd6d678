//! What `ichorctl plan` makes of generated configs, judged by the official library of each line.

use std::path::Path;

use anyhow::{Context, Result};
use ichor_tests::oracle::{Oracle, Request};
use ichorctl::cluster::Cluster;
use ichorctl::machine::MachineConfig;
use ichorctl::patch::{self, PatchArg, TalosLine};
use ichorctl::plan::observe::Observation;
use ichorctl::plan::{self, NodePlan, Options, Plan, daemon, patches};

const KEY_A: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const KEY_B: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

/// A generated config, and what was done to it afterwards.
struct Case {
    line: TalosLine,
    role: &'static str,
    cni: &'static str,
    network: &'static str,
    config: String,
}

impl Case {
    fn name(&self) -> String {
        format!("{} {} cni={} {}", self.line, self.role, self.cni, self.network)
    }
}

fn fixture(line: TalosLine, role: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/plan/v{line}-{role}.yaml"));
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}"))
}

/// Every contract, role, CNI and way to get an address.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for line in TalosLine::ALL {
        for role in ["controlplane", "worker"] {
            for cni in ["flannel", "none"] {
                for network in ["dhcp", "static"] {
                    let config = adapted(line, role, cni, network);
                    cases.push(Case { line, role, cni, network, config });
                }
            }
        }
    }
    cases
}

fn adapted(line: TalosLine, role: &str, cni: &str, network: &str) -> String {
    let mut patches = Vec::new();
    let has_documents = line >= TalosLine::V1_14;
    match (cni, has_documents, role) {
        ("none", false, _) => patches.push("cluster: {network: {cni: {name: none}}}".to_owned()),
        ("none", true, "controlplane") => {
            patches.push("apiVersion: v1alpha1\nkind: KubeFlannelCNIConfig\n$patch: delete\n".to_owned());
        }
        _ => {}
    }
    match (network, has_documents) {
        ("static", false) => patches.push(
            "machine: {network: {interfaces: [{interface: eth0, addresses: [192.168.1.11/24], routes: [{network: \
             0.0.0.0/0, gateway: 192.168.1.1}]}]}}"
                .to_owned(),
        ),
        ("static", true) => patches.push(
            "apiVersion: v1alpha1\nkind: LinkConfig\nname: eth0\naddresses: [{address: 192.168.1.11/24}]\nroutes: \
             [{gateway: 192.168.1.1}]\n"
                .to_owned(),
        ),
        _ => {}
    }
    let args: Vec<PatchArg> = patches.into_iter().map(PatchArg::Inline).collect();
    let loaded = patch::load(&args, line).unwrap_or_else(|error| panic!("{error}"));
    let config = patch::apply(&fixture(line, role), &loaded, line).unwrap_or_else(|error| panic!("{error}"));
    config.replacen("machine:", "# the machine\nmachine: # here", 1)
}

fn cluster(role: &str, mesh: &str) -> Cluster {
    let text = format!(
        "mesh:\n  name: home\n  range: 10.213.0.0/16\n{mesh}sites:\n  - name: rack\n    lans: [192.168.1.0/24]\n  - \
         name: cloud\n    lans: [10.0.0.0/24]\nnodes:\n  - {{name: node, role: {role}, site: rack, address: \
         10.213.0.1, api: 192.168.1.11, link: eth0, publicKey: {KEY_A}}}\n  - {{name: laptop, role: admin, site: \
         cloud, address: 10.213.0.2, endpoint: \"203.0.113.7:51840\", publicKey: {KEY_B}}}\n"
    );
    Cluster::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// Every option that puts something into the config.
const MESHES: &[&str] = &[
    "",
    "  route: config\n",
    "  firewall: true\n  hosts: none\n",
    "  profile: nodes\n  route: config\n  firewall: true\n",
];

fn plan_of(cluster: &Cluster, line: TalosLine, config: &str) -> Plan {
    let version = format!("v{line}.1").parse().ok();
    let observed = Observation::of_config("node", config.to_owned().into(), version);
    plan::plan(cluster, &[observed], Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn gateway(mesh: &str, role: &str) -> Option<Cluster> {
    // Once per option is enough: the gateway stands beside them.
    mesh.is_empty().then(|| {
        let mut cluster = cluster(role, mesh);
        cluster.sites[0].gateway = "192.168.1.1".parse().ok();
        cluster
    })
}

fn each(mut visit: impl FnMut(&Case, &Cluster, &NodePlan)) -> usize {
    let mut count = 0;
    for case in cases() {
        for mesh in MESHES {
            for cluster in [Some(cluster(case.role, mesh)), gateway(mesh, case.role)].into_iter().flatten() {
                let plan = plan_of(&cluster, case.line, &case.config);
                assert_eq!(plan.refusals, [], "{}", case.name());
                visit(&case, &cluster, &plan.nodes[0]);
                count += 1;
            }
        }
    }
    count
}

#[test]
fn a_second_plan_is_empty_and_comments_survive_for_every_generated_config() {
    let count = each(|case, cluster, node| {
        assert!(!node.steps.is_empty());
        assert!(node.after().contains("# the machine\nmachine: # here"), "{}", case.name());
        let again = plan_of(cluster, case.line, node.after());
        assert_eq!((again.order.len(), again.refusals.len()), (0, 0), "{}", case.name());
        assert_eq!(again.nodes[0].after(), node.after());
    });
    assert_eq!(count, 32 * 5);
}

#[test]
fn patches_lead_to_the_planned_config_for_every_generated_config() {
    each(|case, _, node| {
        // The call applies them by talosctl's rules and compares.
        let texts = patches::patches(node).unwrap_or_else(|error| panic!("{}: {error:?}", case.name()));
        assert!(!texts.is_empty());
    });
}

#[test]
fn the_daemon_reads_its_file_out_of_every_planned_config() {
    each(|case, cluster, node| {
        let config = MachineConfig::parse(node.after().as_bytes(), case.line.dialect()).unwrap();
        let part = config.parts().iter().find(|part| part.id.kind == "ExtensionServiceConfig").unwrap();
        let files = part.tree.get(part.tree.root(), "configFiles").unwrap();
        let file = part.tree.items(files)[0];
        assert_eq!(part.tree.get(file, "mountPath").and_then(|id| part.tree.text(id)), Some(daemon::PATH));
        assert_eq!(daemon::PATH, ichord::config::TALOS_PATH);
        let content = part.tree.get(file, "content").and_then(|id| part.tree.text(id)).unwrap();
        let read = ichord::config::Config::parse(content).unwrap();
        let mesh = read.static_mesh.unwrap();
        let prefix = if cluster.mesh.route == ichorctl::cluster::Route::Config { 32 } else { 16 };
        assert_eq!(mesh.addresses, [format!("10.213.0.1/{prefix}").parse().unwrap()]);
        assert_eq!((read.listen_port, mesh.peers.len()), (51840, 1));
        assert_eq!(mesh.peers[0].name, "laptop");
        assert_eq!(mesh.peers[0].endpoint, Some("203.0.113.7:51840".parse().unwrap()));
    });
}

/// Judges every step of every plan as the nodes would: the config of each is one that they run with for a while.
#[test]
fn every_planned_config_passes_the_official_validation_of_its_line() -> Result<()> {
    for line in TalosLine::ALL {
        let Some(mut oracle) = Oracle::start(&line.to_string())? else {
            println!("skipped: there is no Go to build the oracle with");
            return Ok(());
        };
        let mut configs: Vec<(String, String)> = Vec::new();
        each(|case, cluster, node| {
            if case.line != line {
                return;
            }
            let name = format!("{} {:?}", case.name(), cluster.mesh);
            configs.push((format!("{name}: before"), case.config.clone()));
            for step in &node.steps {
                configs.push((format!("{name}: {}", step.kind.name()), step.after.to_string()));
            }
        });
        assert!(configs.len() > 100);
        let requests: Vec<Request<'_>> =
            configs.iter().map(|(_, config)| Request::validate(config.as_bytes(), "metal")).collect();
        for ((name, config), answer) in configs.iter().zip(oracle.ask_all(&requests)?) {
            assert!(answer.ok, "{name}: {} {:?}\n{config}", answer.error, answer.errors);
        }
    }
    Ok(())
}

/// Patch files applied by the official library give what it makes of the planned config.
#[test]
fn the_official_library_agrees_that_patches_and_plan_say_the_same() -> Result<()> {
    for line in TalosLine::ALL {
        let Some(mut oracle) = Oracle::start(&line.to_string())? else {
            println!("skipped: there is no Go to build the oracle with");
            return Ok(());
        };
        let mut pairs: Vec<(String, String, Vec<String>, String)> = Vec::new();
        each(|case, _, node| {
            if case.line == line {
                let texts = patches::patches(node).unwrap();
                let texts = texts.iter().map(|text| text.to_string()).collect();
                pairs.push((case.name(), case.config.clone(), texts, node.after().to_owned()));
            }
        });
        for (name, before, texts, after) in &pairs {
            let patched = oracle.ask(&Request::patch(before.as_bytes(), texts))?;
            assert!(patched.ok, "{name}: {}", patched.error);
            let planned = oracle.ask(&Request::canonical(after.as_bytes()))?;
            let same = documents(&patched.canonical)
                .with_context(|| name.clone())
                .and_then(|one| Ok(one == documents(&planned.canonical)?))?;
            assert!(same, "{name}\n{}\n=====\n{}", patched.canonical, planned.canonical);
        }
    }
    Ok(())
}

/// Documents by their identity, as JSON. Patches append new documents in one order, edits in another; empty lists and
/// mappings appear where the library has encoded a config once more.
fn documents(text: &str) -> Result<Vec<serde_json::Value>> {
    let mut documents = Vec::new();
    for part in text.split("\n---\n") {
        let mut value: serde_json::Value = yaml_to_json(part)?;
        prune(&mut value);
        documents.push(value);
    }
    documents.sort_by_key(ToString::to_string);
    Ok(documents)
}

fn yaml_to_json(text: &str) -> Result<serde_json::Value> {
    Ok(yaml_serde::from_str(text)?)
}

fn prune(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Object(entries) => {
            entries.values_mut().for_each(prune);
            entries.retain(|_, value| {
                !matches!(value, Value::Null)
                    && *value != serde_json::json!({})
                    && *value != serde_json::json!([])
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}
