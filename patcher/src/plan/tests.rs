use super::refuse::Reason;
use super::*;
use crate::machine::DocumentId;
use crate::patch::ensure::{Place, Setting, Wish};

const CLUSTER: &str = "\
mesh:
  name: home
  range: 10.213.0.0/16
sites:
  - name: rack
    lans: [192.168.1.0/24]
  - name: cloud
    lans: [10.0.0.0/24]
nodes:
  - {name: cp-1, role: controlplane, site: rack, address: 10.213.0.1, api: 192.168.1.11, publicKey: hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=}
  - {name: w-1, role: worker, site: cloud, address: 10.213.0.2, api: 10.0.0.5, endpoint: \"203.0.113.7:51840\", publicKey: 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=}
";

const CONTROL_PLANE: &str = include_str!("../../../tests/fixtures/plan/v1.13-controlplane.yaml");
const CONTROL_PLANE_14: &str = include_str!("../../../tests/fixtures/plan/v1.14-controlplane.yaml");
const WORKER: &str = include_str!("../../../tests/fixtures/plan/v1.13-worker.yaml");
const WORKER_11: &str = include_str!("../../../tests/fixtures/plan/v1.11-worker.yaml");

fn cluster(text: &str) -> Cluster {
    Cluster::parse(text).unwrap()
}

fn observed(node: &str, config: &str) -> Observation {
    Observation::of_config(node, Zeroizing::new(config.to_owned()), None)
}

fn both(control_plane: &str, worker: &str) -> Vec<Observation> {
    vec![observed("cp-1", control_plane), observed("w-1", worker)]
}

fn plan_of(cluster: &Cluster, observed: &[Observation]) -> Plan {
    plan(cluster, observed, Options::default()).unwrap()
}

fn edited(config: &str, document: DocumentId, wish: Wish) -> String {
    let edit = Edit { document, wish, reason: "test".into() };
    apply_edits(config, &[edit], TalosLine::V1_14).unwrap().text
}

fn legacy(config: &str, path: &str, value: Setting) -> String {
    edited(config, DocumentId::legacy(), Wish::Is(Place::at(path), value))
}

#[test]
fn a_plan_of_its_own_result_is_empty() {
    for profile in ["beside", "nodes"] {
        for extra in ["", "  route: config\n", "  firewall: true\n"] {
            let text =
                CLUSTER.replace("  name: home\n", &format!("  name: home\n  profile: {profile}\n{extra}"));
            let cluster = cluster(&text);
            for (control_plane, worker) in [(CONTROL_PLANE, WORKER), (CONTROL_PLANE_14, WORKER_11)] {
                let first = plan_of(&cluster, &both(control_plane, worker));
                assert_eq!(first.refusals, []);
                assert!(first.order.len() >= 4, "{:?}", first.order);
                let second = plan_of(&cluster, &both(first.nodes[0].after(), first.nodes[1].after()));
                assert_eq!(
                    (second.order.len(), second.refusals.len()),
                    (0, 0),
                    "{}",
                    print::text(&cluster, &second)
                );
            }
        }
    }
}

#[test]
fn the_file_of_a_daemon_that_is_let_in_by_a_token_is_left_alone() {
    let with = |more: &str| cluster(&CLUSTER.replace("  name: home\n", &format!("  name: home\n{more}")));
    let has_file =
        |plan: &Plan| plan.nodes.iter().any(|node| node.after().contains("ExtensionServiceConfig"));
    assert!(has_file(&plan_of(&with(""), &both(CONTROL_PLANE, WORKER))));
    let tokens = with("  membership: tokens\n");
    let plan = plan_of(&tokens, &both(CONTROL_PLANE, WORKER));
    assert!(!has_file(&plan) && plan.order.len() >= 4, "{:?}", plan.order);
    let join = "apiVersion: v1alpha1\nkind: ExtensionServiceConfig\nname: ichor\nconfigFiles:\n  - mountPath: \
                /usr/local/etc/ichor/ichord.yaml\n    content: |\n      mesh: {}\n";
    let joined = |node: &NodePlan| format!("{}---\n{join}", node.after());
    let again = plan_of(&tokens, &both(&joined(&plan.nodes[0]), &joined(&plan.nodes[1])));
    assert_eq!(again.order, []);
}

#[test]
fn pins_come_first_on_all_nodes_and_only_switches_reboot() {
    let cluster =
        cluster(&CLUSTER.replace("  name: home\n", "  name: home\n  profile: nodes\n  firewall: true\n"));
    let plan = plan_of(&cluster, &both(CONTROL_PLANE, WORKER));
    let turns: Vec<(&str, &str, bool)> = plan
        .order
        .iter()
        .map(|turn| {
            (&plan.nodes[turn.node], plan.nodes[turn.node].steps[turn.step].kind, turn.quorum.holds())
        })
        .map(|(node, kind, holds)| (node.name.as_str(), kind.name(), holds))
        .collect();
    let expected = [
        ("cp-1", "pin", true),
        ("w-1", "pin", true),
        ("cp-1", "mesh", true),
        ("w-1", "mesh", true),
        // The only voter there is.
        ("cp-1", "switch", false),
        ("w-1", "switch", true),
        ("cp-1", "firewall", true),
        ("w-1", "firewall", true),
    ];
    assert_eq!(turns, expected);
    let pinned = plan.nodes[0].before_step(1);
    assert!(pinned.contains("validSubnets:\n                - 192.168.1.0/24"), "{pinned}");
    assert!(pinned.contains("advertisedSubnets:"));
    assert!(!pinned.contains("10.213."));
}

#[test]
fn comments_and_what_is_not_known_stay() {
    let cluster = cluster(CLUSTER);
    let strange = "# about the node\n";
    let tail = "---\n# nobody knows this yet\napiVersion: v1alpha1\nkind: FutureConfig\nodd:   {a:   1}\n";
    let config = CONTROL_PLANE.replace("    certSANs: []", "    certSANs: [] # of the API");
    let config = format!("{strange}{config}{tail}");
    let mut observed = both(&config, WORKER);
    observed[0].version = "v1.13.2".parse().ok();
    let plan = plan_of(&cluster, &observed);
    let after = plan.nodes[0].after();
    assert!(after.starts_with(strange) && after.contains(tail), "{after}");
    assert!(after.contains("# of the API"), "{after}");
    // Every line of before is still there, but for those that the edits are about.
    let lost: Vec<&str> = config.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
    assert_eq!(lost, ["    certSANs: [] # of the API"]);
}

#[test]
fn every_changed_line_has_a_reason_and_no_secret_is_shown() {
    let cluster = cluster(CLUSTER);
    let plan = plan_of(&cluster, &both(CONTROL_PLANE, WORKER));
    for node in &plan.nodes {
        for index in 0..node.steps.len() {
            for (hunk, reasons) in node.diff(index) {
                for (line, reason) in hunk.lines.iter().zip(reasons) {
                    let is_changed = line.sign != diff::Sign::Kept;
                    let is_separator = line.text == "---";
                    assert!(!is_changed || is_separator || reason.is_some(), "{}", line.text);
                }
            }
        }
    }
    let text = print::text(&cluster, &plan);
    let json = serde_json::to_string(&print::json(&cluster, &plan)).unwrap();
    for secret in secrets(CONTROL_PLANE).chain(secrets(WORKER)) {
        assert!(!text.contains(secret) && !json.contains(secret), "{secret}");
        assert!(!format!("{plan:?}").contains(secret));
    }
    assert!(text.contains("  # keep the node address of today (192.168.1.0/24)"), "{text}");
}

fn secrets(config: &str) -> impl Iterator<Item = &str> {
    let secret = |line: &str| {
        let (key, _) = line.trim().split_once(": ").unwrap_or_default();
        matches!(key, "token" | "secret" | "key" | "secretboxEncryptionSecret")
    };
    let found: Vec<&str> = config.lines().filter(move |line| secret(line)).collect();
    assert!(found.len() >= 2);
    // Workers have certificates without their keys.
    let values = found.into_iter().filter_map(|line| line.split_once(": ").map(|(_, value)| value));
    values.filter(|value| *value != "\"\"")
}

#[test]
fn the_newest_dialect_gets_documents_and_the_oldest_none() {
    let cluster = cluster(CLUSTER);
    let plan = plan_of(&cluster, &both(CONTROL_PLANE_14, WORKER_11));
    let newest = plan.nodes[0].after();
    assert!(!newest.contains("\n    kubelet:"), "{newest}");
    assert!(newest.contains("nodeIP:") && newest.contains("kind: StaticHostConfig"));
    assert!(newest.contains("certExtraSANs:"));
    let oldest = plan.nodes[1].after();
    assert_eq!(plan.nodes[1].line, TalosLine::V1_11);
    assert!(oldest.contains("extraHostEntries:") && !oldest.contains("StaticHostConfig"), "{oldest}");
    assert!(oldest.contains("kind: ExtensionServiceConfig"));
}

#[test]
fn a_kubelet_document_without_a_node_document_keeps_the_marks_of_a_control_plane() {
    let start = CONTROL_PLANE_14.find("---\napiVersion: v1alpha1\nkind: KubeNodeConfig").unwrap();
    let end =
        start + CONTROL_PLANE_14[start..].find("---\napiVersion: v1alpha1\nkind: KubeletConfig").unwrap();
    let config = format!("{}{}", &CONTROL_PLANE_14[..start], &CONTROL_PLANE_14[end..]);
    let plan = plan_of(&cluster(CLUSTER), &both(&config, WORKER));
    let after = plan.nodes[0].after();
    assert!(after.contains("node-role.kubernetes.io/control-plane: NoSchedule"), "{after}");
    assert_eq!(contradictions(&plan).unwrap(), []);
}

#[test]
fn several_addresses_on_one_lan_are_pinned_to_that_of_today() {
    let mut observed = both(CONTROL_PLANE, WORKER);
    observed[0].addresses =
        ["192.168.1.11/24", "192.168.1.12/24"].map(|net| (net.parse().unwrap(), "eth0".to_owned())).to_vec();
    observed[0].etcd_ips = vec!["192.168.1.12".parse().unwrap()];
    let plan = plan_of(&cluster(CLUSTER), &observed);
    let pinned = plan.nodes[0].before_step(1);
    assert!(pinned.contains("advertisedSubnets:\n            - 192.168.1.12/32"), "{pinned}");
}

#[test]
fn a_pin_that_is_there_already_stays_as_it_is() {
    let config = legacy(
        CONTROL_PLANE,
        "machine.kubelet.nodeIP.validSubnets",
        Setting::texts(["192.168.0.0/16", "!192.168.9.0/24"]),
    );
    let plan = plan_of(&cluster(CLUSTER), &both(&config, WORKER));
    assert!(plan.nodes[0].after().contains("!192.168.9.0/24"));
    assert!(!plan.nodes[0].after().contains("- 192.168.1.0/24\n    install"));
}

#[test]
fn a_gateway_on_the_link_gets_its_host_route_first_and_keeps_dhcp() {
    let text = CLUSTER.replace("lans: [10.0.0.0/24]\n", "lans: [10.0.0.0/24]\n    gateway: 10.0.0.1\n");
    let refused = plan_of(&cluster(&text), &both(CONTROL_PLANE, WORKER));
    assert_eq!(refused.refusals[0].reason, Reason::NoLink);
    let text = text.replace("api: 10.0.0.5,", "api: 10.0.0.5, link: eth0,");
    let plan = plan_of(&cluster(&text), &both(CONTROL_PLANE, WORKER));
    let after = plan.nodes[1].after();
    let expected = "interface: eth0\n              dhcp: true\n              routes:\n                  - network: \
                    10.0.0.1/32\n                  - network: 0.0.0.0/0\n                    gateway: 10.0.0.1\n";
    assert!(after.contains(expected), "{after}");
}

#[test]
fn patches_give_what_the_plan_gives() {
    for extra in ["", "  profile: nodes\n  route: config\n  firewall: true\n"] {
        let cluster = cluster(&CLUSTER.replace("  name: home\n", &format!("  name: home\n{extra}")));
        // A list that must be replaced, and a single subnet that must go.
        let changed =
            legacy(CONTROL_PLANE, "machine.kubelet.nodeIP.validSubnets", Setting::texts(["0.0.0.0/0"]));
        let changed = legacy(&changed, "cluster.etcd.subnet", Setting::text("192.168.1.0/24"));
        for control_plane in [CONTROL_PLANE, CONTROL_PLANE_14, &changed] {
            let plan = plan_of(&cluster, &both(control_plane, WORKER_11));
            for node in &plan.nodes {
                // The call compares both ways itself.
                let texts = patches::patches(node).unwrap();
                assert!(!texts.is_empty());
                assert_eq!(texts.len() == 2, control_plane == changed && node.name == "cp-1");
            }
        }
    }
}

#[test]
fn a_cluster_without_changes_has_no_patches() {
    let cluster = cluster(CLUSTER);
    let first = plan_of(&cluster, &both(CONTROL_PLANE, WORKER));
    let second = plan_of(&cluster, &both(first.nodes[0].after(), first.nodes[1].after()));
    for node in &second.nodes {
        assert!(patches::patches(node).unwrap().is_empty());
    }
}

#[test]
fn stretched_listens_on_both_until_everybody_has_moved() {
    let text = CLUSTER
        .replace(
            "  name: home\n",
            "  name: home\n  profile: stretched\n  measured: {rttMs: 40, lossPerMille: 1}\n",
        )
        .replace("role: worker", "role: controlplane");
    let worker = CONTROL_PLANE;
    let plan = plan_of(&cluster(&text), &both(CONTROL_PLANE, worker));
    assert_eq!(plan.refusals, []);
    let after = plan.nodes[0].after();
    assert!(after.contains("advertisedSubnets:\n            - 10.213.0.0/16"), "{after}");
    assert!(
        after.contains("listenSubnets:\n            - 192.168.1.0/24\n            - 10.213.0.0/16"),
        "{after}"
    );
    assert!(after.contains("election-timeout: \"1000\""), "{after}");
    let second = plan_of(&cluster(&text), &both(after, plan.nodes[1].after()));
    assert_eq!(second.order, [], "{}", print::text(&cluster(&text), &second));
}

#[test]
fn every_danger_is_refused_with_its_two_facts() {
    let named = |reason, change: &dyn Fn(&mut String, &mut Vec<Observation>)| {
        let (mut text, mut observed) = (CLUSTER.to_owned(), both(CONTROL_PLANE, WORKER));
        change(&mut text, &mut observed);
        let plan = plan_of(&cluster(&text), &observed);
        let found: Vec<Reason> = plan.refusals.iter().map(|it| it.reason).collect();
        assert!(found.contains(&reason), "{reason:?} is not in {:?}", plan.refusals);
        for refusal in &plan.refusals {
            assert!(refusal.facts.iter().all(|fact| !fact.is_empty()) && !refusal.advice.is_empty());
        }
    };
    let mesh = |text: &mut String, extra: &str| {
        *text = text.replace("  name: home\n", &format!("  name: home\n{extra}"))
    };
    let move_mesh = |text: &mut String, range: &str| *text = text.replace("10.213.0.", &format!("{range}."));
    let config = |observed: &mut Vec<Observation>, text: String| observed[0] = self::observed("cp-1", &text);
    let add = |observed: &mut Vec<Observation>, document: &str| {
        config(observed, format!("{CONTROL_PLANE}---\napiVersion: v1alpha1\n{document}"));
    };

    // Default pods, default services, a LAN, an address of the node.
    named(Reason::RangeOverlap, &|text, _| {
        *text = text.replace("10.213.0.0/16", "10.0.0.0/8");
    });
    named(Reason::RangeOverlap, &|text, _| move_mesh(text, "10.244.0"));
    named(Reason::RangeOverlap, &|text, _| move_mesh(text, "10.100.0"));
    named(Reason::RangeOverlap, &|_, observed| {
        observed[0].addresses = vec![("10.213.9.1/24".parse().unwrap(), "eth1".into())];
    });
    named(Reason::KubeSpan, &|_, observed| {
        add(observed, "kind: KubeSpanConfig\nenabled: true\n");
    });
    named(Reason::KubeSpan, &|_, observed| {
        config(observed, legacy(CONTROL_PLANE, "machine.network.kubespan.enabled", Setting::Bool(true)));
    });
    named(Reason::NoAddress, &|_, observed| {
        observed[0].addresses = vec![("172.16.0.4/24".parse().unwrap(), "eth0".into())];
    });
    named(Reason::NotToday, &|_, observed| observed[0].etcd_ips = vec!["172.16.0.4".parse().unwrap()]);
    named(Reason::EtcdOnMesh, &|text, _| mesh(text, "  profile: stretched\n"));
    named(Reason::EtcdOnMesh, &|_, observed| {
        config(
            observed,
            legacy(CONTROL_PLANE, "cluster.etcd.advertisedSubnets", Setting::texts(["10.213.0.0/16"])),
        );
    });
    named(Reason::NotMeasured, &|text, observed| {
        mesh(text, "  profile: stretched\n");
        *text = text.replace("role: worker", "role: controlplane");
        observed[1] = self::observed("w-1", CONTROL_PLANE);
    });
    named(Reason::NotMeasured, &|text, observed| {
        mesh(text, "  profile: stretched\n  measured: {rttMs: 300, lossPerMille: 1}\n");
        *text = text.replace("role: worker", "role: controlplane");
        observed[1] = self::observed("w-1", CONTROL_PLANE);
    });
    named(Reason::DhcpLost, &|_, observed| add(observed, "kind: LinkConfig\nname: ichor0\n"));
    named(Reason::UnknownTalos, &|_, observed| observed[0].version = "v1.15.0".parse().ok());
    named(Reason::OldTalos, &|_, observed| observed[0].version = "v1.10.3".parse().ok());
    named(Reason::Pending, &|_, observed| observed[1].is_pending = true);
    for port in ["51871", "51820", "8472"] {
        named(Reason::PortTaken, &|text, observed| {
            mesh(text, &format!("  port: {port}\n"));
            config(observed, legacy(CONTROL_PLANE, "cluster.network.cni.name", Setting::text("none")));
        });
    }
    named(Reason::PortTaken, &|_, observed| observed[0].wireguard = vec![(51840, "kubespan".into())]);
    named(Reason::PortTaken, &|_, observed| {
        add(observed, "kind: WireguardConfig\nname: wg0\nprivateKey: x\nlistenPort: 51840\n");
    });
    named(Reason::VipOnMesh, &|_, observed| {
        add(observed, "kind: Layer2VIPConfig\nname: 10.213.0.9\nlink: eth0\n");
    });
    named(Reason::VipOnMesh, &|_, observed| {
        add(observed, "kind: Layer2VIPConfig\nname: 192.168.1.10\nlink: ichor0\n");
    });
    named(Reason::WrongRole, &|_, observed| config(observed, WORKER.to_owned()));
    named(Reason::NoConfig, &|_, observed| {
        observed.pop();
    });
    named(Reason::LockedOut, &|text, _| {
        mesh(text, "  firewall: true\n");
        *text = text.replace("api: 10.0.0.5", "api: 198.51.100.5");
    });
}

#[test]
fn newer_talos_is_planned_for_when_that_is_asked_for() {
    let mut observed = both(CONTROL_PLANE, WORKER);
    observed[0].version = "v1.15.0".parse().ok();
    let options = Options { allow_unknown_talos: true };
    assert_eq!(plan(&cluster(CLUSTER), &observed, options).unwrap().refusals, []);
}

#[test]
fn kubespan_with_exclusions_is_let_through() {
    let document = "---\napiVersion: v1alpha1\nkind: KubeSpanConfig\nenabled: true\nfilters:\n  endpoints: [0.0.0.0/0, '!10.213.0.0/16']\n  excludeAdvertisedNetworks: [10.213.0.0/16]\n";
    let plan = plan_of(&cluster(CLUSTER), &both(&format!("{CONTROL_PLANE}{document}"), WORKER));
    assert_eq!(plan.refusals, []);
}

#[test]
fn contradictions_of_the_result_are_found() {
    let document = "---\napiVersion: v1alpha1\nkind: KubeNodeConfig\nlabels: {a: b}\n";
    let mut observed = both(&format!("{CONTROL_PLANE}{document}"), WORKER);
    observed[0].version = "v1.14.0".parse().ok();
    let found = contradictions(&plan_of(&cluster(CLUSTER), &observed)).unwrap();
    assert_eq!(found[0].reason, Reason::Contradiction);
}

#[test]
fn subnet_lists_are_read_from_left_to_right() {
    let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    let selects = |items: &[&str], address: &str| pin::selects(&list(items), address.parse().unwrap());
    assert!(selects(&["10.0.0.0/8"], "10.1.1.1"));
    assert!(!selects(&["10.0.0.0/8", "!10.1.0.0/16"], "10.1.1.1"));
    assert!(selects(&["!10.1.0.0/16", "10.0.0.0/8"], "10.1.1.1"));
    assert!(!selects(&["!10.1.0.0/16"], "10.2.1.1"));
    assert!(selects(&["10.1.1.1"], "10.1.1.1"));
    assert!(selects(&[], "10.1.1.1"));
}
