//! The calls of our client that a rollout makes, as an official server sees them, and what it makes of official replies.

use std::future::Future;
use std::io::Write as _;
use std::time::Duration;

use ichor_proto::talos::machine::apply_configuration_request::Mode;
use ichorctl::api::{
    ApiError, ApplyOptions, Bootstrap, Cause, EPHEMERAL, Extensions, InstallerError, NodeClient, RebootMode,
    Reset, UPGRADE_MARKER, Wipe,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::official::{Official, Question, official};
use crate::{node, runtime};

const IMAGE: &str = "factory.example/metal-installer/abc:v1.14.1";
const ACTOR: &str = "0b1c2d3e-0000-4000-8000-000000000001";

/// An official server, and our client of it.
struct Judge<'o> {
    official: &'o mut Official,
    runtime: Runtime,
    node: NodeClient,
}

impl Judge<'_> {
    /// Makes a call that is answered with `replies`. What the server saw of it has to be `requests`.
    fn call<T>(
        &mut self,
        method: &str,
        requests: Value,
        replies: Value,
        call: impl AsyncFnOnce(NodeClient) -> T,
    ) -> T {
        let method = format!("/{method}");
        let replies = replies.as_array().unwrap();
        self.official.ask(&Question { op: "script", method: &method, replies, ..Question::default() });
        let result = self.runtime.block_on(call(self.node.clone()));
        let seen = self.official.ask(&Question { op: "calls", ..Question::default() }).calls;
        assert_eq!(seen.len(), 1, "{method}");
        assert_eq!((&seen[0].method, &*seen[0].node, seen[0].unknown), (&method, "127.0.0.1", 0));
        assert_eq!(Value::Array(seen[0].received.clone()), requests, "{method}");
        result
    }

    /// The same for a call of `MachineService` with one request and one reply.
    fn one<T, F: Future<Output = Result<T, ApiError>>>(
        &mut self,
        method: &str,
        request: Value,
        reply: Value,
        call: impl FnOnce(NodeClient) -> F,
    ) -> T {
        let method = format!("machine.MachineService/{method}");
        let replies = json!([{ "messages": [reply] }]);
        self.call(&method, json!([request]), replies, async |node| call(node).await).unwrap()
    }
}

fn judged(test: impl FnOnce(&mut Judge<'_>)) {
    let Some(mut official) = official() else { return };
    let node = node(&official.access, &official.access.echo);
    test(&mut Judge { official: &mut official, runtime: runtime(), node });
}

/// Where installer images are.
fn system_images() -> Value {
    json!({"driver": "CRI", "namespace": "NS_SYSTEM"})
}

#[test]
fn power_calls_say_what_they_mean_and_nothing_more() {
    judged(|judge| {
        let reply = json!({"actorId": ACTOR});
        for (mode, request) in [
            (RebootMode::Default, json!({})),
            (RebootMode::Powercycle, json!({"mode": "POWERCYCLE"})),
            (RebootMode::Force, json!({"mode": "FORCE"})),
        ] {
            let actor = judge.one("Reboot", request, reply.clone(), async |node| node.reboot(mode).await);
            assert_eq!(actor, ACTOR);
        }
        let actor = judge.one("Shutdown", json!({}), reply.clone(), async |node| node.shutdown().await);
        assert_eq!(actor, ACTOR);
        judge.one("Rollback", json!({}), json!({}), async |node| node.rollback().await);
        let partitions = json!([{"label": "EPHEMERAL", "wipe": true}]);
        for (reset, request) in [
            (
                Reset { graceful: true, reboot: true, wipe: Wipe::Partitions(vec![EPHEMERAL.to_owned()]) },
                json!({"graceful": true, "reboot": true, "systemPartitionsToWipe": partitions, "mode": "SYSTEM_DISK"}),
            ),
            (
                Reset { graceful: false, reboot: false, wipe: Wipe::SystemDisk },
                json!({"mode": "SYSTEM_DISK"}),
            ),
        ] {
            let actor = judge.one("Reset", request, reply.clone(), async |node| node.reset(&reset).await);
            assert_eq!(actor, ACTOR);
        }
    });
}

#[test]
fn upgrades_never_force_stage_or_preserve() {
    judged(|judge| {
        let reply = json!({"ack": "Upgrade request received", "actorId": ACTOR});
        let upgrade = judge
            .one("Upgrade", json!({"image": IMAGE}), reply, async |node| node.upgrade_legacy(IMAGE).await);
        assert_eq!((upgrade.actor_id.as_str(), upgrade.ack.as_str()), (ACTOR, "Upgrade request received"));
        let request = json!({"namespace": "NS_SYSTEM", "reference": IMAGE});
        judge.one("ImagePull", request, json!({}), async |node| node.image_pull_legacy(IMAGE).await);

        let pinned = "factory.example/metal-installer/abc@sha256:00";
        let layer = json!({"status": "EXTRACTING", "elapsed": "1.5s", "offset": "7", "total": "9"});
        let replies = json!([{"pullProgress": {"layerId": "l", "progress": layer}}, {"name": pinned}]);
        let request = json!([{"containerd": system_images(), "imageRef": IMAGE}]);
        let pulled = judge.call("machine.ImageService/Pull", request, replies, async |node| {
            let mut pull = node.image_pull(IMAGE).await?;
            let progress = pull.next().await?.unwrap();
            assert_eq!(progress.progress.map(|layer| (layer.offset, layer.total)), Some((7, 9)));
            pull.finish().await
        });
        assert_eq!(pulled.unwrap(), pinned);

        let message = |text: &str| json!({"progress": {"message": text}});
        let request = json!([{"containerd": system_images(), "source": {"imageName": pinned}}]);
        for (code, is_good) in [(Some(0), true), (Some(4), false), (None, false)] {
            let mut replies = vec![message("a"), message("b\n")];
            replies.extend(code.map(|code| json!({"progress": {"exitCode": code}})));
            let call = async |node: NodeClient| node.lifecycle_upgrade(pinned).await?.finish().await;
            let method = "machine.LifecycleService/Upgrade";
            let ended: Result<(), InstallerError> =
                judge.call(method, request.clone(), Value::Array(replies), call);
            match (ended, code) {
                (Ok(()), Some(0)) => assert!(is_good),
                (Err(InstallerError::Failed { code, output, .. }), Some(expected)) => {
                    assert_eq!((code, output.as_str()), (expected, "ab"));
                }
                (Err(InstallerError::Unknown { output, .. }), None) => assert_eq!(output, "ab"),
                (ended, code) => panic!("{code:?}: {ended:?}"),
            }
        }
    });
}

#[test]
fn recovery_sends_the_whole_file_and_names_what_it_starts_from() {
    judged(|judge| {
        for (from, request) in [
            (Bootstrap::New, json!({})),
            (Bootstrap::Snapshot, json!({"recoverEtcd": true})),
            (Bootstrap::DatabaseFile, json!({"recoverEtcd": true, "recoverSkipHashCheck": true})),
        ] {
            judge.one("Bootstrap", request, json!({}), async |node| node.bootstrap(from).await);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0x5a; (32 << 10) + 3]).unwrap();
        let first = crate::official::base64(&[0x5a; 32 << 10]);
        let request = json!([{"bytes": first}, {"bytes": "Wlpa"}]);
        let replies = json!([{"messages": [{}]}]);
        let sent = judge.call("machine.MachineService/EtcdRecover", request, replies, async |node| {
            node.etcd_recover(&file).await
        });
        sent.unwrap();
        // What an upload is refused with arrives, whoever says it.
        let refused =
            json!([{"messages": [{"metadata": {"hostname": "x", "error": "not ready for recovery yet"}}]}]);
        let empty = tempfile::tempfile().unwrap();
        let method = "machine.MachineService/EtcdRecover";
        let error = judge.call(method, json!([]), refused, async |node| node.etcd_recover(&empty).await);
        assert!(format!("{:?}", error.unwrap_err()).contains("not ready for recovery yet"));
    });
}

#[test]
fn etcd_calls_are_about_the_member_of_the_node() {
    judged(|judge| {
        let member = json!({"id": "18446744073709551615", "hostname": "cp-1", "peerUrls": ["https://10.0.0.1:2380"],
            "clientUrls": ["https://10.0.0.1:2379"], "isLearner": true});
        for (local, request) in [(false, json!({})), (true, json!({"queryLocal": true}))] {
            let reply = json!({ "members": [member] });
            let members =
                judge.one("EtcdMemberList", request, reply, async |node| node.etcd_members(local).await);
            assert_eq!((members[0].id, members[0].is_learner), (u64::MAX, true));
        }
        let status = json!({"protocolVersion": "3.6.5", "leader": "7", "raftIndex": "20", "raftTerm": "3",
            "raftAppliedIndex": "18", "errors": ["etcdserver: no leader"], "memberId": "9", "storageVersion": "3.6.0"});
        let reply = json!({ "memberStatus": status });
        let status = judge.one("EtcdStatus", json!({}), reply, async |node| node.etcd_status().await);
        assert_eq!(
            (status.member_id, status.leader, status.raft_index, status.raft_applied_index),
            (9, 7, 20, 18)
        );
        assert_eq!((status.errors.len(), status.protocol_version.as_str()), (1, "3.6.5"));
        let alarms = json!({"memberAlarms": [{"memberId": "9", "alarm": "CORRUPT"}]});
        let alarms = judge.one("EtcdAlarmList", json!({}), alarms, async |node| node.etcd_alarms().await);
        assert_eq!((alarms[0].member_id, alarms[0].alarm), (9, 2));
        for (reply, expected) in [(json!({"member": "cp-2"}), Some("cp-2")), (json!({}), None)] {
            let call = async |node: NodeClient| node.etcd_forfeit_leadership().await;
            let leader = judge.one("EtcdForfeitLeadership", json!({}), reply, call);
            assert_eq!(leader.as_deref(), expected);
        }
        let id = json!({"memberId": "9"});
        judge.one("EtcdRemoveMemberByID", id, json!({}), async |node| node.etcd_remove_member(9).await);
        judge.one("EtcdLeaveCluster", json!({}), json!({}), async |node| node.etcd_leave().await);
        let replies = json!([{"bytes": "AAEC"}, {"bytes": "Aw=="}]);
        let bytes = judge.call("machine.MachineService/EtcdSnapshot", json!([{}]), replies, async |node| {
            let mut stream = node.etcd_snapshot().await?;
            let mut bytes = Vec::new();
            while let Some(data) = stream.next().await? {
                bytes.extend_from_slice(&data.bytes);
            }
            Ok::<_, ApiError>(bytes)
        });
        assert_eq!(bytes.unwrap(), [0, 1, 2, 3]);
    });
}

#[test]
fn configs_are_applied_in_the_mode_that_was_asked_for() {
    judged(|judge| {
        for (mode, name) in [
            (Mode::NoReboot, "NO_REBOOT"),
            (Mode::Staged, "STAGED"),
            (Mode::Try, "TRY"),
            (Mode::Auto, "AUTO"),
        ] {
            let options = ApplyOptions { mode, dry_run: false, try_timeout: Some(Duration::from_secs(90)) };
            let request = json!({"data": "YTog", "mode": name, "tryModeTimeout": "90s"});
            let reply = json!({"warnings": ["w"], "mode": name, "modeDetails": "d"});
            let call = async |node: NodeClient| node.apply_configuration(b"a: ", options).await;
            let applied = judge.one("ApplyConfiguration", request, reply, call);
            assert_eq!((applied.mode(), applied.warnings.len()), (mode, 1));
        }
    });
}

#[test]
fn a_node_describes_itself_in_official_resources() {
    let Some(mut official) = official() else { return };
    official.ask(&Question { op: "describe", ..Question::default() });
    let runtime = runtime();
    let node = node(&official.access, &official.access.state);
    let status = runtime.block_on(node.machine_status()).unwrap();
    assert_eq!((status.stage.as_str(), status.is_running_and_ready()), ("booting", false));
    let unmet = status.unmet();
    assert_eq!((unmet[0].name.as_str(), unmet[0].reason.as_str()), ("services", "etcd: not running"));
    assert_eq!(runtime.block_on(node.boot_id()).unwrap(), "8a0f3c22-9e55-4b5d-9c1e-6a2f0f6f7d10");
    let expected = Extensions {
        extensions: vec![("ichor".to_owned(), "0.1.0".to_owned())],
        schematic: Some("37656798".to_owned()),
    };
    assert_eq!(runtime.block_on(node.extensions()).unwrap(), expected);
    assert!(runtime.block_on(node.meta_keys()).unwrap().into_iter().eq([UPGRADE_MARKER]));
}

#[test]
fn a_boot_id_that_is_empty_is_none() {
    judged(|judge| {
        let request = json!([{"namespace": "runtime", "type": "BootIDs.runtime.talos.dev", "id": "boot-id"}]);
        let resource =
            json!([{"resource": {"metadata": {"id": "boot-id"}, "spec": {"yamlSpec": "bootID: \"\"\n"}}}]);
        let method = "cosi.resource.State/Get";
        let error = judge.call(method, request, resource, async |node| node.boot_id().await).unwrap_err();
        assert!(matches!(error.cause, Cause::Incomplete(_)), "{error:?}");
    });
}
