//! Starts with whatever lies on the disk.

use ichor_lab::{Lab, Nat, NodeSpec, Site, Topology};
use ichor_tests::boots::{self, Boots};
use ichor_tests::netns::in_lab;

use crate::network::AGENT;

#[test]
fn whatever_lies_on_the_disk_the_daemon_starts_and_says_how_it_is() {
    let mut site = Site::new("here", Nat::None);
    site.nodes = vec![NodeSpec { daemon: false, ..NodeSpec::new("a") }];
    let topology = Topology { sites: vec![site], ..Topology::default() };
    in_lab(AGENT, Lab::builder().topology(topology), async |lab| {
        let boots = Boots { seed: 1, count: 40, member: boots::first_member() };
        let report = boots::run(&lab.node("a"), boots).await?;
        // How long it took is for `boot-fuzz`: this machine may be busy.
        let wrong: Vec<_> = report.violations.iter().filter(|what| !what.contains(" after ")).collect();
        assert!(wrong.is_empty() && report.good > 0, "{report:?}");
        Ok(())
    });
}
