//! WireGuard interfaces that `wg(8)` configures, in nodes of a lab: those of other implementations, and
//! `ichord tunnel`.

use std::path::PathBuf;
use std::time::Duration;

use ichor_lab::{Addresses, Builder, Child, Family, Lab, LabError, Nat, Node, NodeSpec, Site};

/// The node with an ichord of [`pair`].
pub const OURS: &str = "ours";
/// The node without one of [`pair`].
pub const THEIRS: &str = "theirs";
/// The port of devices.
pub const PORT: u16 = 51820;
/// How long a device may take to listen to `wg(8)`.
const START_LIMIT: Duration = Duration::from_secs(30);
const KEY: &str = "/etc/wireguard/key";

/// An implementation of WireGuard in userspace.
#[derive(Debug, Clone, Copy)]
pub struct Implementation {
    /// What it is called.
    pub name: &'static str,
    /// The variable that says where it is.
    pub variable: &'static str,
    /// Whether it still sends after the address from which it sent is gone.
    pub moves: bool,
    program: &'static str,
    arguments: &'static [&'static str],
}

/// wireguard-go, as distributions name it. Debian 12 has the release of March 2022, which keeps sending from an
/// address that is gone.
pub const WIREGUARD_GO: Implementation = Implementation {
    name: "wireguard-go",
    variable: "ICHOR_WIREGUARD_GO",
    moves: false,
    program: "wireguard-go",
    arguments: &["-f"],
};
/// wireguard-go by the name that `go install golang.zx2c4.com/wireguard@latest` gives it.
pub const WIREGUARD_GO_NEWEST: Implementation = Implementation {
    name: "wireguard-go-newest",
    variable: "ICHOR_WIREGUARD_GO_NEWEST",
    moves: true,
    program: "wireguard",
    arguments: &["-f"],
};
/// boringtun-cli.
pub const BORINGTUN: Implementation = Implementation {
    name: "boringtun",
    variable: "ICHOR_BORINGTUN",
    moves: true,
    program: "boringtun-cli",
    // A connected socket keeps the address from which it sends, so this end could not roam.
    arguments: &["-f", "--disable-drop-privileges", "--disable-connected-udp"],
};
/// gotatun.
pub const GOTATUN: Implementation = Implementation {
    name: "gotatun",
    variable: "ICHOR_GOTATUN",
    moves: true,
    program: "gotatun",
    arguments: &["-f", "--disable-drop-privileges"],
};
/// All that are not ours.
pub const OTHERS: [Implementation; 4] = [WIREGUARD_GO, WIREGUARD_GO_NEWEST, BORINGTUN, GOTATUN];

impl Implementation {
    /// Where its program is.
    ///
    /// # Errors
    /// Where it was looked for.
    pub fn find(&self) -> Result<PathBuf, String> {
        if let Some(path) = std::env::var_os(self.variable).map(PathBuf::from) {
            let is = path.is_file();
            return if is { Ok(path) } else { Err(format!("{} names no file", self.variable)) };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&path).map(|folder| folder.join(self.program)).find(|path| path.is_file());
        found.ok_or_else(|| format!("there is no {} in PATH, and {} is not set", self.program, self.variable))
    }

    /// Starts it in `node`.
    ///
    /// # Errors
    /// [`LabError`] if it does not listen to `wg(8)` soon.
    pub async fn start(&self, node: &Node) -> Result<Device, LabError> {
        let program = self.find().map_err(|why| failed("find a peer", why))?;
        let mut command = vec![program.display().to_string()];
        command.extend(self.arguments.iter().map(|argument| (*argument).to_owned()));
        Device::start(node, "wg0", command).await
    }
}

/// An interface in a node.
#[derive(Debug)]
pub struct Device {
    /// Where it is.
    pub node: Node,
    /// What it is called there.
    pub interface: String,
    /// Its public key.
    pub key: String,
    /// Its addresses in the tunnel.
    pub mesh: Addresses,
    process: Child,
}

impl Device {
    /// Runs `command` with the name of an interface in `node`, which must make the interface and stay, and gives
    /// it a key, a port and addresses.
    ///
    /// # Errors
    /// [`LabError`] if it does not listen to `wg(8)` soon.
    pub async fn start(node: &Node, interface: &str, mut command: Vec<String>) -> Result<Self, LabError> {
        let make_key = format!("umask 077; mkdir -p /etc/wireguard; wg genkey | tee {KEY} | wg pubkey");
        let key = node.run(["sh", "-c", &make_key]).await?.stdout.trim().to_owned();
        command.push(interface.to_owned());
        let what = command.join(" ");
        let process = node.command(command).spawn().await?;
        let listens = async {
            // Each round starts a program, which paces it.
            while !node.command(["wg", "show", interface]).output().await?.exit.success() {}
            Ok::<(), LabError>(())
        };
        let Ok(listens) = tokio::time::timeout(START_LIMIT, listens).await else {
            return Err(failed(&format!("start `{what}`"), "it does not listen to wg(8)".to_owned()));
        };
        listens?;
        let mesh = node.view().await?.mesh;
        let device = Self { node: node.clone(), interface: interface.to_owned(), key, mesh, process };
        device.set(&["private-key", KEY, "listen-port", &PORT.to_string()]).await?;
        for address in mesh.nets() {
            let address = address.to_string();
            node.run(["ip", "address", "add", &address, "dev", interface]).await?;
        }
        node.run(["ip", "link", "set", interface, "up", "mtu", "1420"]).await?;
        Ok(device)
    }

    /// `wg set`.
    ///
    /// # Errors
    /// What `wg(8)` says.
    pub async fn set(&self, arguments: &[&str]) -> Result<(), LabError> {
        let mut command = vec!["wg", "set", &self.interface];
        command.extend(arguments);
        self.node.run(command).await.map(drop)
    }

    /// `wg show` of one column of its peer, of which there must be one.
    ///
    /// # Errors
    /// What `wg(8)` says.
    pub async fn show(&self, column: &str) -> Result<String, LabError> {
        let shown = self.node.run(["wg", "show", &self.interface, column]).await?.stdout;
        Ok(shown.trim().split_once('\t').map_or(shown.trim(), |(_, value)| value).to_owned())
    }

    /// Its process in the lab.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// A member, [`OURS`], and a node without ichord, [`THEIRS`], on sites of their own without NAT.
pub fn pair() -> Builder {
    let mut sites = [OURS, THEIRS].map(|name| {
        let mut site = Site::new(format!("at-{name}"), Nat::None);
        site.nodes.push(NodeSpec { daemon: name == OURS, ..NodeSpec::new(name) });
        site
    });
    sites[0].nodes[0].listen_port = 51840;
    let [ours, theirs] = sites;
    Lab::builder().site(ours).site(theirs).seed(1)
}

/// How the two of a [`pair`] are to know each other.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Whether we know where they are.
    pub we_know: bool,
    /// Whether they know where we are.
    pub they_know: bool,
    /// The family of the underlay.
    pub family: Family,
    /// Whether there is a preshared key.
    pub preshared: bool,
}

/// Makes our ichord and their device peers of each other.
///
/// # Errors
/// [`LabError`].
pub async fn introduce(lab: &Lab, theirs: &Device, terms: Terms) -> Result<(), LabError> {
    let (ours, us, them) = (lab.node(OURS), lab.node(OURS).view().await?, theirs.node.view().await?);
    let our_key = us.public_key.ok_or_else(|| failed("introduce a peer", "ours has no key".to_owned()))?;
    let mut config = ours.config().await?;
    config.push_str(&format!("    - name: {THEIRS}\n      publicKey: {}\n", theirs.key));
    let [to_us, to_them] = [(us.underlay, 51840), (them.underlay, PORT)]
        .map(|(address, port)| std::net::SocketAddr::new(address.ip(terms.family), port).to_string());
    let (v4, v6) = (theirs.mesh.v4.addr(), theirs.mesh.v6.addr());
    config.push_str(&format!("      allowedIPs: [{v4}/32, '{v6}/128']\n"));
    if terms.we_know {
        config.push_str(&format!("      endpoint: '{to_them}'\n"));
    }
    let allowed = format!("{}/32,{}/128", us.mesh.v4.addr(), us.mesh.v6.addr());
    let mut set = vec!["peer", &our_key, "allowed-ips", &allowed];
    if terms.they_know {
        set.extend(["endpoint", &to_us]);
    }
    if terms.preshared {
        let secret = ours.run(["wg", "genpsk"]).await?.stdout;
        ours.write("/etc/ichor/preshared", &secret).await?;
        theirs.node.write("/etc/wireguard/preshared", &secret).await?;
        config.push_str("      presharedKeyFile: /etc/ichor/preshared\n");
        set.extend(["preshared-key", "/etc/wireguard/preshared"]);
    }
    theirs.set(&set).await?;
    ours.configure(&config).await?;
    ours.until_status("a peer", |status| status.peers.iter().any(|peer| peer.public_key == theirs.key))
        .await?;
    Ok(())
}

fn failed(what: &str, cause: String) -> LabError {
    LabError::Failed { what: what.to_owned(), cause }
}
