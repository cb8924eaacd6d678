//! A network of daemons, and its owner.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ichor_lab::traffic::{self, Ping};
use ichor_lab::{Family, Lab, LabError, Membership, Nat, Node, NodeSpec, Output, Site, Topology};
use ichor_tests::netns::in_lab;
use ichord::status::Status;

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_lab-agent");
pub(crate) const OPERATOR: &str = env!("CARGO_BIN_EXE_operator");
pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// How long members may take to have sessions: the next attempt at one comes after 20 s.
const CONNECTED_AFTER: Duration = Duration::from_secs(50);

/// `a` and `b` at one site, `c` and `d` at another, and the operator, who is no member, at a third.
pub(crate) fn topology() -> Topology {
    let site = |site: &str, nodes: &[&str]| {
        let mut site = Site::new(site, Nat::None);
        site.nodes = nodes.iter().map(|name| NodeSpec::new(*name)).collect();
        site
    };
    let mut office = site("office", &["op"]);
    office.nodes[0].daemon = false;
    let sites = vec![site("here", &["a", "b"]), site("there", &["c", "d"]), office];
    network_of(sites)
}

/// Sites whose daemons wait for join strings.
pub(crate) fn network_of(sites: Vec<Site>) -> Topology {
    Topology { sites, seed: 1, membership: Membership::Tokens, ..Topology::default() }
}

/// Runs `test` with a network that was begun.
pub(crate) fn with_network(test: impl AsyncFnOnce(&Lab, &Operator) -> Result<(), LabError>) {
    with_network_in(topology(), test);
}

/// The same in a lab that has the nodes `a` and `op`, too.
pub(crate) fn with_network_in(
    topology: Topology,
    test: impl AsyncFnOnce(&Lab, &Operator) -> Result<(), LabError>,
) {
    in_lab(AGENT, Lab::builder().topology(topology), async |lab| {
        let operator = Operator { node: lab.node("op") };
        let seed = endpoint(&lab.node("a")).await?.to_string();
        operator.run(&["mesh", "init", "lab", "--range", "10.213.0.0/16", "--seed", &seed]).await?;
        test(lab, &operator).await
    });
}

/// Who has the key of the network's owner, and nothing but `ichorctl`.
pub(crate) struct Operator {
    node: Node,
}

impl Operator {
    pub(crate) async fn output(&self, args: &[&str]) -> Result<Output, LabError> {
        let command = [&[OPERATOR], args].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
        self.node.command(command).env("HOME", "/run/operator").output().await
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Result<String, LabError> {
        let output = self.output(args).await?;
        assert!(output.exit.success(), "{args:?}: {}", output.stderr);
        Ok(output.stdout)
    }

    /// What the configuration of `name` is to be for it to be let in.
    pub(crate) async fn token(&self, name: &str, more: &[&str]) -> Result<String, LabError> {
        let join = self.run(&[&["token", "create", "--name", name], more].concat()).await?;
        Ok(format!("mesh:\n  join: {join}"))
    }

    /// Lets the first three nodes in, and waits until all see each other.
    pub(crate) async fn admit_three(&self, lab: &Lab) -> Result<(), LabError> {
        for name in &NAMES[..3] {
            self.admit(&lab.node(name)).await?;
        }
        assert_whole(lab, &NAMES[..3]).await
    }

    /// Lets `node` in under its own name.
    pub(crate) async fn admit(&self, node: &Node) -> Result<(), LabError> {
        self.admit_as(node, node.name(), &[]).await
    }

    pub(crate) async fn admit_as(&self, node: &Node, name: &str, more: &[&str]) -> Result<(), LabError> {
        node.configure(&self.token(name, more).await?).await
    }

    /// Hands the operator what `node` says of itself.
    pub(crate) async fn sees(&self, node: &Node) -> Result<(), LabError> {
        self.node.write("/run/operator/status.json", &node.status().await?.to_json()).await
    }
}

/// Where `node` is to be found.
pub(crate) async fn endpoint(node: &Node) -> Result<SocketAddr, LabError> {
    Ok(SocketAddr::new(node.view().await?.underlay.ip(Family::V4), 51840))
}

/// Waits for a status that `is_right`, for longer than a step of a lab may take.
pub(crate) async fn until_status_in(
    node: &Node,
    limit: Duration,
    mut is_right: impl FnMut(&Status) -> bool,
) -> Result<Status, LabError> {
    let mut watch = node.watch_status().await?;
    let mut last = None;
    let found = async {
        loop {
            let status = watch.next().await?;
            if is_right(&status) {
                return Ok(status);
            }
            last = Some(status);
        }
    };
    match tokio::time::timeout(limit, found).await {
        Ok(found) => found,
        Err(_elapsed) => {
            let last = last.map_or_else(|| "there is none".to_owned(), |status| status.to_json());
            let awaited = format!("a status on {}; its last: {last}", node.name());
            Err(LabError::TimedOut { awaited, after: limit })
        }
    }
}

/// A figure for who asks (`--nocapture`).
pub(crate) fn tell(figure: &str) {
    // Nobody may be reading.
    let _ = writeln!(std::io::stderr().lock(), "{figure}");
}

/// Waits until `node` knows of `members` members, and has sessions with all others.
pub(crate) async fn until_whole(node: &Node, members: usize) -> Result<(), LabError> {
    let whole = until_status_in(node, CONNECTED_AFTER, |status| {
        let network = status.network.as_ref();
        network.is_some_and(|network| network.members == members && network.member.is_some())
            && status.peers.len() == members - 1
            && status.peers.iter().all(|peer| peer.connected)
    });
    whole.await.map(drop)
}

/// Both mesh addresses of `node`.
pub(crate) async fn mesh(node: &Node) -> Result<Vec<IpAddr>, LabError> {
    // A node that starts just now has none yet, whatever it said before.
    let status = node.until_status("its addresses", |status| status.addresses.len() == 2).await?;
    Ok(status.addresses.iter().filter_map(|net| net.split('/').next()?.parse().ok()).collect())
}

pub(crate) async fn assert_reaches(from: &Node, to: &Node) -> Result<(), LabError> {
    let to_addresses = mesh(to).await?;
    assert_eq!(to_addresses.len(), 2, "{to_addresses:?}");
    for address in to_addresses {
        let pinged = traffic::ping(from, Ping::once([address])).await?;
        let (from, to) = (from.name(), to.name());
        if pinged.iter().any(|pinged| pinged.received == 0) {
            let what = format!("reach {to} from {from}");
            return Err(LabError::Failed { what, cause: format!("{pinged:?}") });
        }
    }
    Ok(())
}

pub(crate) async fn assert_whole(lab: &Lab, names: &[&str]) -> Result<(), LabError> {
    for name in names {
        until_whole(&lab.node(name), names.len()).await?;
    }
    for from in names {
        for to in names.iter().filter(|to| *to != from) {
            assert_reaches(&lab.node(from), &lab.node(to)).await?;
        }
    }
    Ok(())
}
