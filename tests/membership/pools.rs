//! Pools of machines that come and go.

use std::time::{Duration, Instant};

use ichor_lab::{LabError, Nat, Node, NodeSpec, Site};
use ichord::status::Status;

use crate::network::{Operator, assert_reaches, network_of, tell, until_status_in, with_network_in};

const MACHINES: usize = 50;
/// How many of them are there at once.
const AT_ONCE: usize = 10;
/// How long machines may take to come or to be forgotten in this test. The figures are printed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes a new machine of what `node` was, and has it join as `name`.
async fn make(node: &Node, name: &str, join: &str) -> Result<(), LabError> {
    node.run(["sh", "-c", "rm -rf /var/lib/ichor /var/run/ichor/status.json"]).await?;
    node.write_config(&format!("mesh:\n  name: {name}\n  join: {join}")).await?;
    node.start().await
}

fn members(status: &Status) -> usize {
    status.network.as_ref().map_or(0, |network| network.members)
}

/// The names of all members, as an operator sees them who asks `node`.
async fn listed(operator: &Operator, node: &Node) -> Result<Vec<String>, LabError> {
    operator.sees(node).await?;
    let listed = operator.run(&["member", "list", "--status", "/run/operator/status.json"]).await?;
    let names = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    Ok(names.map(str::to_owned).collect())
}

#[test]
fn fifty_machines_come_with_one_token_and_go_and_the_list_is_exact() {
    let site = |name: &str, nodes: Vec<NodeSpec>| Site { nodes, ..Site::new(name, Nat::None) };
    let slots = (1..=AT_ONCE).map(|n| NodeSpec::new(format!("slot-{n}"))).collect();
    let op = NodeSpec { daemon: false, ..NodeSpec::new("op") };
    let sites = vec![site("here", vec![NodeSpec::new("a")]), site("pool", slots), site("office", vec![op])];
    with_network_in(network_of(sites), async |lab, operator| {
        let a = lab.node("a");
        operator.admit(&a).await?;
        a.until_status("to begin", |status| members(status) == 1).await?;
        let token = ["token", "create", "--pattern", "pool-*", "--range", "10.213.128.0/20"];
        let more = ["--uses", &MACHINES.to_string(), "--ephemeral", "5s"];
        let join = operator.run(&[&token[..], &more[..]].concat()).await?;
        let slots: Vec<_> = (1..=AT_ONCE).map(|n| lab.node(&format!("slot-{n}"))).collect();
        let began = Instant::now();
        for first in (0..MACHINES).step_by(AT_ONCE) {
            // What was there before is destroyed, without a word to anybody.
            for slot in &slots {
                slot.kill().await?;
            }
            for (n, slot) in (first..).zip(&slots) {
                make(slot, &format!("pool-{n}"), &join).await?;
            }
            for slot in &slots {
                until_status_in(slot, PATIENCE, |status| members(status) > AT_ONCE).await?;
            }
            // With most of many members it has a session only when there is something to send.
            until_status_in(&a, PATIENCE, |status| {
                let is_known = |n| {
                    let name = format!("pool-{n}");
                    status.peers.iter().any(|peer| peer.name == name)
                };
                (first..first + AT_ONCE).all(is_known)
            })
            .await?;
            for slot in &slots {
                assert_reaches(&a, slot).await?;
            }
        }
        tell(&format!("{MACHINES} machines with one token, {AT_ONCE} at once: {:?}", began.elapsed()));
        // It is used up: not for whom it let in, but for all others.
        let began = Instant::now();
        for slot in &slots {
            slot.kill().await?;
        }
        make(&slots[0], "pool-x", &join).await?;
        until_status_in(&a, PATIENCE, |status| members(status) == 1 && status.peers.is_empty()).await?;
        tell(&format!("the last {AT_ONCE} are forgotten {:?} after they were destroyed", began.elapsed()));
        assert_eq!(listed(operator, &a).await?, ["a"]);
        let stays_out = slots[0].status().await?;
        assert!(stays_out.network.is_some_and(|network| network.member.is_none()));
        Ok(())
    });
}
