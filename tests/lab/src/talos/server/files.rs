//! Files of a simulated node.

use std::io::Write as _;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::talos::model::{Cluster, Node};
use crate::talos::pki::{Pki, PkiError};
use crate::talos::role::Role;

/// What a file of a node says; `None` if there is no such file.
pub(super) fn read(cluster: &Cluster, node: &Node, path: &str) -> Option<Vec<u8>> {
    let text = match path {
        "/proc/sys/kernel/random/boot_id" => format!("{}\n", node.boot_id()),
        "/proc/version" => format!("Linux version 6.18.1-talos ({})\n", node.tag()),
        "/etc/hostname" => format!("{}\n", node.hostname()),
        "/etc/os-release" => {
            let tag = node.tag();
            format!("NAME=\"Talos\"\nID=talos\nVERSION_ID={tag}\nPRETTY_NAME=\"Talos ({tag})\"\n")
        }
        "/system/state/config.yaml" => node.persistent()?.text().to_owned(),
        "/var/run/ichor/status.json" => daemon_status(cluster, node)?,
        _ => node.active().and_then(|config| config.file(path))?,
    };
    Some(text.into_bytes())
}

/// What the daemon says of itself, as far as its container decides it: whether it runs, and which configuration it
/// found mounted.
fn daemon_status(cluster: &Cluster, node: &Node) -> Option<String> {
    if !node.runs("ext-ichor") {
        return None;
    }
    let files = node.mounted("ext-ichor").map(|config| &config.files[..]).unwrap_or_default();
    let status = match files.iter().find(|(path, _)| path == "/usr/local/etc/ichor/ichord.yaml") {
        Some((_, content)) => {
            let digest = ichord::status::sha256(content.as_bytes());
            let peers = peers(cluster, content);
            serde_json::json!({"state": "running", "problems": [], "configSHA256": digest, "peers": peers})
        }
        None => serde_json::json!({
            "state": "idle",
            "problems": [{"part": "config", "cause": "no such file: /usr/local/etc/ichor/ichord.yaml; waiting"}],
        }),
    };
    Some(status.to_string())
}

/// The peers in the configuration of a daemon. One whose own daemon runs with a configuration is taken for reached.
fn peers(cluster: &Cluster, config: &str) -> Vec<serde_json::Value> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Config {
        r#static: Static,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Static {
        peers: Vec<Peer>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Peer {
        name: String,
        #[serde(default, rename = "allowedIPs")]
        allowed_ips: Vec<String>,
    }
    let config: Config = yaml_serde::from_str(config).unwrap_or_default();
    let is_there = |name: &str| {
        let node = cluster.node(name).ok().filter(|node| node.is_up() && node.runs("ext-ichor"));
        node.is_some_and(|node| node.mounted("ext-ichor").is_some())
    };
    let shown = |peer: &Peer| {
        serde_json::json!({
            "name": peer.name,
            "connected": is_there(&peer.name),
            "fullSize": is_there(&peer.name),
            "allowedIPs": peer.allowed_ips,
        })
    };
    config.r#static.peers.iter().map(shown).collect()
}

/// What the admin of Kubernetes logs in with, and the CA to trust. Where nobody serves it, something that looks alike.
pub(super) fn kubernetes_user(pki: &Pki, is_served: bool) -> Result<(String, String), PkiError> {
    if !is_served {
        return Ok((String::new(), "    token: simulated\n".to_owned()));
    }
    let client = pki.client(&[Role::Admin], None)?;
    let cluster = format!("    certificate-authority-data: {}\n", STANDARD.encode(pki.ca_pem()));
    let user = format!(
        "    client-certificate-data: {}\n    client-key-data: {}\n",
        STANDARD.encode(client.pem()),
        STANDARD.encode(client.key_pem())
    );
    Ok((cluster, user))
}

/// The admin's kubeconfig as the API sends it: a compressed archive with one file.
pub(super) fn kubeconfig(
    cluster: &Cluster,
    node: &Node,
    server: Option<SocketAddr>,
    (ca, user): &(String, String),
) -> std::io::Result<Vec<u8>> {
    let control_planes = cluster.names().filter_map(|name| cluster.node(name).ok());
    let first = control_planes.flat_map(Node::addresses).map(|(_, net)| net.addr()).next();
    let host = first.map_or_else(|| node.hostname().to_owned(), |ip| ip.to_string());
    let server = server.map_or_else(|| format!("{host}:6443"), |server| server.to_string());
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: lab\n  cluster:\n    server: https://{server}\n{ca}\
         contexts:\n- name: admin@lab\n  context:\n    cluster: lab\n    namespace: default\n    user: admin@lab\n\
         current-context: admin@lab\nusers:\n- name: admin@lab\n  user:\n{user}"
    );
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(node.booted_at().as_secs());
    header.set_entry_type(tar::EntryType::Regular);
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut archive = tar::Builder::new(gzip);
    archive.append_data(&mut header, "kubeconfig", text.as_bytes())?;
    let mut gzip = archive.into_inner()?;
    gzip.flush()?;
    gzip.finish()
}
