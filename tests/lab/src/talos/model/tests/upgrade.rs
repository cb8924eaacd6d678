//! Upgrades and what can go wrong with them.

use ichor_proto::talos::machine as proto;
use prost::Message as _;

use super::*;

const NEW: &str = "factory.example/metal-installer/abc:v1.14.1";
const HOUR: Duration = Duration::from_secs(3600);

/// A cluster of `line` and an image of 1.14 that has `fault`.
fn with_image(line: Line, fault: Option<SystemFault>) -> Cluster {
    let mut cluster = cluster(line);
    cluster.add_image(Image { fault, ..Image::new(NEW, Line::V1_14) });
    cluster
}

fn tag(cluster: &Cluster, node: &str) -> String {
    cluster.node(node).unwrap().tag().to_owned()
}

fn is_settled(cluster: &Cluster, node: &str) -> bool {
    let node = cluster.node(node).unwrap();
    node.stage() == Stage::Running && node.is_ready() && node.meta().is_empty()
}

fn references(cluster: &Cluster, node: &str) -> Vec<String> {
    cluster.node(node).unwrap().systems().map(|image| image.reference.clone()).collect()
}

/// Installs the image beside what runs.
fn install(cluster: &mut Cluster, node: &str, now: Duration) -> Option<(i32, String)> {
    cluster.pull(node, NEW).unwrap();
    let id = cluster.lifecycle_upgrade(node, NEW, now).unwrap();
    pass(cluster, now, BOOT / 2);
    let result = cluster.node(node).unwrap().installation(id).and_then(Installation::result);
    result.map(|(code, text)| (code, text.to_owned()))
}

/// Errors of sequences: which, and their codes.
fn errors(cluster: &Cluster, node: &str) -> Vec<(String, i32)> {
    let events = cluster.node(node).unwrap().events();
    let decode = |event: &proto::Event| {
        let any = event.data.clone()?;
        let is_one = any.type_url == "talos/runtime/machine.SequenceEvent";
        let event = is_one.then(|| proto::SequenceEvent::decode(&*any.value).unwrap())?;
        Some((event.sequence, event.error?.code))
    };
    events.since(0).unwrap().filter_map(decode).collect()
}

#[test]
fn the_legacy_call_does_it_all_and_keeps_the_system_before() {
    for line in [Line::V1_12, Line::V1_13] {
        let mut cluster = with_image(line, None);
        let before = cluster.node("cp-2").unwrap().boot_id();
        cluster.upgrade("cp-2", NEW, START).unwrap();
        assert_eq!(cluster.node("cp-2").unwrap().stage(), Stage::Upgrading);
        assert!(!cluster.etcd().members()[0].up, "its etcd is stopped before it is installed");
        pass(&mut cluster, START, BOOT * 3);
        assert_eq!(tag(&cluster, "cp-2"), "v1.14.1");
        assert!(is_settled(&cluster, "cp-2"));
        assert_ne!(cluster.node("cp-2").unwrap().boot_id(), before);
        assert_eq!(references(&cluster, "cp-2"), [NEW.to_owned(), format!("installer:{}", line.tag())]);
        assert!(cluster.etcd().members().iter().all(|member| member.up));
    }
}

#[test]
fn the_legacy_call_looks_at_etcd_and_at_nothing_else() {
    let mut cluster = with_image(Line::V1_13, None);
    let start = |cluster: &mut Cluster| cluster.upgrade("cp-2", NEW, START).map_err(|it| it.text);
    cluster.etcd_mut().set_alarm("cp-3", Some(1));
    cluster.etcd_mut().set_lag("cp-3", 100_000);
    start(&mut cluster.clone()).unwrap();
    cluster.leave("cp-4", false, START).unwrap();
    pass(&mut cluster, START, BOOT);
    let text = start(&mut cluster).unwrap_err();
    assert!(text.contains("all members must be healthy to perform an upgrade"), "{text}");
    cluster.upgrade("w-1", NEW, START).unwrap();
    let gone = cluster.etcd().members().iter().find(|member| !member.up).unwrap().id;
    cluster.remove_member(gone, START).unwrap();
    let text = start(&mut cluster).unwrap_err();
    assert!(text.contains("etcd member count(2) is insufficient"), "{text}");
    let missing = cluster.upgrade("w-1", "nowhere:v1", START).unwrap_err();
    assert!(missing.text.contains("error validating installer image \"nowhere:v1\""), "{}", missing.text);
}

#[test]
fn the_lifecycle_call_looks_at_nothing_and_leaves_the_reboot_to_others() {
    let mut cluster = with_image(Line::V1_13, None);
    cluster.leave("cp-4", false, START).unwrap();
    let now = pass(&mut cluster, START, BOOT);
    assert_eq!(install(&mut cluster, "cp-2", now).unwrap().0, 0);
    let now = now + BOOT;
    assert_eq!(tag(&cluster, "cp-2"), "v1.13.9", "what runs goes on");
    assert_eq!(cluster.node("cp-2").unwrap().meta()[&UPGRADE_MARKER], "A");
    assert!(cluster.etcd().has_quorum());
    cluster.leave("cp-2", true, now).unwrap();
    let now = pass(&mut cluster, now, BOOT / 2);
    assert!(!cluster.etcd().has_quorum(), "nobody has asked etcd");
    pass(&mut cluster, now, BOOT * 2);
    assert!(is_settled(&cluster, "cp-2") && tag(&cluster, "cp-2") == "v1.14.1");
}

#[test]
fn the_lifecycle_call_wants_an_image_that_was_pulled() {
    let mut old = with_image(Line::V1_12, None);
    assert_eq!(old.lifecycle_upgrade("w-1", NEW, START).unwrap_err().code, Code::Unimplemented);
    let mut cluster = with_image(Line::V1_13, None);
    assert_eq!(cluster.pull("w-1", "nowhere:v1").unwrap_err().code, Code::NotFound);
    assert_eq!(cluster.lifecycle_upgrade("w-1", NEW, START).unwrap_err().code, Code::Internal);
    let pinned = cluster.pull("w-1", NEW).unwrap();
    cluster.lifecycle_upgrade("w-1", &pinned, START).unwrap();
    let again = cluster.lifecycle_upgrade("w-1", NEW, START).unwrap_err();
    assert_eq!(again.text, "another installation/upgrade is already in progress");
}

#[test]
fn two_installations_without_a_reboot_lose_the_system_that_runs() {
    let mut cluster = with_image(Line::V1_13, None);
    install(&mut cluster, "w-1", START).unwrap();
    assert_eq!(references(&cluster, "w-1"), [NEW, "installer:v1.13.9"]);
    install(&mut cluster, "w-1", START + BOOT).unwrap();
    assert_eq!(references(&cluster, "w-1"), [NEW, NEW]);
}

#[test]
fn a_reboot_kills_an_installer_and_spoils_what_it_was_writing() {
    let mut cluster = with_image(Line::V1_13, None);
    cluster.pull("w-1", NEW).unwrap();
    let id = cluster.lifecycle_upgrade("w-1", NEW, START).unwrap();
    cluster.leave("w-1", true, START).unwrap();
    pass(&mut cluster, START, BOOT * 3);
    assert_eq!((tag(&cluster, "w-1"), references(&cluster, "w-1").len()), ("v1.13.9".to_owned(), 1));
    assert!(cluster.node("w-1").unwrap().installation(id).is_none());
}

#[test]
fn a_rollback_flips_and_a_second_one_flips_back() {
    let mut cluster = with_image(Line::V1_13, None);
    assert!(cluster.rollback("w-1", START).is_err(), "there is nothing to go back to");
    cluster.upgrade("w-1", NEW, START).unwrap();
    let mut now = pass(&mut cluster, START, BOOT * 3);
    for expected in ["v1.13.9", "v1.14.1"] {
        cluster.rollback("w-1", now).unwrap();
        now = pass(&mut cluster, now, BOOT * 3);
        assert_eq!(tag(&cluster, "w-1"), expected);
        assert!(is_settled(&cluster, "w-1"));
    }
}

#[test]
fn an_installer_that_fails_ends_in_a_reboot_that_looks_like_one_that_worked() {
    let mut cluster = with_image(Line::V1_13, Some(SystemFault::NotInstallable));
    let before = cluster.node("w-1").unwrap().boot_id();
    cluster.upgrade("w-1", NEW, START).unwrap();
    let now = pass(&mut cluster, START, BOOT / 2);
    assert_eq!(errors(&cluster, "w-1"), [("upgrade".to_owned(), 0)], "only the event says so");
    let now = pass(&mut cluster, now, BOOT * 3);
    assert!(is_settled(&cluster, "w-1") && tag(&cluster, "w-1") == "v1.13.9");
    assert_ne!(cluster.node("w-1").unwrap().boot_id(), before);
    // The other call says it itself, and nothing happens to the node.
    let (code, text) = install(&mut cluster, "w-1", now).unwrap();
    assert_eq!((code, references(&cluster, "w-1").len()), (7, 1), "{text}");
}

#[test]
fn an_extension_that_never_starts_keeps_the_node_booting_until_talos_gives_up_and_goes_back() {
    let mut cluster = with_image(Line::V1_13, Some(SystemFault::StuckBooting));
    cluster.upgrade("cp-2", NEW, START).unwrap();
    let now = pass(&mut cluster, START, HOUR);
    let node = cluster.node("cp-2").unwrap();
    assert_eq!((node.stage(), node.tag(), node.is_ready()), (Stage::Booting, "v1.14.1", false));
    assert!(node.meta().contains_key(&UPGRADE_MARKER));
    assert!(cluster.etcd().members()[0].up, "its etcd runs all the same");
    pass(&mut cluster, now, HOUR);
    assert!(is_settled(&cluster, "cp-2") && tag(&cluster, "cp-2") == "v1.13.9");
}

#[test]
fn a_system_that_fails_soon_is_replaced_by_the_old_one_without_a_word() {
    let mut cluster = with_image(Line::V1_13, Some(SystemFault::RollsBack));
    let before = cluster.node("w-1").unwrap().boot_id();
    cluster.upgrade("w-1", NEW, START).unwrap();
    pass(&mut cluster, START, BOOT * 6);
    assert!(is_settled(&cluster, "w-1") && tag(&cluster, "w-1") == "v1.13.9");
    assert_ne!(cluster.node("w-1").unwrap().boot_id(), before);
}

#[test]
fn a_system_whose_kernel_dies_never_answers_until_somebody_stands_before_it() {
    let mut cluster = with_image(Line::V1_13, Some(SystemFault::BootLoop));
    cluster.upgrade("w-1", NEW, START).unwrap();
    let now = pass(&mut cluster, START, HOUR);
    assert_eq!(cluster.node("w-1").unwrap().api(), Api::Down);
    cluster.choose_other_system("w-1", now).unwrap();
    pass(&mut cluster, now, BOOT);
    assert!(is_settled(&cluster, "w-1") && tag(&cluster, "w-1") == "v1.13.9");
}

#[test]
fn an_image_without_the_extension_removes_it_and_the_node_calls_itself_ready() {
    let mut cluster = cluster(Line::V1_13);
    let schematic = Some("abc".to_owned());
    cluster.add_image(Image { schematic, ..Image::new(NEW, Line::V1_14).without_extensions() });
    cluster.upgrade("w-1", NEW, START).unwrap();
    pass(&mut cluster, START, BOOT * 3);
    assert!(is_settled(&cluster, "w-1") && tag(&cluster, "w-1") == "v1.14.1");
    let node = cluster.node("w-1").unwrap();
    assert!(node.service_list().iter().all(|service| service.id != "ext-ichor"));
    let found: Vec<_> = node.resources().list("runtime", "ExtensionStatuses.runtime.talos.dev").collect();
    let yaml = &found[0].spec.as_ref().unwrap().yaml_spec;
    assert!(found.len() == 1 && yaml.contains("name: schematic\n    version: abc"), "{yaml}");
}

#[test]
fn a_second_sequence_is_accepted_and_never_starts() {
    let mut cluster = with_image(Line::V1_13, None);
    cluster.upgrade("w-1", NEW, START).unwrap();
    cluster.upgrade("w-1", NEW, START).unwrap();
    cluster.leave("w-1", true, START).unwrap();
    // LOCKED.
    assert_eq!(errors(&cluster, "w-1"), [("upgrade".to_owned(), 1), ("reboot".to_owned(), 1)]);
    pass(&mut cluster, START, BOOT * 3);
    assert_eq!(cluster.node("w-1").unwrap().boots(), 2);
}

#[test]
fn a_fault_of_new_systems_spares_the_one_that_is_there() {
    let mut cluster = with_image(Line::V1_13, None);
    cluster.faults_mut("w-1").unwrap().new_system = Some(SystemFault::RollsBack);
    cluster.leave("w-1", true, START).unwrap();
    let now = pass(&mut cluster, START, BOOT * 3);
    assert!(is_settled(&cluster, "w-1"));
    cluster.upgrade("w-1", NEW, now).unwrap();
    pass(&mut cluster, now, BOOT * 6);
    assert!(is_settled(&cluster, "w-1") && tag(&cluster, "w-1") == "v1.13.9");
}

#[test]
fn slow_boots_and_a_slow_etcd_take_their_time_and_no_more() {
    let slow = SystemFault::SlowBoot(HOUR / 2);
    let mut cluster = with_image(Line::V1_13, Some(slow));
    cluster.faults_mut("cp-2").unwrap().etcd_delay = HOUR / 6;
    cluster.upgrade("cp-2", NEW, START).unwrap();
    let now = pass(&mut cluster, START, BOOT * 3);
    assert!(!cluster.etcd().members()[0].up);
    let now = pass(&mut cluster, now, HOUR / 6);
    assert!(cluster.etcd().members()[0].up, "etcd does not wait for the rest");
    assert_eq!(cluster.node("cp-2").unwrap().stage(), Stage::Booting);
    pass(&mut cluster, now, HOUR / 2);
    assert!(is_settled(&cluster, "cp-2"));
}
