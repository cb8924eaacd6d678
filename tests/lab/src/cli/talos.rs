//! What `ichorctl lab up` opens of simulated Talos nodes to the machine outside.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use super::Progress;
use crate::background;
use crate::error::{Attempt as _, LabError};
use crate::lab::{Asked, Lab, ask, unexpected};
use crate::protocol::{Answer, Request};
use crate::topology::{Family, Talos};

/// Opens a port on loopback for the API of each node, and writes a talosconfig and a stand-in for ssh.
pub(super) async fn open(lab: &Lab, name: &str, talos: &Talos, progress: &Progress) -> Result<(), LabError> {
    let view = lab.view().await?;
    let new = view.nodes.len() - talos.new.min(view.nodes.len());
    let (text, _) = talosconfig(lab, talos).await?;
    let directory = background::directory(name)?;
    let path = directory.join("talosconfig");
    let what = || format!("write {}", path.display());
    // It holds a key.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).attempt(what)?;
    let commands = stand_in(&directory)?;
    progress.tell(&format!("talosconfig: {}", path.display()));
    progress.tell(&format!("try `ichorctl --talosconfig {} get members`", path.display()));
    for node in &view.nodes[new..] {
        let request = Request::Fingerprint { node: node.name.clone() };
        let fingerprint = match ask(&lab.sandbox, request).await? {
            Answer::Text(text) => text,
            other => return Err(unexpected(&other)),
        };
        progress.tell(&format!(
            "{} waits for a config: PATH={}:$PATH ichorctl --via ssh://{} -n {} ... --insecure \
             --cert-fingerprint {fingerprint}",
            node.name,
            commands.display(),
            node.name,
            node.underlay.ip(Family::V4),
        ));
    }
    Ok(())
}

/// Opens a port on loopback for the API of each node, in their order, and makes an admin's talosconfig with those of the
/// control plane, which hand on to the nodes that they reach.
pub(super) async fn talosconfig(lab: &Lab, talos: &Talos) -> Result<(String, Vec<SocketAddr>), LabError> {
    let view = lab.view().await?;
    let mut ports = Vec::new();
    for node in &view.nodes {
        ports.push(forward(lab, &node.name).await?);
    }
    let endpoints = ports.iter().take(talos.control_planes).map(SocketAddr::to_string).collect();
    let first = view.nodes.first().map(|node| node.underlay.ip(Family::V4).to_string());
    let request = Request::Talosconfig { endpoints, nodes: first.into_iter().collect() };
    match ask(&lab.sandbox, request).await? {
        Answer::Text(text) => Ok((text, ports)),
        other => Err(unexpected(&other)),
    }
}

/// A port on loopback outside of the lab that leads to the API of `node`.
async fn forward(lab: &Lab, node: &str) -> Result<SocketAddr, LabError> {
    let what = || "open a port on loopback".to_owned();
    // A socket stays in the network where it was made, whoever has it.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).attempt(what)?;
    let address = listener.local_addr().attempt(what)?;
    let request = Request::Forward { node: node.to_owned() };
    match Asked::start(&lab.sandbox, request, &[listener.as_fd()]).await?.next().await? {
        Answer::Done => Ok(address),
        other => Err(unexpected(&other)),
    }
}

/// A directory with an `ssh` that is a jump host of labs.
fn stand_in(directory: &std::path::Path) -> Result<PathBuf, LabError> {
    let commands = directory.join("bin");
    let what = || format!("make {}", commands.display());
    std::fs::create_dir(&commands).attempt(what)?;
    let program = std::env::current_exe().attempt(what)?;
    std::os::unix::fs::symlink(program, commands.join(crate::dial::SSH)).attempt(what)?;
    Ok(commands)
}
