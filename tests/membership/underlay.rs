//! What a network sends over the underlay, and to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ichor_lab::{Family, LabError, Node};
use ichor_tests::outgoing::{Counting, Sent};
use ichord::status::Status;

use crate::network::{NAMES, assert_whole, tell, until_status_in, until_whole, with_network};

/// Where nodes look for each other on their segment.
const GROUPS: [&str; 2] = ["239.255.73.67:51840", "[ff12::6963:686f]:51840"];
const PORT: u16 = 51840;
/// How long others may take to say something to who is gone: they do so every 20 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// Notes where `node` is now.
async fn note(places: &mut BTreeSet<IpAddr>, node: &Node) -> Result<(), LabError> {
    let underlay = node.view().await?.underlay;
    places.extend([Family::V4, Family::V6].map(|family| underlay.ip(family)));
    Ok(())
}

/// Frames that the kernel counted on the interface of `node`.
async fn frames(node: &Node) -> Result<u64, LabError> {
    let read = node.run(["cat", "/sys/class/net/eth0/statistics/tx_packets"]).await?.stdout;
    Ok(read.trim().parse().expect("a number"))
}

/// All counts together.
fn sum(counts: &[Sent]) -> Sent {
    fn add<K: Ord + Clone>(all: &mut BTreeMap<K, u64>, some: &BTreeMap<K, u64>) {
        for (what, count) in some {
            *all.entry(what.clone()).or_default() += count;
        }
    }
    let mut all = Sent::default();
    for sent in counts {
        all.frames += sent.frames;
        add(&mut all.udp, &sent.udp);
        add(&mut all.kernel, &sent.kernel);
        add(&mut all.other, &sent.other);
    }
    all
}

/// Datagrams that were worth nothing.
fn dropped(status: &Status) -> u64 {
    status.drops.values().sum()
}

#[test]
fn nothing_is_sent_but_to_members_seeds_and_the_segment() {
    with_network(async |lab, operator| {
        let nodes = NAMES.map(|name| lab.node(name));
        let [a, b, c, d] = &nodes;
        let (mut counts, mut before, mut members) = (Vec::new(), Vec::new(), BTreeSet::new());
        for node in &nodes {
            // A start is part of it.
            node.stop().await?;
            counts.push(Counting::start(node).await?);
            before.push(frames(node).await?);
            node.start().await?;
            note(&mut members, node).await?;
        }
        for node in &nodes {
            operator.admit(node).await?;
        }
        assert_whole(lab, &NAMES).await?;
        // One moves to the other site, and one within its own.
        b.roam("there").await?;
        before[1] = 0;
        d.roam("there").await?;
        note(&mut members, b).await?;
        note(&mut members, d).await?;
        // What they said first from there may be lost: then the others send to where they were until a session notices.
        let began = Instant::now();
        let all_again = async { while assert_whole(lab, &NAMES).await.is_err() {} };
        tokio::time::timeout(PATIENCE, all_again).await.expect("in time");
        tell(&format!("two members moved: all pairs answer after {:?}", began.elapsed()));
        // One loses its power, and comes back.
        b.kill().await?;
        let sent = |status: &Status| {
            status.peers.iter().filter(|peer| peer.name == "b").map(|peer| peer.tx_bytes).sum::<u64>()
        };
        let before_it = sent(&a.status().await?);
        until_status_in(a, PATIENCE, |status| sent(status) > before_it).await?;
        b.start().await?;
        assert_whole(lab, &NAMES).await?;
        // One is removed, and does not know it any more.
        c.run(["cp", "-r", "/var/lib/ichor", "/var/lib/before"]).await?;
        operator.sees(a).await?;
        operator.run(&["member", "remove", "c", "--status", "/run/operator/status.json", "--yes"]).await?;
        for node in [a, b, d] {
            until_whole(node, 3).await?;
        }
        let mut afterwards = Vec::new();
        for node in [a, b, d] {
            afterwards.push(Counting::start(node).await?);
        }
        c.stop().await?;
        c.run(["sh", "-c", "rm -rf /var/lib/ichor && mv /var/lib/before /var/lib/ichor"]).await?;
        let ignored = dropped(&a.status().await?);
        c.start().await?;
        a.until_status("to hear of who was removed", |status| dropped(status) > ignored).await?;
        assert_whole(lab, &["a", "b", "d"]).await?;

        let mut sent = Vec::new();
        for ((count, before), node) in counts.into_iter().zip(before).zip(&nodes) {
            // None was missed.
            let by_kernel = frames(node).await? - before;
            let by_us = count.end().await?;
            assert!(by_us.frames >= by_kernel, "{}: {by_kernel}, {by_us:?}", node.name());
            sent.push(by_us);
        }
        let all = sum(&sent);
        // Members may be asked, and answer, over either family.
        let operator = lab.node("op").view().await?.underlay;
        let is_member = |to: &SocketAddr| members.contains(&to.ip()) && to.port() == PORT;
        let is_group = |to: &SocketAddr| GROUPS.iter().any(|group| group.parse() == Ok(*to));
        let is_answer = |to: &SocketAddr| operator.nets().iter().any(|net| net.addr() == to.ip());
        let count = |which: &dyn Fn(&SocketAddr) -> bool| -> u64 {
            all.udp.iter().filter(|(to, _)| which(to)).map(|(_, count)| count).sum()
        };
        let beside = all.udp_beside(|to| is_member(to) || is_group(to) || is_answer(to));
        tell(&format!(
            "sent by ichord in a whole run: {} datagrams to members and seeds, {} to the groups of the segment, {} answers \
             to an owner, {} to anybody else; by the kernels: {:?}; anything else: {:?}",
            count(&is_member),
            count(&is_group),
            count(&is_answer),
            beside.values().sum::<u64>(),
            all.kernel,
            all.other
        ));
        assert_eq!(beside, BTreeMap::new());
        assert_eq!(all.other, BTreeMap::new());
        assert!(count(&is_member) > 0 && count(&is_group) > 0 && count(&is_answer) > 0, "{all:?}");

        // Who was removed gets nothing, whatever it sends.
        let c_place = c.view().await?.underlay;
        for count in afterwards {
            let sent = count.end().await?;
            let to_c =
                sent.udp.iter().filter(|(to, _)| c_place.nets().iter().any(|net| net.addr() == to.ip()));
            assert_eq!(to_c.collect::<Vec<_>>(), [], "{sent:?}");
        }
        Ok(())
    });
}
