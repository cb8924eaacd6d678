//! `ichorctl lab power`, `isolate`, `clone`, `re-image` and `age`: what happens to machines.

use std::time::Duration;

use ichord::status::Status;

use super::join::{self, Operator, ToJoin, done};
use super::{Progress, talos};
use crate::background::{self, OWNER};
use crate::error::LabError;
use crate::lab::Lab;
use crate::node::Node;
use crate::protocol::Cut;

/// Where ichord keeps what it is.
const STATE: &str = ichord::config::STATE_DIRECTORY;

/// Takes the power from a node, or gives it back.
pub(super) async fn power(lab: &Lab, node: &str, on: bool) -> Result<(), LabError> {
    let node = lab.node(node);
    if on { node.power_on().await } else { node.power_off().await }
}

/// Cuts a node or a site off, or heals that.
pub(super) async fn isolate(lab: &Lab, what: &str, heal: bool) -> Result<(), LabError> {
    let view = lab.view().await?;
    let is_site = view.sites.iter().any(|site| site.name == what);
    let cut = if is_site { Cut::Site(what.to_owned()) } else { Cut::Node(what.to_owned()) };
    if heal { lab.heal(cut).await } else { lab.cut(cut).await }
}

/// Copies what makes the ichord of `from` what it is to the node `to`, which is started with it.
pub(super) async fn clone(lab: &Lab, from: &str, to: &str) -> Result<(), LabError> {
    let (from, to) = (lab.node(from), lab.node(to));
    if from.name() == to.name() {
        return Err(LabError::Topology("a node cannot be a clone of itself".to_owned()));
    }
    let pack = "tar -C \"$1\" -c . | base64 -w0";
    let packed = from.run(["sh", "-c", pack, "sh", STATE]).await?.stdout;
    let config = from.config().await?;
    kill(&to).await?;
    to.write("/run/clone", &packed).await?;
    let unpack = "rm -rf \"$1\" && mkdir -m 700 \"$1\" && base64 -d /run/clone | tar -C \"$1\" -x; \
                  rm -f /run/clone /var/run/ichor/status.json";
    to.run(["sh", "-c", unpack, "sh", STATE]).await?;
    to.write_config(&config).await?;
    to.start().await?;
    let is_member =
        |status: &Status| status.network.as_ref().is_some_and(|network| network.identity.is_some());
    to.until_status("to be what it was made from", is_member).await.map(drop)
}

/// Makes a new machine of a node: its ichord loses its state, and gets a token that replaces what it was.
pub(super) async fn re_image(
    lab: &Lab,
    name: &str,
    node: &str,
    operator: &dyn Operator,
    progress: &Progress,
) -> Result<(), LabError> {
    let what = || format!("make a new machine of {node}");
    let failed = |cause: &str| LabError::Failed { what: what(), cause: cause.to_owned() };
    let folder = background::directory(name)?.join(OWNER);
    if !folder.is_dir() {
        return Err(failed(
            "the network of this lab has no owner: its nodes are listed in its topology file",
        ));
    }
    let topology = background::topology(name)?;
    let guest = join::guests(&topology).into_iter().find(|guest| guest.name == node);
    let mut guest = guest.ok_or_else(|| failed("it is no member, or there is no such node"))?;
    let machine = lab.node(node);
    let network = machine.status().await?.network;
    let incarnation = network.and_then(|network| network.incarnation);
    let incarnation = incarnation.ok_or_else(|| failed("it is no member yet"))?;
    kill(&machine).await?;
    machine.run(["sh", "-c", "rm -rf \"$1\" /var/run/ichor/status.json", "sh", STATE]).await?;
    progress.tell(&format!("{node} has lost its state"));
    guest.replaces = Some(incarnation.clone());
    if let Some(spec) = &topology.talos {
        let (talosconfig, ports) = talos::talosconfig(lab, spec).await?;
        let endpoints = topology.nodes().map(|(_, node)| node.name.clone()).zip(ports).collect();
        let cluster = join::cluster_file(&topology, spec);
        let nodes = ToJoin { cluster, folder, guests: vec![guest], talosconfig, endpoints };
        done("let it in again", operator.join(&nodes, &|text| progress.tell(text)).await)?;
    } else {
        let join = done("make a token", operator.token(&folder, &guest).await)?;
        machine.write_config(&join::config(&topology, node, &join)).await?;
        machine.start().await?;
    }
    machine
        .until_status("to be a member again", |status| {
            let now = status.network.as_ref().and_then(|network| network.incarnation.as_ref());
            now.is_some_and(|now| *now != incarnation)
        })
        .await?;
    progress.tell(&format!("{node} is a member again, under its old name and addresses"));
    Ok(())
}

/// Starts a node as if its WireGuard key were `days` old: it was off meanwhile, or simply forgot to change it.
pub(super) async fn age(lab: &Lab, node: &str, days: u32, progress: &Progress) -> Result<(), LabError> {
    let node = lab.node(node);
    let before = node.status().await?;
    if before.network.is_none() {
        return Err(LabError::Failed {
            what: format!("age {}", node.name()),
            cause: "its daemon has a list of peers, and keys of lists do not change".to_owned(),
        });
    }
    kill(&node).await?;
    // What it said before is not what it says now.
    node.run(["rm", "-f", "/var/run/ichor/status.json"]).await?;
    node.age(Duration::from_secs(u64::from(days) * 24 * 3600)).await?;
    node.start().await?;
    let limit = ichord::config::MeshConfig::DEFAULT_KEY_DAYS;
    let changes = days >= u32::from(limit);
    let status = node
        .until_status("to have a key", |status| {
            status.public_key.is_some() && (status.public_key != before.public_key) == changes
        })
        .await?;
    let key = status.public_key.unwrap_or_default();
    progress.tell(&match changes {
        true => format!("{} has another key, {key}: the old one was {days} days old", node.name()),
        false => format!("{} keeps its key, {key}: it changes after {limit} days", node.name()),
    });
    Ok(())
}

/// Kills the ichord of a node, if it runs.
async fn kill(node: &Node) -> Result<(), LabError> {
    if node.view().await?.pid.is_some() { node.kill().await } else { Ok(()) }
}
