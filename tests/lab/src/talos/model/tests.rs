//! What simulated nodes promise.

mod recover;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use ichor_proto::talos::cosi::resource::EventType;
use ichor_proto::talos::machine::apply_configuration_request::Mode;
use tonic::Code;

use super::*;

const START: Duration = Duration::from_secs(1_700_000_000);
const BOOT: Duration = Duration::from_secs(10);

fn config(machine_type: &str, more: &str) -> String {
    format!("version: v1alpha1\nmachine:\n  type: {machine_type}\n  token: secret\n{more}cluster: {{}}\n")
}

fn spec(name: &str, number: u8, line: Line, config: Option<String>) -> NodeSpec {
    NodeSpec {
        name: name.to_owned(),
        line,
        addresses: vec![("eth0".to_owned(), format!("10.5.0.{number}/24").parse().unwrap())],
        config,
        extensions: vec!["ichor".to_owned()],
        schematic: None,
        boot_time: BOOT,
    }
}

fn cluster(line: Line) -> Cluster {
    let mut nodes: Vec<NodeSpec> =
        (2..5).map(|n| spec(&format!("cp-{n}"), n, line, Some(config("controlplane", "")))).collect();
    nodes.push(spec("w-1", 10, line, Some(config("worker", ""))));
    nodes.push(spec("new", 20, line, None));
    Cluster::new(ClusterSpec { nodes, rules: Arc::new(PlainRules), images: Vec::new() }, START).unwrap()
}

fn sent(config: &str, mode: Mode) -> Apply {
    Apply { data: config.as_bytes().to_vec(), mode, dry_run: false, try_timeout: None }
}

fn active<'c>(cluster: &'c Cluster, node: &str) -> &'c str {
    cluster.node(node).unwrap().active().map_or("", Config::text)
}

fn persistent<'c>(cluster: &'c Cluster, node: &str) -> &'c str {
    cluster.node(node).unwrap().persistent().map_or("", Config::text)
}

/// Lets time pass, as a server does: everything that is due is done at its time.
fn pass(cluster: &mut Cluster, from: Duration, time: Duration) -> Duration {
    let end = from + time;
    while let Some(due) = cluster.deadline().filter(|due| *due <= end) {
        cluster.tick(due);
    }
    cluster.tick(end);
    end
}

fn version(cluster: &Cluster, id: &str) -> Option<String> {
    let found = cluster.node("w-1").unwrap().resources().get("config", "MachineConfigs.config.talos.dev", id);
    Some(found?.metadata.as_ref()?.version.clone())
}

const LIVE: &str = "  kubelet: {nodeIP: {validSubnets: [10.5.0.0/24]}}\n";
const NEEDS_REBOOT: &str = "  env: {A: b}\n";

#[test]
fn an_immediate_change_is_persisted_and_active_at_once() {
    for line in Line::ALL {
        for mode in [Mode::NoReboot, Mode::Auto] {
            let mut cluster = cluster(line);
            let new = config("worker", LIVE);
            let applied = cluster.apply("w-1", sent(&new, mode), START).unwrap();
            assert_eq!(applied.mode, Mode::NoReboot, "{line}");
            assert_eq!(applied.details, "Applied configuration without a reboot");
            assert_eq!((active(&cluster, "w-1"), persistent(&cluster, "w-1")), (&*new, &*new));
            assert_eq!(version(&cluster, "v1alpha1").as_deref(), Some("2"));
        }
    }
}

#[test]
fn up_to_1_13_a_change_that_needs_a_reboot_is_refused_without_one_and_done_by_auto_with_one() {
    for line in [Line::V1_11, Line::V1_12, Line::V1_13] {
        let mut cluster = cluster(line);
        let (old, new) = (config("worker", ""), config("worker", NEEDS_REBOOT));
        for mode in [Mode::NoReboot, Mode::Try] {
            let refusal = cluster.apply("w-1", sent(&new, mode), START).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidArgument);
            assert!(
                refusal.text.starts_with("this config change can't be applied in immediate mode\ndiff:\n")
            );
        }
        let applied = cluster.apply("w-1", sent(&new, Mode::Auto), START).unwrap();
        assert_eq!(applied.mode, Mode::Reboot);
        assert!(applied.details.starts_with("Applied configuration with a reboot: this config change"));
        assert_eq!((active(&cluster, "w-1"), persistent(&cluster, "w-1")), (&*old, &*new));
        let before = cluster.node("w-1").unwrap().boot_id();
        pass(&mut cluster, START, BOOT * 3);
        assert_eq!(active(&cluster, "w-1"), new);
        assert_ne!(cluster.node("w-1").unwrap().boot_id(), before);
    }
}

#[test]
fn since_1_14_everything_is_immediate_and_the_mode_reboot_is_gone() {
    let mut cluster = cluster(Line::V1_14);
    let new = config("worker", NEEDS_REBOOT);
    let refusal = cluster.apply("w-1", sent(&new, Mode::Reboot), START).unwrap_err();
    assert_eq!(refusal.code, Code::Unimplemented);
    assert_eq!(cluster.apply("w-1", sent(&new, Mode::Auto), START).unwrap().mode, Mode::NoReboot);
    assert_eq!(active(&cluster, "w-1"), new);
}

#[test]
fn a_staged_config_waits_on_the_disk_for_the_next_boot() {
    for line in Line::ALL {
        let mut cluster = cluster(line);
        let (old, new) = (config("worker", ""), config("worker", NEEDS_REBOOT));
        cluster.apply("w-1", sent(&new, Mode::Staged), START).unwrap();
        assert_eq!((active(&cluster, "w-1"), persistent(&cluster, "w-1")), (&*old, &*new));
        assert_eq!(version(&cluster, "v1alpha1").as_deref(), Some("1"));
        assert_eq!(version(&cluster, "persistent").as_deref(), Some("2"));
        cluster.leave("w-1", true, START).unwrap();
        pass(&mut cluster, START, BOOT * 3);
        assert_eq!(active(&cluster, "w-1"), new);
    }
}

#[test]
fn a_try_is_never_on_the_disk_and_is_reverted_when_its_time_is_over() {
    let mut cluster = cluster(Line::V1_13);
    let (old, new) = (config("worker", ""), config("worker", LIVE));
    let apply = Apply { try_timeout: Some(Duration::from_secs(90)), ..sent(&new, Mode::Try) };
    let applied = cluster.apply("w-1", apply, START).unwrap();
    assert!(applied.details.ends_with("will be automatically reverted back in 1m30s"), "{applied:?}");
    assert_eq!((active(&cluster, "w-1"), persistent(&cluster, "w-1")), (&*new, &*old));
    let now = pass(&mut cluster, START, Duration::from_secs(89));
    assert_eq!(active(&cluster, "w-1"), new);
    pass(&mut cluster, now, Duration::from_secs(1));
    assert_eq!(active(&cluster, "w-1"), old);
}

#[test]
fn a_try_without_a_time_lasts_a_minute() {
    let mut cluster = cluster(Line::V1_14);
    cluster.apply("w-1", sent(&config("worker", LIVE), Mode::Try), START).unwrap();
    assert_eq!(cluster.deadline(), Some(START + Duration::from_secs(60)));
}

#[test]
fn any_other_call_ends_a_try_even_one_that_fails() {
    for ending in
        [Apply { dry_run: true, ..sent(&config("worker", ""), Mode::Auto) }, sent("kind: [", Mode::NoReboot)]
    {
        let mut cluster = cluster(Line::V1_13);
        let tried = config("worker", LIVE);
        cluster.apply("w-1", sent(&tried, Mode::Try), START).unwrap();
        let _refused_or_dry = cluster.apply("w-1", ending, START);
        pass(&mut cluster, START, Duration::from_secs(3600));
        assert_eq!(active(&cluster, "w-1"), tried, "it stays, unsaved");
        assert_eq!(persistent(&cluster, "w-1"), config("worker", ""));
    }
}

#[test]
fn a_second_try_reverts_to_the_first_and_the_original_is_lost() {
    let mut cluster = cluster(Line::V1_13);
    let first = config("worker", LIVE);
    cluster.apply("w-1", sent(&first, Mode::Try), START).unwrap();
    cluster.apply("w-1", sent(&config("worker", "  nodeLabels: {a: b}\n"), Mode::Try), START).unwrap();
    pass(&mut cluster, START, Duration::from_secs(3600));
    assert_eq!(active(&cluster, "w-1"), first);
}

#[test]
fn a_reboot_reverts_a_try() {
    let mut cluster = cluster(Line::V1_13);
    cluster.apply("w-1", sent(&config("worker", LIVE), Mode::Try), START).unwrap();
    cluster.leave("w-1", true, START).unwrap();
    pass(&mut cluster, START, BOOT * 3);
    assert_eq!(active(&cluster, "w-1"), config("worker", ""));
}

#[test]
fn a_dry_run_shows_the_difference_and_changes_nothing() {
    let mut cluster = cluster(Line::V1_13);
    let apply = Apply { dry_run: true, ..sent(&config("worker", NEEDS_REBOOT), Mode::Auto) };
    let applied = cluster.apply("w-1", apply, START).unwrap();
    assert_eq!(applied.mode, Mode::Reboot);
    let expected =
        "Dry run summary:\nApplied configuration with a reboot (skipped in dry-run).\nConfig diff:\n\n";
    assert!(applied.details.starts_with(expected), "{}", applied.details);
    assert!(applied.details.contains("+  env: {A: b}"));
    assert_eq!(cluster.deadline(), None, "nothing goes on");
    let same = Apply { dry_run: true, ..sent(&config("worker", ""), Mode::Auto) };
    assert!(cluster.apply("w-1", same, START).unwrap().details.ends_with("No changes."));
}

#[test]
fn a_running_node_wants_the_document_that_makes_it_a_machine() {
    let mut cluster = cluster(Line::V1_13);
    let document = "apiVersion: v1alpha1\nkind: HostnameConfig\nhostname: x\n";
    let refusal = cluster.apply("w-1", sent(document, Mode::NoReboot), START).unwrap_err();
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.text.contains("doesn't contain v1alpha1 config"));
}

#[test]
fn after_an_apply_that_reboots_no_other_is_taken() {
    let mut cluster = cluster(Line::V1_13);
    cluster.apply("w-1", sent(&config("worker", NEEDS_REBOOT), Mode::Auto), START).unwrap();
    let refusal = cluster.apply("w-1", sent(&config("worker", ""), Mode::Auto), START).unwrap_err();
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert_eq!(refusal.text, "another apply configuration is already in progress");
}

#[test]
fn a_reboot_takes_the_api_away_and_brings_it_back_with_another_boot_id() {
    let mut cluster = cluster(Line::V1_14);
    let before = cluster.node("cp-2").unwrap().boot_id();
    cluster.leave("cp-2", true, START).unwrap();
    assert_eq!(cluster.node("cp-2").unwrap().api(), Api::Running, "the reply gets out");
    let now = pass(&mut cluster, START, BOOT / 2);
    assert_eq!(cluster.node("cp-2").unwrap().api(), Api::Down);
    assert_ne!(cluster.etcd().leader(), Some("cp-2"));
    pass(&mut cluster, now, BOOT * 3);
    let node = cluster.node("cp-2").unwrap();
    assert_eq!((node.api(), node.stage()), (Api::Running, Stage::Running));
    assert_ne!(node.boot_id(), before);
    assert!(cluster.etcd().members().iter().all(|member| member.up));
}

#[test]
fn two_control_plane_nodes_down_cost_the_quorum() {
    let mut cluster = cluster(Line::V1_14);
    for node in ["cp-2", "cp-3"] {
        cluster.leave(node, false, START).unwrap();
    }
    let now = pass(&mut cluster, START, BOOT);
    assert!(!cluster.etcd().has_quorum());
    pass(&mut cluster, now, BOOT * 100);
    assert_eq!(cluster.node("cp-2").unwrap().api(), Api::Down, "a shutdown is for good");
}

#[test]
fn a_node_without_a_config_waits_in_maintenance_and_boots_with_the_first_complete_one() {
    for line in Line::ALL {
        let mut cluster = cluster(line);
        let node = cluster.node("new").unwrap();
        assert_eq!((node.api(), node.stage()), (Api::Maintenance, Stage::Maintenance));
        cluster.apply("new", sent(&config("worker", ""), Mode::Auto), START).unwrap();
        pass(&mut cluster, START, BOOT * 3);
        let node = cluster.node("new").unwrap();
        assert_eq!((node.api(), node.stage()), (Api::Running, Stage::Running));
        let members = cluster.node("w-1").unwrap().resources().list("cluster", "Members.cluster.talos.dev");
        assert_eq!(members.count(), 5, "{line}");
    }
}

#[test]
fn up_to_1_12_maintenance_mode_knows_three_modes() {
    let mut cluster = cluster(Line::V1_12);
    let refusal = cluster.apply("new", sent(&config("worker", ""), Mode::NoReboot), START).unwrap_err();
    assert_eq!(refusal.code, Code::Unimplemented);
    assert_eq!(refusal.text, "apply configuration --mode='no-reboot' is not supported in maintenance mode");
}

#[test]
fn an_extension_is_run_with_what_its_document_says_and_again_when_that_changes() {
    let mut cluster = cluster(Line::V1_14);
    assert_eq!(cluster.effects(), []);
    let with = |content: &str| {
        let document = format!(
            "---\napiVersion: v1alpha1\nkind: ExtensionServiceConfig\nname: ichor\nconfigFiles:\n  - content: \
             {content}\n    mountPath: /usr/local/etc/ichor/ichord.yaml\n"
        );
        config("worker", "") + &document
    };
    let run = |effect: &Effect| match effect {
        Effect::Run { config, .. } => config.files[0].1.clone(),
        Effect::Stop { service, .. } => format!("stop {service}"),
    };
    let seen = |cluster: &mut Cluster| cluster.effects().iter().map(run).collect::<Vec<_>>();
    cluster.apply("w-1", sent(&with("a"), Mode::NoReboot), START).unwrap();
    assert_eq!(seen(&mut cluster), [""; 0], "a running service is not restarted for its first document");
    cluster.control("w-1", "ext-ichor", Verb::Restart, START).unwrap();
    assert_eq!(seen(&mut cluster), ["a"]);
    for content in ["a", "b"] {
        cluster.apply("w-1", sent(&with(content), Mode::NoReboot), START).unwrap();
    }
    assert_eq!(seen(&mut cluster), ["b"]);
    cluster.leave("w-1", true, START).unwrap();
    let now = pass(&mut cluster, START, BOOT * 3);
    assert_eq!(seen(&mut cluster), ["stop ext-ichor", "b"]);
    cluster.apply("w-1", sent(&config("worker", ""), Mode::NoReboot), now).unwrap();
    assert_eq!(seen(&mut cluster), ["stop ext-ichor"]);
}

#[test]
fn only_the_kubelet_and_extensions_can_be_restarted() {
    let mut cluster = cluster(Line::V1_14);
    let refusal = cluster.control("cp-2", "etcd", Verb::Restart, START).unwrap_err();
    assert_eq!(refusal.text, "service \"etcd\" doesn't support restart operation via API");
    assert_eq!(
        cluster.control("cp-2", "kubelet", Verb::Restart, START).unwrap(),
        "Service \"kubelet\" restarted"
    );
    cluster.control("cp-2", "kubelet", Verb::Stop, START).unwrap();
    let node = cluster.node("cp-2").unwrap();
    assert!(node.resources().get("runtime", "Services.v1alpha1.talos.dev", "kubelet").is_none());
    assert!(!node.is_ready(), "and the node says so");
}

#[test]
fn machine_configs_are_byte_for_byte_what_was_sent() {
    use ichor_proto::talos::resource::config::MachineConfigSpec;
    use prost::Message as _;
    for line in Line::ALL {
        let mut cluster = cluster(line);
        let text = config("worker", "  # a comment\n");
        cluster.apply("w-1", sent(&text, Mode::NoReboot), START).unwrap();
        let node = cluster.node("w-1").unwrap();
        let found = node.resources().get("config", "machineconfigs.config.talos.dev", "v1alpha1").unwrap();
        let spec = found.spec.clone().unwrap();
        let proto = MachineConfigSpec::decode(&*spec.proto_spec).unwrap();
        assert_eq!(proto.yaml_marshalled, text.as_bytes());
        let yaml: yaml_serde::Value = yaml_serde::from_str(&spec.yaml_spec).unwrap();
        assert_eq!(yaml.is_string(), line >= Line::V1_12, "{line}");
    }
}

#[test]
fn a_mesh_address_that_sorts_first_becomes_the_address_of_an_unpinned_node_and_of_no_other() {
    let mut cluster = cluster(Line::V1_13);
    let pinned = "  kubelet: {nodeIP: {validSubnets: [10.5.0.0/24]}}\n";
    let etcd = config("controlplane", pinned)
        .replace("cluster: {}", "cluster: {etcd: {advertisedSubnets: [10.5.0.0/24]}}");
    cluster.apply("cp-3", sent(&etcd, Mode::NoReboot), START).unwrap();
    for (node, own) in [("cp-2", "10.5.0.2/24"), ("cp-3", "10.5.0.3/24")] {
        let addresses = [("eth0", own), ("ichor0", "10.1.0.9/16")];
        let addresses = addresses.map(|(link, net)| (link.to_owned(), net.parse().unwrap()));
        cluster.set_addresses(node, addresses.to_vec(), START).unwrap();
    }
    let ip = |node: &str| {
        let node = cluster.node(node).unwrap();
        let found = node.resources().get("k8s", "NodeIPs.kubernetes.talos.dev", "kubelet").unwrap();
        found.spec.as_ref().unwrap().yaml_spec.contains("10.1.0.9")
    };
    assert!(ip("cp-2") && !ip("cp-3"));
    let advertised = |node: &str| cluster.etcd().member(node).unwrap().advertised.join(" ");
    assert_eq!((&*advertised("cp-2"), &*advertised("cp-3")), ("10.1.0.9", "10.5.0.3"));
}

#[test]
fn who_watches_sees_the_stages_of_a_reboot() {
    let mut cluster = cluster(Line::V1_14);
    let end = cluster.node("w-1").unwrap().resources().end();
    cluster.leave("w-1", true, START).unwrap();
    let node = cluster.node("w-1").unwrap();
    let changes: Vec<_> = node.resources().since(end).unwrap().collect();
    let status = changes.iter().find(|change| id_of(&change.resource) == "machine").unwrap();
    assert_eq!(status.event, EventType::Updated);
    assert!(status.resource.spec.as_ref().unwrap().yaml_spec.starts_with("stage: rebooting\n"));
}
