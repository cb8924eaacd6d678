//! Several owners, new keys for them, and names that change.

use ichor_lab::{Exit, LabError, Node};

use crate::network::{NAMES, Operator, assert_whole, with_network};

const SECOND: [&str; 2] = ["--dir", "/run/second"];

/// The operator's command for the folder of the second owner.
async fn second(operator: &Operator, args: &[&str]) -> Result<String, LabError> {
    operator.run(&[args, &SECOND[..]].concat()).await
}

async fn let_in(node: &Node, join: &str) -> Result<(), LabError> {
    node.configure(&format!("mesh:\n  join: {join}")).await
}

#[test]
fn a_second_owner_lets_nodes_in_and_keys_of_owners_are_replaced_and_ended() {
    with_network(async |lab, operator| {
        let [a, b, c, d] = NAMES.map(|name| lab.node(name));
        for node in [&a, &b] {
            operator.admit(node).await?;
        }
        assert_whole(lab, &NAMES[..2]).await?;

        let key = second(operator, &["owner", "key"]).await?;
        let key = key.trim();
        let invitation = operator.run(&["owner", "add", key, "--range", "10.213.64.0/18"]).await?;
        lab.node("op").write("/run/invitation.json", &invitation).await?;
        second(operator, &["owner", "accept", "/run/invitation.json"]).await?;
        let_in(&c, &second(operator, &["token", "create", "--name", "c"]).await?).await?;
        assert_whole(lab, &NAMES[..3]).await?;
        let addresses = c.status().await?.addresses;
        assert!(addresses[0].starts_with("10.213.64."), "{addresses:?}");
        let taken = operator.output(&["token", "create", "--name", "e", "--address", "10.213.64.9"]).await?;
        assert_eq!(taken.exit, Exit::Code(3), "it is the other owner's to give: {}", taken.stderr);

        // The first owner's new key does what the old one did.
        let old = operator.run(&["owner", "list", "-o", "json"]).await?;
        operator.run(&["owner", "rotate", "--yes"]).await?;
        assert_ne!(operator.run(&["owner", "list", "-o", "json"]).await?, old);
        operator.admit(&d).await?;
        assert_whole(lab, &NAMES).await?;

        // The second one ends: what it let in stays, what it says now counts no more.
        operator.run(&["owner", "remove", key, "--yes"]).await?;
        a.until_status("two owners that retired", |status| {
            let owners = status.network.iter().flat_map(|network| &network.owners);
            owners.filter(|owner| owner.standing == "retired").count() == 2
        })
        .await?;
        operator.sees(&a).await?;
        let remove = ["member", "remove", "d", "--status", "/run/operator/status.json", "--yes"];
        let ended = operator.output(&[&remove[..], &SECOND[..]].concat()).await?;
        assert_eq!(ended.exit, Exit::Code(4), "{}", ended.stderr);
        assert_whole(lab, &NAMES).await
    });
}

#[test]
fn a_renamed_member_keeps_its_address_and_its_name_leads_to_it() {
    with_network(async |lab, operator| {
        let [a, b, ..] = NAMES.map(|name| lab.node(name));
        for node in [&a, &b] {
            operator.admit(node).await?;
        }
        assert_whole(lab, &NAMES[..2]).await?;
        let before = b.status().await?.addresses;
        operator.sees(&a).await?;
        let status = ["--status", "/run/operator/status.json"];
        operator.run(&[&["member", "rename", "b", "gateway"], &status[..], &["--yes"]].concat()).await?;
        let renamed = |status: &ichord::status::Status| {
            status.network.as_ref().is_some_and(|network| network.member.as_deref() == Some("gateway"))
        };
        b.until_status("its new name", renamed).await?;
        a.until_status("the new name of b", |status| status.peers.iter().any(|peer| peer.name == "gateway"))
            .await?;
        let after = b.status().await?.addresses;
        assert_eq!(after[0], before[0]);
        assert_ne!(after[1], before[1], "the IPv6 address follows the name");
        assert_whole(lab, &NAMES[..2]).await?;
        operator.sees(&a).await?;
        let hosts = operator.run(&[&["mesh", "hosts", "--form", "hosts"], &status[..]].concat()).await?;
        assert!(hosts.contains("10.213.0.2 gateway\n"), "{hosts}");
        Ok(())
    });
}
