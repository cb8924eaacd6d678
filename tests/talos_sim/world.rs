//! A cluster of simulated nodes, and the operator's tool run against it.

use std::io::{BufRead as _, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ichor_lab::kubernetes::Kubernetes;
use ichor_lab::talos::model::{Cluster, ClusterSpec, Config, Line, MachineType, NodeSpec};
use ichor_lab::talos::{Directory, Role, Simulation};
use ichorctl::lab::TalosRules;

/// How long anything may take before a test gives up.
const LIMIT: Duration = Duration::from_secs(60);
const BOOT: Duration = Duration::from_millis(400);

/// Three control plane nodes `cp-1` to `cp-3` (10.5.0.1 to 3), a worker `w-1` (10.5.0.11), and `new` (10.5.0.21),
/// which has no config yet.
pub(crate) struct World {
    pub(crate) simulation: Simulation,
    pub(crate) directory: tempfile::TempDir,
    addresses: Vec<(String, SocketAddr)>,
    /// Kubernetes, if the control planes serve it, and where the first does.
    kubernetes: Option<(Kubernetes, SocketAddr)>,
    /// Ends the servers when it goes.
    _stop: tokio::sync::oneshot::Sender<()>,
}

pub(crate) fn machine_config(machine_type: &str, more: &str) -> String {
    format!(
        "version: v1alpha1\nmachine:\n  type: {machine_type}\n  token: abc\n{more}cluster:\n  clusterName: lab\n"
    )
}

impl World {
    pub(crate) fn new(line: Line) -> Self {
        let node = |name: &str, host: u8, config: Option<String>| NodeSpec {
            name: name.to_owned(),
            line,
            addresses: vec![("eth0".to_owned(), format!("10.5.0.{host}/24").parse().expect("a prefix"))],
            config,
            extensions: vec!["ichor".to_owned()],
            schematic: None,
            boot_time: BOOT,
        };
        let control = || Some(machine_config("controlplane", ""));
        let nodes = vec![
            node("cp-1", 1, control()),
            node("cp-2", 2, control()),
            node("cp-3", 3, control()),
            node("w-1", 11, Some(machine_config("worker", ""))),
            node("new", 21, None),
        ];
        Self::of(nodes)
    }

    /// The same with nodes of one's own, of which the first is the endpoint.
    pub(crate) fn of(nodes: Vec<NodeSpec>) -> Self {
        Self::build(nodes, false)
    }

    /// The same with Kubernetes, which each control plane serves.
    pub(crate) fn with_kubernetes(nodes: Vec<NodeSpec>) -> Self {
        Self::build(nodes, true)
    }

    fn build(nodes: Vec<NodeSpec>, has_kubernetes: bool) -> Self {
        let first = nodes[0].name.clone();
        let spec = ClusterSpec { nodes: nodes.clone(), rules: Arc::new(TalosRules), images: Vec::new() };
        let simulation = Simulation::new(spec).expect("a cluster");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, bound) = std::sync::mpsc::channel();
        let served = simulation.clone();
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let kubernetes = has_kubernetes.then(|| Kubernetes::new(simulation.clone()));
        let served_too = kubernetes.clone();
        let is_control_plane = |name: &String| {
            let kind = simulation.look(|cluster| cluster.node(name).expect("a node").machine_type());
            kind == Some(MachineType::ControlPlane)
        };
        let control_planes: Vec<String> =
            names.iter().filter(|name| is_control_plane(name)).cloned().collect();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut addresses = Vec::new();
                for name in names {
                    let listener =
                        tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
                    addresses.push((name.clone(), listener.local_addr().expect("bound")));
                    let simulation = served.clone();
                    tokio::spawn(async move { simulation.serve(&name, listener).await });
                }
                let mut apis = Vec::new();
                if let Some(kubernetes) = served_too {
                    for name in control_planes {
                        let listener =
                            tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
                        apis.push(listener.local_addr().expect("bound"));
                        let kubernetes = kubernetes.clone();
                        tokio::spawn(async move { kubernetes.serve(&name, listener).await });
                        // The kubeconfig leads to the first.
                        tokio::task::yield_now().await;
                    }
                }
                ready.send((addresses, apis)).expect("the test waits");
                tokio::select! {
                    () = served.run() => {}
                    _ = stopped => {}
                }
            });
        });
        let (addresses, apis) = bound.recv().expect("it serves");
        let mut directory = Directory::default();
        for ((name, address), node) in addresses.iter().zip(&nodes) {
            directory.add(name.clone(), *address);
            directory.add(node.addresses[0].1.addr().to_string(), *address);
        }
        // Somebody whom nobody reaches.
        directory.add("10.5.0.99", SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        simulation.set_directory(directory);
        let directory = tempfile::tempdir().expect("a directory");
        let kubernetes = kubernetes.zip(apis.first().copied());
        let world = Self { simulation, directory, addresses, kubernetes, _stop: stop };
        world.write_talosconfig("config", Role::Admin, &first);
        world
    }

    /// Kubernetes, and where its API is.
    pub(crate) fn kubernetes(&self) -> (&Kubernetes, SocketAddr) {
        let (kubernetes, address) = self.kubernetes.as_ref().expect("a world with Kubernetes");
        (kubernetes, *address)
    }

    /// Gives a node one more address under which the others find it.
    pub(crate) fn call(&self, node: &str, address: &str) {
        let found = self.addresses.iter().find(|(name, _)| name == node).expect("a node");
        self.simulation.add_to_directory(address, found.1);
    }

    pub(crate) fn endpoint(&self, node: &str) -> String {
        let found = self.addresses.iter().find(|(name, _)| name == node);
        found.map(|(_, address)| address.to_string()).expect("a node")
    }

    pub(crate) fn write_talosconfig(&self, file: &str, role: Role, endpoint: &str) -> PathBuf {
        let endpoints = [self.endpoint(endpoint)];
        let text = self.simulation.talosconfig(&[role], &endpoints, &["10.5.0.1".to_owned()]).expect("made");
        let path = self.path(file);
        std::fs::write(&path, text).expect("written");
        path
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_operator"));
        command.args(arguments).env("TALOSCONFIG", self.path("config")).env("HOME", self.directory.path());
        command.env_remove("KUBECONFIG").current_dir(self.directory.path());
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    /// What a command that works prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a command that fails says.
    pub(crate) fn fail(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "{arguments:?} worked");
        String::from_utf8(output.stderr).expect("text")
    }

    /// A command that goes on, and what it prints.
    pub(crate) fn follow(&self, arguments: &[&str]) -> Following {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().expect("it runs");
        let stdout = child.stdout.take().expect("a pipe");
        Following { child, lines: lines(stdout) }
    }

    /// A command that goes on, and what it says about itself.
    pub(crate) fn listen(&self, arguments: &[&str]) -> Following {
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
        let stderr = child.stderr.take().expect("a pipe");
        Following { child, lines: lines(stderr) }
    }

    /// How a command that fails ends, and what it says.
    pub(crate) fn refuse(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.output(arguments);
        assert!(!output.status.success(), "{arguments:?} worked");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    }

    /// Both configs of a node: the active one, and the one on its disk.
    pub(crate) fn configs(&self, node: &str) -> (String, String) {
        self.simulation.look(|cluster| {
            let node = cluster.node(node).expect("a node");
            let text = |config: Option<&Config>| config.map(|it| it.text().to_owned()).unwrap_or_default();
            (text(node.active()), text(node.persistent()))
        })
    }

    /// What the node `new` shows on its console, as soon as it does.
    pub(crate) fn fingerprint(&self) -> String {
        self.until(|_| self.simulation.fingerprint("new").is_some());
        self.simulation.fingerprint("new").expect("it is shown")
    }

    /// Waits until the cluster is as `is` says.
    pub(crate) fn until(&self, is: impl Fn(&Cluster) -> bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let waiting = async { tokio::time::timeout(LIMIT, self.simulation.until(is)).await };
        runtime.block_on(waiting).expect("it does not become so");
    }
}

fn lines(from: impl Read + Send + 'static) -> std::sync::mpsc::Receiver<String> {
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// A command that goes on.
pub(crate) struct Following {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Following {
    /// Waits for a line that `is` likes.
    pub(crate) fn until(&self, is: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.lines.recv_timeout(LIMIT).expect("the line comes");
            if is(&line) {
                return line;
            }
        }
    }
}

impl Following {
    /// Does what Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        let id =
            i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
        rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it is there");
    }

    /// Ends it at once, as a power cut does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is there");
        self.child.wait().expect("it ends");
    }

    /// Waits for its end: the exit code, and what it said since the last line that was waited for.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            said += &line;
            said.push('\n');
        }
        (self.child.wait().expect("it ends").code(), said)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
