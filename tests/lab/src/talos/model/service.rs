//! The services of a node.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ichor_proto::talos::machine as proto;

use super::config::MachineType;
use super::event::Events;
use super::log::Log;
use super::refusal::Refusal;
use super::store::timestamp;

/// Most events that are kept of one service (Talos: internal/app/machined/pkg/system/events).
const MAX_EVENTS: usize = 64;

/// A service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) running: bool,
    /// `None` for services that nobody checks.
    pub(crate) healthy: Option<bool>,
    state: &'static str,
    events: VecDeque<(String, &'static str, Duration)>,
    changed: Duration,
}

/// All services of a node, and their logs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Services {
    services: BTreeMap<String, Service>,
    logs: BTreeMap<String, Log>,
}

/// The services of every node; `true` for those whose health is checked.
const EVERYWHERE: [(&str, bool); 7] = [
    ("apid", true),
    ("auditd", true),
    ("containerd", true),
    ("cri", true),
    ("machined", true),
    ("syslogd", true),
    ("udevd", true),
];

impl Services {
    /// Starts the services of a node of a type, and those of its extensions, unless they are `stuck`. etcd starts when
    /// there is a cluster for it.
    pub(crate) fn boot(
        &mut self,
        of: Option<MachineType>,
        extensions: &[String],
        stuck: bool,
        events: &mut Events,
        now: Duration,
    ) {
        *self = Self::default();
        let mut wanted: Vec<(String, bool)> = EVERYWHERE.map(|(id, check)| (id.to_owned(), check)).to_vec();
        if of.is_some() {
            wanted.push(("kubelet".to_owned(), true));
            wanted.extend(extensions.iter().map(|name| (format!("ext-{name}"), false)));
        }
        if of == Some(MachineType::ControlPlane) {
            wanted.extend([("etcd".to_owned(), true), ("trustd".to_owned(), true)]);
        }
        for (id, check) in wanted {
            let service = Service {
                running: false,
                healthy: check.then_some(false),
                state: "Initialized",
                events: VecDeque::new(),
                changed: now,
            };
            self.services.insert(id.clone(), service);
            self.logs.insert(id.clone(), Log::default());
            match id.as_str() {
                "etcd" => self.enter(&id, "Preparing", "Running pre state", events, now),
                extension if stuck && extension.starts_with("ext-") => {
                    self.enter(&id, "Waiting", "Waiting for a dependency", events, now);
                }
                _ => self.run(&id, events, now),
            }
        }
    }

    /// Notes whether etcd runs.
    pub(crate) fn set_etcd(&mut self, runs: bool, events: &mut Events, now: Duration) {
        match self.services.get("etcd").map(|service| service.running) {
            Some(false) if runs => self.run("etcd", events, now),
            Some(true) if !runs => self.stop("etcd", events, now),
            _ => {}
        }
    }

    /// Whether every service was up once: what booting waits for.
    pub(crate) fn have_started(&self) -> bool {
        self.services
            .values()
            .all(|service| !matches!(service.state, "Preparing" | "Waiting" | "Initialized"))
    }

    /// Stops a service that runs.
    pub(crate) fn end(&mut self, id: &str, events: &mut Events, now: Duration) {
        if self.is_running(id) {
            self.stop(id, events, now);
        }
    }

    /// What the log of a service says.
    pub(crate) fn log(&self, id: &str) -> Result<&Log, Refusal> {
        self.logs.get(id).ok_or_else(|| Refusal::plain(format!("log {id:?} was not registered")))
    }

    /// The ids of all logs.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &str> {
        self.logs.keys().map(String::as_str)
    }

    /// Adds a line to a log.
    pub(crate) fn write(&mut self, id: &str, line: &str) {
        if let Some(log) = self.logs.get_mut(id) {
            log.push(format!("{line}\n"));
        }
    }

    /// All services, by their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Service)> {
        self.services.iter().map(|(id, service)| (id.as_str(), service))
    }

    /// Whether a service runs.
    pub(crate) fn is_running(&self, id: &str) -> bool {
        self.services.get(id).is_some_and(|service| service.running)
    }

    /// Whether a service waits for something that does not come.
    pub(crate) fn is_stuck(&self, id: &str) -> bool {
        self.services.get(id).is_some_and(|service| service.state == "Waiting")
    }

    /// Those that do not run or are not well.
    pub(crate) fn unwell(&self) -> Vec<&str> {
        let unwell = |service: &Service| !service.running || service.healthy == Some(false);
        // Extension services do not count (Talos: machine status controller).
        let counts = |id: &str| !id.starts_with("ext-");
        self.iter().filter(|(id, service)| counts(id) && unwell(service)).map(|(id, _)| id).collect()
    }

    /// Starts, stops or restarts a service, as the API may: the kubelet and extensions only.
    pub(crate) fn control(
        &mut self,
        id: &str,
        verb: Verb,
        events: &mut Events,
        now: Duration,
    ) -> Result<String, Refusal> {
        let word = verb.word();
        if id != "kubelet" && !id.starts_with("ext-") {
            return Err(Refusal::plain(format!("service {id:?} doesn't support {word} operation via API")));
        }
        if !self.services.contains_key(id) {
            return Err(Refusal::plain(format!("service {id:?} not defined")));
        }
        if verb != Verb::Start {
            self.stop(id, events, now);
        }
        if verb != Verb::Stop {
            self.run(id, events, now);
        }
        Ok(format!("Service {id:?} {word}{}", if verb == Verb::Stop { "ped" } else { "ed" }))
    }

    /// Starts a service.
    pub(crate) fn run(&mut self, id: &str, events: &mut Events, now: Duration) {
        self.enter(id, "Preparing", "Running pre state", events, now);
        self.enter(id, "Running", "Started task", events, now);
        if self.services.get(id).is_some_and(|service| service.healthy.is_some()) {
            self.enter(id, "Running", "Health check successful", events, now);
        }
        self.write(id, &format!("{id}: started"));
    }

    /// Stops a service.
    pub(crate) fn stop(&mut self, id: &str, events: &mut Events, now: Duration) {
        self.write(id, &format!("{id}: received SIGTERM, stopping"));
        self.enter(id, "Stopping", "Sending SIGTERM to task", events, now);
        self.enter(id, "Finished", "Service finished successfully", events, now);
    }

    fn enter(&mut self, id: &str, state: &'static str, text: &str, events: &mut Events, now: Duration) {
        let Some(service) = self.services.get_mut(id) else { return };
        service.state = state;
        service.running = state == "Running";
        service.changed = now;
        if let Some(healthy) = &mut service.healthy {
            *healthy = text == "Health check successful";
        }
        if service.events.len() == MAX_EVENTS {
            service.events.pop_front();
        }
        service.events.push_back((text.to_owned(), state, now));
        let action = match state {
            "Preparing" => proto::service_state_event::Action::Preparing,
            "Running" => proto::service_state_event::Action::Running,
            "Stopping" => proto::service_state_event::Action::Stopping,
            "Finished" => proto::service_state_event::Action::Finished,
            "Waiting" => proto::service_state_event::Action::Waiting,
            _ => proto::service_state_event::Action::Initialized,
        };
        let event = proto::ServiceStateEvent {
            service: id.to_owned(),
            action: action.into(),
            message: text.to_owned(),
            health: Some(service.health()),
        };
        events.push("ServiceStateEvent", &event, "", now);
    }

    /// The services as the API lists them.
    pub(crate) fn list(&self) -> Vec<proto::ServiceInfo> {
        self.iter()
            .map(|(id, service)| proto::ServiceInfo {
                id: id.to_owned(),
                state: service.state.to_owned(),
                events: Some(proto::ServiceEvents {
                    events: service
                        .events
                        .iter()
                        .map(|(text, state, at)| proto::ServiceEvent {
                            msg: text.clone(),
                            state: (*state).to_owned(),
                            ts: Some(timestamp(*at)),
                        })
                        .collect(),
                }),
                health: Some(service.health()),
            })
            .collect()
    }
}

impl Service {
    fn health(&self) -> proto::ServiceHealth {
        proto::ServiceHealth {
            unknown: self.healthy.is_none(),
            healthy: self.healthy.unwrap_or(false),
            last_message: String::new(),
            last_change: Some(timestamp(self.changed)),
        }
    }
}

/// What can be done to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Stop it and start it again.
    Restart,
}

impl Verb {
    const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}
