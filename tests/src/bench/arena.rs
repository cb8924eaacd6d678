//! Two namespaces, one veth pair, a daemon in each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::contender::{Contender, Manner};
use super::processes;
use crate::shell::{ip, output, pipe, until};

/// MTU of the tunnels.
const MTU: &str = "1420";

/// The two ends. All of it goes when this is dropped.
#[derive(Debug)]
pub struct Arena {
    names: [String; 2],
    folder: PathBuf,
    daemons: Vec<Child>,
    /// Where the second end is reached from the first, through the tunnel if there is one.
    pub target: &'static str,
}

impl Arena {
    /// Starts `contender` on both ends and waits until they reach each other.
    ///
    /// # Errors
    /// When a tool is missing, or the ends do not reach each other in time.
    pub fn up(contender: &Contender) -> Result<Self> {
        let id = std::process::id();
        let folder = std::env::temp_dir().join(format!("peer-bench-{id}"));
        let names = [format!("pb{id}a"), format!("pb{id}b")];
        let mut arena = Self { names, folder, daemons: Vec::new(), target: "10.99.0.2" };
        fs::create_dir_all(&arena.folder)?;
        for name in &arena.names {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        let [a, b] = arena.names.clone();
        ip(&["link", "add", "va", "netns", &a, "type", "veth", "peer", "name", "vb", "netns", &b])?;
        for (name, device, address) in [(&a, "va", "10.99.0.1/24"), (&b, "vb", "10.99.0.2/24")] {
            ip(&["-n", name, "address", "add", address, "dev", device])?;
            ip(&["-n", name, "link", "set", device, "up"])?;
        }
        let keys = [arena.key(0)?, arena.key(1)?];
        match contender.manner {
            Manner::Bare => {}
            Manner::Tunnel(arguments) => arena.tunnel(contender, arguments, &keys)?,
            Manner::Run => arena.run(contender, &keys)?,
        }
        if contender.manner != Manner::Bare {
            arena.target = "10.98.0.2";
        }
        arena.reach().with_context(|| format!("{} does not reach its peer", contender.name))?;
        Ok(arena)
    }

    /// A command in one of the two namespaces.
    pub fn command(&self, end: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[end], program]);
        command
    }

    /// All processes of both daemons.
    pub fn processes(&self) -> Vec<u32> {
        processes::tree(&self.daemons.iter().map(Child::id).collect::<Vec<_>>())
    }

    /// A private key in a file, and the public one.
    fn key(&self, end: usize) -> Result<(PathBuf, String)> {
        let secret = output(Command::new("wg").arg("genkey"))?;
        let path = self.folder.join(format!("key{end}"));
        fs::write(&path, &secret)?;
        let public = pipe(Command::new("wg").arg("pubkey"), secret.as_bytes())?.trim().to_owned();
        Ok((path, public))
    }

    fn tunnel(
        &mut self,
        contender: &Contender,
        arguments: &[&str],
        keys: &[(PathBuf, String); 2],
    ) -> Result<()> {
        for end in 0..2 {
            let device = device(end);
            let mut command = self.command(end, text(&contender.program)?);
            command.args(arguments).arg(&device);
            // boringtun-cli and gotatun refuse to start without being told that root is meant.
            command.env("WG_SUDO", "1");
            self.spawn(command, end)?;
            let answers = || output(Command::new("wg").args(["show", &device])).is_ok();
            until("its control socket", answers).with_context(|| contender.name)?;
            let (other, address) = (1 - end, ["10.98.0.1/24", "10.98.0.2/24"][end]);
            let allowed = ["10.98.0.1/32", "10.98.0.2/32"][other];
            let endpoint = ["10.99.0.1:51820", "10.99.0.2:51820"][other];
            let wg = [
                "set",
                &device,
                "listen-port",
                "51820",
                "private-key",
                text(&keys[end].0)?,
                "peer",
                &keys[other].1,
                "allowed-ips",
                allowed,
                "endpoint",
                endpoint,
            ];
            output(Command::new("wg").args(wg))?;
            let name = &self.names[end];
            ip(&["-n", name, "address", "add", address, "dev", &device])?;
            ip(&["-n", name, "link", "set", &device, "mtu", MTU, "up"])?;
        }
        Ok(())
    }

    fn run(&mut self, contender: &Contender, keys: &[(PathBuf, String); 2]) -> Result<()> {
        for end in 0..2 {
            let other = 1 - end;
            let config = self.folder.join(format!("config{end}.yaml"));
            let text_of_config = format!(
                "interface: ichor0\nstateDirectory: {state}\nstatic:\n  privateKeyFile: {key}\n  \
                 addresses: [10.98.0.{own}/24]\n  peers:\n    - name: peer\n      publicKey: {public}\n      \
                 endpoint: 10.99.0.{peer}:51840\n      allowedIPs: [10.98.0.{peer}/32]\n",
                state = self.folder.join(format!("state{end}")).display(),
                key = keys[end].0.display(),
                public = keys[other].1,
                own = end + 1,
                peer = other + 1,
            );
            fs::write(&config, text_of_config)?;
            let private_run = format!(
                "mount -t tmpfs tmpfs /run && exec {} run --config {}",
                contender.program.display(),
                config.display()
            );
            let mut command = self.command(end, "unshare");
            command.args(["-m", "sh", "-c", &private_run]);
            self.spawn(command, end)?;
        }
        Ok(())
    }

    fn spawn(&mut self, mut command: Command, end: usize) -> Result<()> {
        let log = fs::File::create(self.folder.join(format!("log{end}")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.daemons.push(command.spawn().with_context(|| format!("failed to start {command:?}"))?);
        Ok(())
    }

    fn reach(&self) -> Result<()> {
        let answered = || {
            let mut ping = self.command(0, "ping");
            ping.args(["-c", "1", "-W", "1", "-q", self.target]).stdout(Stdio::null()).stderr(Stdio::null());
            ping.status().is_ok_and(|status| status.success())
        };
        until("an answer to a ping", answered).map(drop)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        for daemon in &mut self.daemons {
            let _ = daemon.wait();
        }
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
        for end in 0..2 {
            // One that is killed leaves its socket, and the next would be taken for ready.
            let _ = fs::remove_file(format!("/var/run/wireguard/{}.sock", device(end)));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The interface of an end.
fn device(end: usize) -> String {
    format!("pb{}{end}", std::process::id() % 100_000)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}
