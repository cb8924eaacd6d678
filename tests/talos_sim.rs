//! The operator's tool against simulated Talos nodes on loopback: no privileges, real TLS, real gRPC.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ichor_lab::talos::model::{Api, Cluster, ClusterSpec, Line, NodeSpec, PlainRules, Stage};
use ichor_lab::talos::{Directory, Role, Simulation};

/// How long anything may take before a test gives up.
const LIMIT: Duration = Duration::from_secs(60);
const BOOT: Duration = Duration::from_millis(400);

/// Three control plane nodes `cp-1` to `cp-3` (10.5.0.1 to 3), a worker `w-1` (10.5.0.11), and `new` (10.5.0.21),
/// which has no config yet.
struct World {
    simulation: Simulation,
    directory: tempfile::TempDir,
    addresses: Vec<(String, SocketAddr)>,
    /// Ends the servers when it goes.
    _stop: tokio::sync::oneshot::Sender<()>,
}

fn machine_config(machine_type: &str, more: &str) -> String {
    format!(
        "version: v1alpha1\nmachine:\n  type: {machine_type}\n  token: abc\n{more}cluster:\n  clusterName: lab\n"
    )
}

impl World {
    fn new(line: Line) -> Self {
        let node = |name: &str, host: u8, config: Option<String>| NodeSpec {
            name: name.to_owned(),
            line,
            addresses: vec![("eth0".to_owned(), format!("10.5.0.{host}/24").parse().expect("a prefix"))],
            config,
            extensions: vec!["ichor".to_owned()],
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
        let spec = ClusterSpec { nodes: nodes.clone(), rules: Arc::new(PlainRules) };
        let simulation = Simulation::new(spec).expect("a cluster");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, bound) = std::sync::mpsc::channel();
        let served = simulation.clone();
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
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
                ready.send(addresses).expect("the test waits");
                tokio::select! {
                    () = served.run() => {}
                    _ = stopped => {}
                }
            });
        });
        let addresses = bound.recv().expect("it serves");
        let mut directory = Directory::default();
        for ((name, address), node) in addresses.iter().zip(&nodes) {
            directory.add(name.clone(), *address);
            directory.add(node.addresses[0].1.addr().to_string(), *address);
        }
        // Somebody whom nobody reaches.
        directory.add("10.5.0.99", SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        simulation.set_directory(directory);
        let world =
            Self { simulation, directory: tempfile::tempdir().expect("a directory"), addresses, _stop: stop };
        world.write_talosconfig("config", Role::Admin, "cp-1");
        world
    }

    fn endpoint(&self, node: &str) -> String {
        let found = self.addresses.iter().find(|(name, _)| name == node);
        found.map(|(_, address)| address.to_string()).expect("a node")
    }

    fn write_talosconfig(&self, file: &str, role: Role, endpoint: &str) -> PathBuf {
        let endpoints = [self.endpoint(endpoint)];
        let text = self.simulation.talosconfig(&[role], &endpoints, &["10.5.0.1".to_owned()]).expect("made");
        let path = self.path(file);
        std::fs::write(&path, text).expect("written");
        path
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_operator"));
        command.args(arguments).env("TALOSCONFIG", self.path("config")).env("HOME", self.directory.path());
        command.env_remove("KUBECONFIG").current_dir(self.directory.path());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    /// What a command that works prints.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a command that fails says.
    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "{arguments:?} worked");
        String::from_utf8(output.stderr).expect("text")
    }

    fn follow(&self, arguments: &[&str]) -> Following {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().expect("it runs");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Following { child, lines }
    }

    /// Waits until the cluster is as `is` says.
    fn until(&self, is: impl Fn(&Cluster) -> bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let waiting = async { tokio::time::timeout(LIMIT, self.simulation.until(is)).await };
        runtime.block_on(waiting).expect("it does not become so");
    }
}

/// A command that goes on.
struct Following {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Following {
    /// Waits for a line that `is` likes.
    fn until(&self, is: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.lines.recv_timeout(LIMIT).expect("the line comes");
            if is(&line) {
                return line;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_line_tells_its_version_through_any_control_plane_node() {
    for line in Line::ALL {
        let world = World::new(line);
        let shown = world.run(&["-n", "10.5.0.1,10.5.0.3,10.5.0.11", "version"]);
        assert_eq!(shown.matches(line.tag()).count(), 3, "{shown}");
    }
}

#[test]
fn resources_are_shown_as_table_yaml_and_json() {
    let world = World::new(Line::V1_14);
    let table = world.run(&["get", "members"]);
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(&header[..5], ["NODE", "NAMESPACE", "TYPE", "ID", "VERSION"], "{table}");
    for row in ["cp-1", "cp-2", "cp-3", "w-1"] {
        assert!(table.contains(row), "{table}");
    }
    let yaml = world.run(&["get", "machinestatus", "-o", "yaml"]);
    assert!(yaml.contains("stage: running") && yaml.contains("node: 10.5.0.1"), "{yaml}");
    let json = world.run(&["-n", "w-1", "get", "nodeaddresses", "current", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("one document");
    assert_eq!(json["spec"]["addresses"][0], "10.5.0.11/24");
    let config = world.run(&["get", "mc", "v1alpha1", "-o", "yaml"]);
    assert!(config.contains("clusterName: lab"), "{config}");
}

#[test]
fn a_type_that_this_talos_does_not_have_is_named() {
    let world = World::new(Line::V1_13);
    let error = world.fail(&["get", "bootids"]);
    assert!(error.contains("bootids"), "{error}");
}

#[test]
fn a_watch_goes_on_with_what_changes() {
    let world = World::new(Line::V1_14);
    let watch = world.follow(&["get", "machinestatus", "--watch"]);
    watch.until(|line| line.contains("running"));
    world.run(&["service", "kubelet", "stop"]);
    watch.until(|line| line.contains("false"));
    world.run(&["service", "kubelet", "start"]);
    watch.until(|line| line.contains("running") && line.contains("true"));
}

#[test]
fn services_are_listed_and_only_some_can_be_restarted() {
    let world = World::new(Line::V1_12);
    let shown = world.run(&["services"]);
    for service in ["apid", "etcd", "ext-ichor", "kubelet"] {
        assert!(shown.contains(service), "{shown}");
    }
    assert!(!world.run(&["-n", "10.5.0.11", "services"]).contains("etcd"));
    world.run(&["service", "ext-ichor", "restart"]);
    assert!(
        world.fail(&["service", "etcd", "restart"]).contains("doesn't support restart operation via API")
    );
}

#[test]
fn logs_are_followed() {
    let world = World::new(Line::V1_14);
    let logs = world.follow(&["logs", "kubelet", "-f"]);
    logs.until(|line| line.contains("kubelet: started"));
    world
        .simulation
        .change(|cluster, _| cluster.write_log("cp-1", "kubelet", "a line that is new"))
        .expect("a log");
    logs.until(|line| line.contains("a line that is new"));
    assert!(world.fail(&["logs", "nobody"]).contains("log \"nobody\" was not registered"));
}

#[test]
fn the_kernel_log_files_and_events_can_be_read() {
    let world = World::new(Line::V1_13);
    assert!(world.run(&["dmesg"]).contains("booting cp-1"));
    let boot_id = world.run(&["read", "/proc/sys/kernel/random/boot_id"]);
    assert_eq!(boot_id.trim().len(), 36, "{boot_id}");
    assert!(world.fail(&["read", "/nothing"]).contains("no such file or directory"));
    let events = world.follow(&["events", "--tail", "-1"]);
    events.until(|line| line.contains("MachineStatusEvent") && line.to_lowercase().contains("running"));
}

#[test]
fn etcd_shows_its_members_and_gives_a_snapshot_that_proves_itself() {
    let world = World::new(Line::V1_14);
    let members = world.run(&["etcd", "members"]);
    assert_eq!(members.lines().filter(|line| line.contains(":2380")).count(), 3, "{members}");
    world.run(&["-n", "10.5.0.1,10.5.0.2,10.5.0.3", "etcd", "status"]);
    world.run(&["etcd", "snapshot", "db.snapshot"]);
    let file = std::fs::read(world.path("db.snapshot")).expect("it is there");
    assert_eq!(file.len() % 512, 32);
    // On a worker there is none.
    let error = world.fail(&["-n", "10.5.0.11", "etcd", "members"]);
    assert!(error.contains("is only available on control plane nodes"), "{error}");
}

#[test]
fn alarms_are_listed_and_disarmed() {
    let world = World::new(Line::V1_14);
    world.simulation.change(|cluster, _| cluster.etcd_mut().set_alarm("cp-2", Some(1)));
    assert!(world.run(&["etcd", "alarm", "list"]).contains("NOSPACE"));
    world.run(&["etcd", "alarm", "disarm"]);
    assert!(!world.run(&["etcd", "alarm", "list"]).contains("NOSPACE"));
}

#[test]
fn the_kubeconfig_of_the_cluster_is_written() {
    let world = World::new(Line::V1_14);
    world.run(&["kubeconfig", "--merge=false", "./kubeconfig"]);
    let text = std::fs::read_to_string(world.path("kubeconfig")).expect("it is there");
    assert!(text.contains("https://10.5.0.1:6443"), "{text}");
}

#[test]
fn a_healthy_cluster_is_healthy_from_either_side() {
    let world = World::new(Line::V1_14);
    world.run(&["health", "--wait-timeout", "30s"]);
    world.run(&["health", "--server=false", "--wait-timeout", "30s"]);
}

#[test]
fn a_worker_forwards_nothing() {
    let world = World::new(Line::V1_14);
    let worker = world.endpoint("w-1");
    let error = world.fail(&["-e", &worker, "-n", "10.5.0.2", "version"]);
    assert!(error.contains("no request forwarding"), "{error}");
    world.run(&["-e", &worker, "-n", "10.5.0.11", "version"]);
}

#[test]
fn a_node_that_nobody_reaches_is_named_with_what_happened() {
    let world = World::new(Line::V1_14);
    let error = world.fail(&["-n", "10.5.0.1,10.5.0.99", "version"]);
    assert!(error.contains("10.5.0.99") && error.contains("connection refused"), "{error}");
}

#[test]
fn a_reader_may_look_and_may_not_touch() {
    let world = World::new(Line::V1_14);
    let reader = world.write_talosconfig("reader", Role::Reader, "cp-1");
    let reader = reader.to_str().expect("text");
    world.run(&["--talosconfig", reader, "-n", "10.5.0.2", "services"]);
    for arguments in [
        &["read", "/etc/hostname"][..],
        &["get", "mc"],
        &["service", "kubelet", "restart"],
        &["etcd", "snapshot", "x"],
    ] {
        let arguments: Vec<&str> = ["--talosconfig", reader, "-n", "10.5.0.2"]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        let error = world.fail(&arguments);
        assert!(error.contains("not authorized"), "{arguments:?}: {error}");
    }
    assert!(!Path::new(&world.path("x")).exists());
}

#[test]
fn somebody_of_another_cluster_is_not_let_in() {
    let (world, other) = (World::new(Line::V1_14), World::new(Line::V1_14));
    let endpoint = world.endpoint("cp-1");
    let error = other.fail(&["-e", &endpoint, "version"]);
    assert!(error.contains("not signed by the CA"), "{error}");
}

#[test]
fn a_reboot_takes_the_api_away_and_brings_it_back() {
    let world = World::new(Line::V1_14);
    let read = ["-n", "10.5.0.11", "read", "/proc/sys/kernel/random/boot_id"];
    let before = world.run(&read);
    world.simulation.change(|cluster, now| cluster.leave("w-1", true, now)).expect("a node");
    let state = |api: Api| move |cluster: &Cluster| cluster.node("w-1").is_ok_and(|node| node.api() == api);
    world.until(state(Api::Down));
    world.until(|cluster| {
        cluster.node("w-1").is_ok_and(|node| node.stage() == Stage::Running && node.boots() == 2)
    });
    assert_ne!(world.run(&read), before);
}

#[test]
fn anybody_may_read_from_a_node_in_maintenance_and_pin_its_certificate() {
    let world = World::new(Line::V1_14);
    let new = world.endpoint("new");
    let get = ["-n", &new, "get", "--insecure", "machinestatus"];
    assert!(world.run(&get).contains("maintenance"));
    let fingerprint = world.simulation.fingerprint("new").expect("it showed one");
    let pinned = ["-n", &new, "get", "--insecure", "machinestatus", "--cert-fingerprint", &fingerprint];
    assert!(world.run(&pinned).contains("maintenance"));
    let wrong = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let error = world.fail(&["-n", &new, "get", "--insecure", "machinestatus", "--cert-fingerprint", wrong]);
    assert!(error.contains(&fingerprint), "{error}");
}
