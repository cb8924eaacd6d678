//! A service spec: how Talos runs the container of an extension.

use super::reader::{Fields, Reader};
use super::{Fault, NAME, Rule};

/// The service that makes /var be there, and that is stopped before /var goes away.
const CRI: &str = "cri";

/// What only users set, by an ExtensionServiceConfig: of two equal keys most programs take the first one, which
/// would be the one of the spec.
const USER_VARIABLES: &[&str] = &["ICHOR_LOG"];

/// Statuses of the network that a service may wait for (Talos: nethelpers.Status).
const NETWORK: &[&str] = &["addresses", "connectivity", "etcfiles", "hostname"];

/// Below these a missing mount source can be made, or it is always there. The rest of the root is read-only: there
/// the container is never created, and Talos does not try again.
const SOURCES: &[&str] = &["/dev/", "/proc/", "/run/", "/sys/", "/usr/local/", "/var/"];

/// Sources in the read-only part that every Talos node has.
const FIXED_SOURCES: &[&str] =
    &["/dev", "/etc/machine-id", "/etc/os-release", "/etc/ssl/certs", "/proc", "/run", "/sys"];

const PROPAGATIONS: &[&str] =
    &["private", "rprivate", "rshared", "rslave", "runbindable", "shared", "slave", "unbindable"];

const MOUNT_OPTIONS: &[&str] = &[
    "bind", "nodev", "noexec", "nosuid", "private", "rbind", "ro", "rprivate", "rshared", "rslave", "rw",
    "shared", "slave",
];

/// A service spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Name; the service is `ext-<name>` and its root file system the directory of this name.
    pub name: String,
    /// Path of the program in the container.
    pub entrypoint: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, `KEY=VALUE`.
    pub environment: Vec<String>,
    /// What it sees of the node.
    pub mounts: Vec<Mount>,
    /// What Talos waits for before it starts the service.
    pub depends: Vec<Dependency>,
    /// When it is started again.
    pub restart: Option<Restart>,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Path on the node.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// Kind of the mount.
    pub kind: String,
    /// As for mount(8).
    pub options: Vec<String>,
}

/// Something to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// A Talos service that is up and healthy.
    Service(String),
    /// A path on the node that is there.
    Path(String),
    /// States of the network.
    Network(Vec<String>),
    /// A clock in step.
    Time,
    /// An ExtensionServiceConfig of this name.
    Configuration,
}

/// When a service that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Always,
    /// Never.
    Never,
    /// Until it ends with code 0.
    UntilSuccess,
}

impl ServiceSpec {
    /// Reads a spec; None when there are faults that leave nothing to go on with.
    pub fn parse(file: &str, text: &[u8]) -> (Option<Self>, Vec<Fault>) {
        let mut reader = match Reader::open(file, text) {
            Ok(reader) => reader,
            Err(fault) => return (None, vec![fault]),
        };
        let spec = read(&mut reader);
        (spec, reader.faults)
    }
}

fn read(reader: &mut Reader<'_>) -> Option<ServiceSpec> {
    let top = reader.top(&["name", "container", "depends", "restart", "logToConsole"])?;
    let name = reader.required(&top, "name");
    if let Some(name) = &name
        && !name.bytes().all(|byte| matches!(byte, b'-' | b'_' | b'a'..=b'z' | b'0'..=b'9'))
    {
        let detail = format!("{name:?} has other characters than a-z, 0-9, - and _");
        reader.fault(top.line_of(reader, "name"), Rule::Name, detail);
    }
    reader.flag(&top, "logToConsole");
    let restart = restart(reader, &top, name.as_deref());
    if top.get("container").is_none() {
        reader.fault(top.line(), Rule::MissingKey, "container is missing");
    }
    let known = ["entrypoint", "environment", "environmentFile", "args", "mounts", "security"];
    let container = reader.section(&top, "container", &known);
    let depends = depends(reader, &top);
    let mut spec = ServiceSpec {
        name: name?,
        entrypoint: String::new(),
        args: Vec::new(),
        environment: Vec::new(),
        mounts: Vec::new(),
        depends,
        restart,
    };
    if let Some(container) = &container {
        spec.entrypoint = entrypoint(reader, container);
        spec.args = reader.texts(container, "args").into_iter().map(|(text, _)| text).collect();
        spec.environment = environment(reader, container);
        spec.mounts = mounts(reader, container);
        security(reader, container);
    }
    waits_for_cri(reader, &top, &spec);
    Some(spec)
}

fn entrypoint(reader: &mut Reader<'_>, container: &Fields) -> String {
    let text = reader.required(container, "entrypoint").unwrap_or_default();
    if !text.is_empty() && !is_clean(&text) {
        let detail = format!("{text:?} is not a plain absolute path in the container");
        reader.fault(container.line_of(reader, "entrypoint"), Rule::Entrypoint, detail);
    }
    text
}

fn restart(reader: &mut Reader<'_>, top: &Fields, name: Option<&str>) -> Option<Restart> {
    let text = reader.required(top, "restart")?;
    let line = top.line_of(reader, "restart");
    // Talos takes any spelling.
    let restart = match &*text.to_ascii_lowercase() {
        "always" => Restart::Always,
        "never" => Restart::Never,
        "untilsuccess" => Restart::UntilSuccess,
        _ => {
            reader.fault(line, Rule::Restart, format!("{text:?} is none of always, never, untilSuccess"));
            return None;
        }
    };
    if name == Some(NAME) && restart != Restart::Always {
        reader.fault(
            line,
            Rule::Restart,
            format!("a mesh that ended with {text} would stay away: it is always"),
        );
    }
    Some(restart)
}

fn environment(reader: &mut Reader<'_>, container: &Fields) -> Vec<String> {
    if container.get("environmentFile").is_some() {
        let detail = "environmentFile is deprecated, and the service waits until that file is there";
        reader.fault(container.line_of(reader, "environmentFile"), Rule::Environment, detail);
    }
    let mut seen: Vec<String> = Vec::new();
    let mut environment = Vec::new();
    for (text, line) in reader.texts(container, "environment") {
        match text.split_once('=') {
            None | Some(("", _)) => {
                reader.fault(line, Rule::Environment, format!("{text:?} is not KEY=VALUE"));
            }
            Some((key, _)) if seen.iter().any(|other| other == key) => {
                reader.fault(line, Rule::Environment, format!("{key} is set twice, and the first one wins"));
            }
            Some((key, _)) if USER_VARIABLES.contains(&key) => {
                let detail = format!("{key} is for users, and they cannot change what the spec sets");
                reader.fault(line, Rule::Environment, detail);
            }
            Some((key, _)) => seen.push(key.to_owned()),
        }
        environment.push(text);
    }
    environment
}

fn mounts(reader: &mut Reader<'_>, container: &Fields) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for fields in reader.sections(container, "mounts", &["source", "destination", "type", "options"]) {
        let source = reader.required(&fields, "source").unwrap_or_default();
        let destination = reader.required(&fields, "destination").unwrap_or_default();
        let kind = reader.required(&fields, "type").unwrap_or_default();
        let options: Vec<String> =
            reader.texts(&fields, "options").into_iter().map(|(text, _)| text).collect();
        if !kind.is_empty() && kind != "bind" {
            let detail =
                format!("type {kind:?}: Talos makes a directory of every source, so only bind works");
            reader.fault(fields.line_of(reader, "type"), Rule::MountType, detail);
        }
        if let Some(problem) = source_problem(&source) {
            let detail = format!("{source:?} {problem}");
            reader.fault(fields.line_of(reader, "source"), Rule::MountSource, detail);
        }
        let line = fields.line_of(reader, "destination");
        if !destination.is_empty() && !is_clean(&destination) {
            let detail = format!("{destination:?} is not a plain absolute path in the container");
            reader.fault(line, Rule::MountDestination, detail);
        } else if mounts.iter().any(|mount| mount.destination == destination) {
            let detail = format!("something is mounted on {destination} already");
            reader.fault(line, Rule::MountDestination, detail);
        }
        if let Some(problem) = options_problem(&options) {
            reader.fault(fields.line_of(reader, "options"), Rule::MountOptions, problem);
        }
        mounts.push(Mount { source, destination, kind, options });
    }
    mounts
}

fn source_problem(source: &str) -> Option<&'static str> {
    if source.is_empty() {
        // That it is missing has been said.
        return None;
    }
    if !is_clean(source) {
        return Some("is not a plain absolute path on the node");
    }
    let is_there = FIXED_SOURCES.contains(&source) || SOURCES.iter().any(|prefix| source.starts_with(prefix));
    (!is_there).then_some("is on the read-only root of the node, where a missing source cannot be made")
}

fn options_problem(options: &[String]) -> Option<String> {
    let has = |name: &str| options.iter().any(|option| option == name);
    if let Some(unknown) = options.iter().find(|option| !MOUNT_OPTIONS.contains(&option.as_str())) {
        return Some(format!("{unknown:?} is not an option that is used here"));
    }
    if has("bind") == has("rbind") {
        return Some("it must be bind or rbind".to_owned());
    }
    (has("ro") == has("rw")).then(|| "it must say ro or rw".to_owned())
}

fn security(reader: &mut Reader<'_>, container: &Fields) {
    let known = ["writeableRootfs", "writeableSysfs", "maskedPaths", "readonlyPaths", "rootfsPropagation"];
    let Some(security) = reader.section(container, "security", &known) else { return };
    reader.flag(&security, "writeableRootfs");
    reader.flag(&security, "writeableSysfs");
    for key in ["maskedPaths", "readonlyPaths"] {
        for (path, line) in reader.texts(&security, key) {
            if !is_clean(&path) {
                reader.fault(line, Rule::Path, format!("{key}: {path:?} is not a plain absolute path"));
            }
        }
    }
    if let Some(text) = reader.text(&security, "rootfsPropagation")
        && !PROPAGATIONS.contains(&&*text)
    {
        let detail = format!("{text:?} is none of {}", PROPAGATIONS.join(", "));
        reader.fault(security.line_of(reader, "rootfsPropagation"), Rule::Propagation, detail);
    }
}

fn depends(reader: &mut Reader<'_>, top: &Fields) -> Vec<Dependency> {
    let known = ["service", "path", "network", "time", "configuration"];
    let items = reader.sections(top, "depends", &known);
    items.iter().filter_map(|item| dependency(reader, item)).collect()
}

fn dependency(reader: &mut Reader<'_>, item: &Fields) -> Option<Dependency> {
    let keys: Vec<String> = item.keys().map(str::to_owned).collect();
    let [key] = &*keys else {
        let detail = match keys.len() {
            0 => "an item names nothing to wait for".to_owned(),
            _ => format!("an item names more than one thing to wait for: {}", keys.join(", ")),
        };
        reader.fault(item.line(), Rule::Depends, detail);
        return None;
    };
    match &**key {
        "service" => reader.required(item, key).map(Dependency::Service),
        "path" => {
            let path = reader.required(item, key)?;
            if !is_clean(&path) {
                reader.fault(item.line(), Rule::Depends, format!("{path:?} is not a plain absolute path"));
            }
            Some(Dependency::Path(path))
        }
        "network" => {
            let states: Vec<String> = reader.texts(item, key).into_iter().map(|(text, _)| text).collect();
            if states.is_empty() {
                reader.fault(item.line(), Rule::Depends, "network names no state to wait for");
            }
            for state in states.iter().filter(|state| !NETWORK.contains(&&*state.to_ascii_lowercase())) {
                let detail = format!("{state:?} is no state of the network: {}", NETWORK.join(", "));
                reader.fault(item.line(), Rule::Depends, detail);
            }
            Some(Dependency::Network(states))
        }
        _ => {
            if !reader.flag(item, key) {
                reader.fault(item.line(), Rule::Depends, format!("{key} is not true, so it names nothing"));
            }
            Some(if key == "time" { Dependency::Time } else { Dependency::Configuration })
        }
    }
}

/// Whoever has a mount from /var must be stopped before it is unmounted. Our service waits for nothing else: each
/// thing that may never come is a node that reboots every 70 minutes.
fn waits_for_cri(reader: &mut Reader<'_>, top: &Fields, spec: &ServiceSpec) {
    let cri = Dependency::Service(CRI.to_owned());
    let line = top.line_of(reader, "depends");
    let from_var =
        |mount: &&Mount| mount.source.starts_with("/var/") && !mount.source.starts_with("/var/run/");
    if spec.name == NAME {
        if spec.depends != [cri] {
            let detail =
                "it must be `service: cri` and nothing else: a thing that never comes stops the boot";
            reader.fault(line, Rule::DependsOnCri, detail);
        }
    } else if let Some(mount) = spec.mounts.iter().find(from_var)
        && !spec.depends.contains(&cri)
    {
        let detail = format!("{} is on /var, so the service must depend on cri", mount.source);
        reader.fault(line, Rule::DependsOnCri, detail);
    }
}

/// Absolute, and without parts that mean another path.
fn is_clean(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| {
        rest.split('/').all(|part| !matches!(part, "" | "." | "..")) && !rest.chars().any(|c| c.is_control())
    })
}

#[cfg(test)]
mod tests {
    use super::super::SERVICE;
    use super::*;

    fn rules(text: &str) -> Vec<Rule> {
        ServiceSpec::parse("ichor.yaml", text.as_bytes()).1.into_iter().map(|fault| fault.rule).collect()
    }

    #[test]
    fn our_spec_has_no_fault_and_waits_for_cri_alone() {
        let (spec, faults) = ServiceSpec::parse("ichor.yaml", SERVICE.as_bytes());
        assert_eq!(faults, []);
        let spec = spec.unwrap();
        assert_eq!(spec.depends, [Dependency::Service("cri".into())]);
        assert_eq!((spec.restart, &*spec.name), (Some(Restart::Always), NAME));
        assert_eq!(spec.args, ["run", "--config", "/usr/local/etc/ichor/ichord.yaml"]);
        assert!(spec.mounts.iter().any(|mount| mount.source == "/var/lib/ichor"));
    }

    #[test]
    fn what_an_older_line_would_pass_over_is_unknown() {
        assert_eq!(rules(&format!("{SERVICE}runnerMode: host\n")), [Rule::UnknownKey]);
        assert_eq!(rules(&SERVICE.replace("  mounts:", "  mount:")), [Rule::UnknownKey]);
    }

    #[test]
    fn another_service_with_state_on_var_must_wait_for_cri_among_others() {
        let other = SERVICE.replace("name: ichor", "name: other");
        assert_eq!(rules(&other), []);
        assert_eq!(rules(&other.replace("- service: cri", "- network: [addresses]")), [Rule::DependsOnCri]);
        assert_eq!(rules(&other.replace("- service: cri", "- service: cri\n  - time: true")), []);
    }

    #[test]
    fn the_spelling_of_restart_is_free_as_for_talos() {
        assert_eq!(rules(&SERVICE.replace("restart: always", "restart: ALWAYS")), []);
        let other = SERVICE.replace("name: ichor", "name: other");
        assert_eq!(rules(&other.replace("restart: always", "restart: untilsuccess")), []);
    }
}
