//! The extension as Talos runs it: containerd and runc start what the image unpacks to, by its service spec, in the network
//! namespace of a host, with a read-only root, no new privileges, the default seccomp profile, a private /dev and a
//! read-only /proc/sys (Talos: internal/app/machined/pkg/system/services/extension.go, as told in the docs of Talos).
//!
//! Needs root, containerd, runc, wg, ping, and a static ichord (`make static`).

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use ichor_tests::extension::unpacked::{Unpacked, shipped};
use ichor_tests::netns::skip;
use ichor_tests::shell::{ip, output, pipe, until};
use ichorctl::extension::Machine;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Set where these tests must run.
const REQUIRE: &str = "ICHOR_REQUIRE_CONTAINER";
/// Where Talos mounts the configuration, as the ExtensionServiceConfig says.
const CONFIG: &str = "/usr/local/etc/ichor/ichord.yaml";
/// Capabilities that Talos takes from its extensions.
const WITHHELD: [&str; 2] = ["CAP_SYS_BOOT", "CAP_SYS_MODULE"];

#[test]
fn the_mesh_carries_traffic_between_containers_and_survives_the_death_of_each_process() -> Result<()> {
    let Some(extension) = ready()? else { return Ok(()) };
    let [a, b] = Host::pair(&extension)?;
    let keys = [a.key()?, b.key()?];
    a.configure(&config(1, 2, &keys[1]))?;
    b.configure(&config(2, 1, &keys[0]))?;
    a.start(&Fault::None)?;
    b.start(&Fault::None)?;
    reach(&a)?;
    let index = a.index()?;

    let parent = a.pid()?;
    let worker = a.worker(parent)?;
    kill_process(worker, Signal::KILL)?;
    until("another worker", || a.worker(parent).is_ok_and(|next| next != worker))?;
    reach(&a)?;

    kill_process(parent, Signal::KILL)?;
    until("the end of the container", || !a.is_running())?;
    ensure!(a.index()? == index, "the interface stays when the whole container dies");
    a.start(&Fault::None)?;
    reach(&a)?;
    ensure!(a.index()? == index, "and it is taken over");

    // What a restart of the service by Talos costs: stop, a new container, first packets.
    let mut pings = b.command("ping");
    pings.args(["-D", "-n", "-i", "0.01", "-w", "20", "10.98.0.1"]).stdout(Stdio::piped());
    let mut pings = pings.spawn()?;
    let mut answers = BufReader::new(pings.stdout.take().context("no pipe")?).lines();
    let mut answered = || -> Result<f64> {
        let line = answers.by_ref().map_while(Result::ok).find(|line| line.contains("bytes from"));
        let line = line.context("no answer came any more")?;
        Ok(line.trim_start_matches('[').split(']').next().unwrap_or_default().parse()?)
    };
    let first = answered()?;
    let took = a.stop()?;
    eprintln!("stopped in {} ms", took.as_millis());
    ensure!(a.index()? == index, "a stop leaves the interface");
    a.start(&Fault::None)?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let (mut last, mut pause) = (first, 0.0_f64);
    while last < started {
        let next = answered()?;
        pause = pause.max(next - last);
        last = next;
    }
    eprintln!("a restart of the service: {:.0} ms without an answer", pause * 1e3);
    pings.kill()?;
    pings.wait()?;
    Ok(())
}

#[test]
fn whatever_is_missing_is_said_in_the_status_file_and_the_container_keeps_running() -> Result<()> {
    let Some(extension) = ready()? else { return Ok(()) };
    let [host, peer] = Host::pair(&extension)?;
    let (_, good) = (host.key()?, config(1, 2, &peer.key()?));
    let cases = [
        ("no configuration", None, Fault::None, "config"),
        ("a corrupt configuration", Some("interface: [\0"), Fault::None, "config"),
        ("no /dev/net/tun", Some(&*good), Fault::NoTun, "device"),
        ("/dev/net/tun is a directory", Some(&*good), Fault::TunIsDirectory, "device"),
        ("the state directory is read-only", Some(&*good), Fault::StateReadOnly, "state"),
    ];
    for (case, config, fault, part) in cases {
        host.forget()?;
        if let Some(config) = config {
            host.configure(config)?;
        }
        host.start(&fault)?;
        let told = || host.problems().is_some_and(|parts| parts.iter().any(|found| found == part));
        let took = until("the status file", told)
            .with_context(|| format!("{case}: {:?}\n{}", host.problems(), host.log()))?;
        eprintln!("{case}: said after {} ms", took.as_millis());
        ensure!(host.is_running(), "{case}: Talos would restart it every 5 s");
        host.stop().with_context(|| case)?;
    }
    Ok(())
}

/// What is wrong with the node.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    None,
    NoTun,
    TunIsDirectory,
    StateReadOnly,
}

/// The extension made of the static programs; `None`, which is said, where something that is needed is not here.
fn ready() -> Result<Option<Arc<Unpacked>>> {
    let missing = if !rustix::process::geteuid().is_root() {
        "needs root".to_owned()
    } else if let Some(path) = Machine::ALL.map(shipped).iter().find(|path| !path.is_file()) {
        format!("no static program at {}: run `make static`", path.display())
    } else {
        let tools = [("containerd", "--version"), ("runc", "--version"), ("wg", "--version"), ("ping", "-V")];
        let absent = tools.iter().find(|(tool, flag)| output(Command::new(tool).arg(flag)).is_err());
        match absent {
            Some((tool, _)) => format!("{tool} is not installed"),
            None => return Ok(Some(Arc::new(Unpacked::of_shipped()?))),
        }
    };
    assert!(env::var_os(REQUIRE).is_none(), "{REQUIRE} is set, but: {missing}");
    skip(&missing);
    Ok(None)
}

fn config(own: u8, peer: u8, peer_key: &str) -> String {
    format!(
        "interface: ichor0\nstatic:\n  privateKeyFile: /var/lib/ichor/test.key\n  addresses: [10.98.0.{own}/24]\n  \
         peers:\n    - name: peer\n      publicKey: {peer_key}\n      endpoint: 10.99.0.{peer}:51840\n      \
         allowedIPs: [10.98.0.{peer}/32]\n"
    )
}

/// Waits until the first host reaches the second through the mesh.
fn reach(host: &Host) -> Result<()> {
    let answered = || output(host.command("ping").args(["-c", "1", "-W", "1", "-q", "10.98.0.2"])).is_ok();
    until("an answer through the mesh", answered).with_context(|| host.log())?;
    Ok(())
}

/// A host: a network namespace with a containerd of its own in it.
struct Host {
    namespace: String,
    folder: tempfile::TempDir,
    containerd: Child,
    extension: Arc<Unpacked>,
}

impl Host {
    /// Two hosts that are joined by a link.
    fn pair(extension: &Arc<Unpacked>) -> Result<[Self; 2]> {
        let pair = [Self::new("a", extension)?, Self::new("b", extension)?];
        let names = pair.each_ref().map(|host| host.namespace.clone());
        ip(&[
            "link", "add", "eth0", "netns", &names[0], "type", "veth", "peer", "name", "eth0", "netns",
            &names[1],
        ])?;
        for (name, address) in names.iter().zip(["10.99.0.1/24", "10.99.0.2/24"]) {
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "address", "add", address, "dev", "eth0"])?;
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
        }
        Ok(pair)
    }

    fn new(name: &str, extension: &Arc<Unpacked>) -> Result<Self> {
        let thread = format!("{:?}", std::thread::current().id());
        let thread: String = thread.chars().filter(char::is_ascii_digit).collect();
        let namespace = format!("ct{}t{thread}{name}", std::process::id());
        let folder = tempfile::Builder::new().prefix("ichor-container-").tempdir()?;
        let at = folder.path();
        // Only what starts a container: no registry, no snapshots, no Kubernetes.
        let settings = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.internal.v1.opt\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.aufs\", \
             \"io.containerd.snapshotter.v1.devmapper\"]\n[grpc]\naddress = {:?}\n",
            at.join("root"),
            at.join("state"),
            at.join("containerd.sock")
        );
        fs::write(at.join("containerd.toml"), settings)?;
        ip(&["netns", "add", &namespace])?;
        let log = fs::File::create(at.join("containerd.log"))?;
        // Not `ip netns exec`, which hides the control groups behind a new /sys.
        let mut containerd = Command::new("nsenter");
        containerd.arg(format!("--net=/run/netns/{namespace}")).arg("containerd").arg("-c");
        containerd.arg(at.join("containerd.toml")).stdout(log.try_clone()?).stderr(log);
        let host =
            Self { namespace, containerd: containerd.spawn()?, folder, extension: Arc::clone(extension) };
        until("containerd", || output(host.ctr().arg("version")).is_ok())?;
        Ok(host)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command in the network namespace.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program);
        command
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        // runc knows the containers of all containerds of a machine by this name and their own.
        command.arg("--address").arg(self.at("containerd.sock")).args(["--namespace", &self.namespace]);
        command
    }

    /// Makes a private key in the state directory, and gives the public one.
    fn key(&self) -> Result<String> {
        let secret = output(Command::new("wg").arg("genkey"))?;
        let path = self.source("/var/lib/ichor")?.join("test.key");
        fs::write(&path, &secret)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(pipe(Command::new("wg").arg("pubkey"), secret.as_bytes())?.trim().to_owned())
    }

    fn configure(&self, config: &str) -> Result<()> {
        Ok(fs::write(self.at("ichord.yaml"), config)?)
    }

    /// Neither configuration nor status are left.
    fn forget(&self) -> Result<()> {
        for path in [self.at("ichord.yaml"), self.source("/var/run/ichor")?.join("status.json")] {
            if path.exists() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Where the host keeps what the service spec mounts from `path`. Missing sources are made as directories.
    fn source(&self, path: &str) -> Result<PathBuf> {
        let source = self.at("host").join(path.trim_start_matches('/'));
        fs::create_dir_all(&source)?;
        Ok(source)
    }

    /// Starts the container by the service spec, with a fresh root as Talos' throw-away layer gives.
    fn start(&self, fault: &Fault) -> Result<()> {
        let root = self.at("rootfs");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        output(Command::new("cp").arg("-a").arg(self.extension.root()).arg(&root))?;
        let spec = self.extension.spec()?;
        let container = &spec["container"];
        let mut run = self.ctr();
        run.args(["run", "--detach", "--rootfs", "--read-only", "--net-host", "--seccomp"]);
        run.arg("--log-uri").arg(format!("file://{}", self.at("ichord.log").display()));
        for capability in capabilities()? {
            run.args(["--cap-add", &capability]);
        }
        for mount in container["mounts"].as_array().context("the spec has mounts")? {
            let (source, target) = (word(&mount["source"])?, word(&mount["destination"])?);
            let mut options: Vec<&str> =
                mount["options"].as_array().context("options")?.iter().flat_map(Value::as_str).collect();
            let from = match (source, fault) {
                ("/dev/net/tun", Fault::None | Fault::StateReadOnly) => PathBuf::from(source),
                ("/dev/net/tun", Fault::NoTun) => continue,
                ("/dev/net/tun", Fault::TunIsDirectory) => self.source("/dev/net/tun")?,
                ("/var/lib/ichor", Fault::StateReadOnly) => {
                    options.retain(|option| *option != "rw");
                    options.push("ro");
                    self.source(source)?
                }
                _ => self.source(source)?,
            };
            run.arg("--mount").arg(bind(&from, target, &options));
        }
        let config = self.at("ichord.yaml");
        if config.exists() {
            run.arg("--mount").arg(bind(&config, CONFIG, &["bind", "ro"]));
        }
        run.arg(&root).arg("ichor").arg(word(&container["entrypoint"])?);
        for argument in container["args"].as_array().context("args")? {
            run.arg(word(argument)?);
        }
        output(&mut run)
            .map(drop)
            .with_context(|| fs::read_to_string(self.at("containerd.log")).unwrap_or_default())
    }

    /// Stops as Talos does, and says how long that took.
    fn stop(&self) -> Result<std::time::Duration> {
        output(self.ctr().args(["task", "kill", "--signal", "SIGTERM", "ichor"]))?;
        let took = until("the end of the container", || !self.is_running())?;
        self.remove()?;
        Ok(took)
    }

    /// Whether the container runs. One that ended is removed.
    fn is_running(&self) -> bool {
        let tasks = output(self.ctr().args(["task", "ls"])).unwrap_or_default();
        if tasks.lines().any(|line| line.starts_with("ichor ") && line.contains("RUNNING")) {
            return true;
        }
        let _ = self.remove();
        false
    }

    fn remove(&self) -> Result<()> {
        if output(self.ctr().args(["task", "ls", "-q"]))?.contains("ichor") {
            output(self.ctr().args(["task", "rm", "ichor"]))?;
        }
        if output(self.ctr().args(["container", "ls", "-q"]))?.contains("ichor") {
            output(self.ctr().args(["container", "rm", "ichor"]))?;
        }
        Ok(())
    }

    /// The first process of the container, by its number outside.
    fn pid(&self) -> Result<Pid> {
        let tasks = output(self.ctr().args(["task", "ls"]))?;
        let line = tasks.lines().find(|line| line.starts_with("ichor ")).context("no task")?;
        let pid = line.split_whitespace().nth(1).and_then(|pid| pid.parse().ok());
        pid.and_then(Pid::from_raw).with_context(|| format!("no process in {line}"))
    }

    fn worker(&self, parent: Pid) -> Result<Pid> {
        let number = parent.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{number}/task/{number}/children"))?;
        let pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        pid.and_then(Pid::from_raw).context("no worker")
    }

    /// The number of the interface: another one is another interface.
    fn index(&self) -> Result<String> {
        let shown = output(self.command("cat").arg("/proc/self/net/dev_mcast"))?;
        let line = shown.lines().find(|line| line.contains(" ichor0 "));
        let listed =
            output(Command::new("ip").args(["-n", &self.namespace, "-o", "link", "show", "ichor0"]))?;
        let index = listed.split(':').next().context("no index")?.to_owned();
        ensure!(line.is_none_or(|line| line.starts_with(&index)), "two views of one interface differ");
        Ok(index)
    }

    /// The parts with problems, as an operator reads them through the Talos API.
    fn problems(&self) -> Option<Vec<String>> {
        let text = fs::read(self.source("/var/run/ichor").ok()?.join("status.json")).ok()?;
        let status: Value = serde_json::from_slice(&text).ok()?;
        let problems = status["problems"].as_array()?;
        Some(problems.iter().filter_map(|problem| problem["part"].as_str()).map(str::to_owned).collect())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("ichord.log")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = output(self.ctr().args(["task", "kill", "--signal", "SIGKILL", "ichor"]));
        let _ = until("the end of the container", || !self.is_running());
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).stderr(Stdio::null()).status();
    }
}

/// All that we may give, but not what Talos withholds.
fn capabilities() -> Result<Vec<String>> {
    const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    let status = fs::read_to_string("/proc/self/status")?;
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("no CapBnd")?;
    let bounding = u64::from_str_radix(bounding.trim(), 16)?;
    let names = NAMES.iter().enumerate().filter(|(bit, _)| bounding >> bit & 1 == 1);
    let names = names.map(|(_, name)| format!("CAP_{name}"));
    Ok(names.filter(|name| !WITHHELD.contains(&name.as_str())).collect())
}

fn bind(source: &std::path::Path, target: &str, options: &[&str]) -> String {
    format!("type=bind,src={},dst={target},options={}", source.display(), options.join(":"))
}

fn word(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}
