//! One node: its configs, its power, and what goes with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ichor_proto::talos::machine as proto;
use ipnet::IpNet;
use proto::machine_status_event::{MachineStage, MachineStatus};

use super::config::{Config, ExtensionConfig, MachineType};
use super::digest;
use super::disk::Disk;
use super::event::Events;
use super::fault::Faults;
use super::image::Image;
use super::line::Line;
use super::log::Log;
use super::power::Power;
use super::recover::Upload;
use super::service::Services;
use super::store::Store;
use super::upgrade::Installation;
use super::wipe::Wiping;

/// What a node is made of.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its name: that of its machine, until a config gives it another.
    pub name: String,
    /// The Talos it runs in the beginning.
    pub line: Line,
    /// Its addresses, each with the name of its link.
    pub addresses: Vec<(String, IpNet)>,
    /// What is on its disk; without it the node waits for a config in maintenance mode.
    pub config: Option<String>,
    /// The system extensions in its image in the beginning, which are all services.
    pub extensions: Vec<String>,
    /// The id of the schematic of that image, if it comes from an Image Factory.
    pub schematic: Option<String>,
    /// How long it takes to boot.
    pub boot_time: Duration,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It starts its services.
    Booting,
    /// It writes itself to its disk.
    Installing,
    /// It waits for a config.
    Maintenance,
    /// It works.
    Running,
    /// It is about to go down and come back.
    Rebooting,
    /// It is about to go down for good.
    ShuttingDown,
    /// It wipes its disk, and goes down.
    Resetting,
    /// It writes another system to its disk, and goes down.
    Upgrading,
}

impl Stage {
    /// As resources write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Installing => "installing",
            Self::Maintenance => "maintenance",
            Self::Running => "running",
            Self::Rebooting => "rebooting",
            Self::ShuttingDown => "shutting down",
            Self::Resetting => "resetting",
            Self::Upgrading => "upgrading",
        }
    }

    pub(crate) const fn number(self) -> MachineStage {
        match self {
            Self::Booting => MachineStage::Booting,
            Self::Installing => MachineStage::Installing,
            Self::Maintenance => MachineStage::Maintenance,
            Self::Running => MachineStage::Running,
            Self::Rebooting => MachineStage::Rebooting,
            Self::ShuttingDown => MachineStage::ShuttingDown,
            Self::Resetting => MachineStage::Resetting,
            Self::Upgrading => MachineStage::Upgrading,
        }
    }
}

/// What of the API a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Nobody answers.
    Down,
    /// Anybody may come, and may do little.
    Maintenance,
    /// Clients with a certificate of the cluster.
    Running,
}

/// A try that is pending.
#[derive(Debug, Clone)]
pub(crate) struct Revert {
    pub(crate) at: Duration,
    pub(crate) to: Config,
}

/// What happens to a node that the world around it must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    Run { service: String, config: ExtensionConfig },
    Stop { service: String },
}

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) spec: NodeSpec,
    pub(crate) active: Option<Config>,
    pub(crate) persistent: Option<Config>,
    pub(crate) revert: Option<Revert>,
    pub(crate) stage: Stage,
    pub(super) power: Power,
    pub(super) disk: Disk,
    /// The META partition.
    pub(super) meta: BTreeMap<u8, String>,
    /// References of the images that are on its disk.
    pub(super) pulled: BTreeSet<String>,
    /// The installer that runs beside everything else, or ran last.
    pub(super) installation: Option<Installation>,
    /// What is lost when it goes down.
    pub(super) wiping: Option<Wiping>,
    /// Whether the data of its etcd was lost since somebody asked.
    pub(super) lost_data: bool,
    /// What its next boot finds on its disk in place of its config.
    pub(super) torn: Option<Config>,
    /// What was uploaded for recovery.
    pub(super) uploaded: Option<Upload>,
    pub(super) faults: Faults,
    /// Whether an apply has started a reboot.
    pub(crate) reboots_by_apply: bool,
    /// Whether it was running and ready in this boot.
    pub(super) was_ready: bool,
    pub(super) boots: u64,
    pub(super) booted_at: Duration,
    /// When its etcd can start.
    pub(super) etcd_from: Duration,
    /// When it was looked at last.
    pub(super) seen: Duration,
    pub(crate) resources: Store,
    pub(crate) services: Services,
    pub(crate) events: Events,
    pub(crate) dmesg: Log,
    pub(crate) jobs: Vec<Job>,
    /// The configs of extension services.
    pub(super) told: BTreeMap<String, Told>,
}

/// The config of an extension service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    config: ExtensionConfig,
    /// Whether the container was started since. A running service is not restarted for its first document, and its
    /// container has no such mount (Talos: the first version of a config is taken for the one that the service waits for).
    is_mounted: bool,
}

impl Node {
    /// A node that has just been switched on, with its config already read.
    pub(crate) fn new(spec: NodeSpec, config: Option<Config>, now: Duration) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let extensions = spec.extensions.iter().map(|name| (name.clone(), version.to_owned())).collect();
        let image = Image {
            extensions,
            schematic: spec.schematic.clone(),
            ..Image::new(format!("installer:{}", spec.line.tag()), spec.line)
        };
        let mut node = Self {
            spec,
            active: None,
            persistent: config,
            revert: None,
            stage: Stage::Booting,
            power: Power::On,
            disk: Disk::new(image),
            meta: BTreeMap::new(),
            pulled: BTreeSet::new(),
            installation: None,
            wiping: None,
            lost_data: false,
            torn: None,
            uploaded: None,
            faults: Faults::default(),
            reboots_by_apply: false,
            was_ready: false,
            boots: 0,
            booted_at: now,
            etcd_from: now,
            seen: now,
            resources: Store::default(),
            services: Services::default(),
            events: Events::default(),
            dmesg: Log::default(),
            jobs: Vec::new(),
            told: BTreeMap::new(),
        };
        // It was on for a while when the lab begins.
        node.boot(now);
        node.start_all(now);
        node
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The Talos it runs.
    pub fn line(&self) -> Line {
        self.image().line
    }

    /// What that Talos calls its version.
    pub fn tag(&self) -> &str {
        &self.image().tag
    }

    /// The image of the system that runs.
    pub fn image(&self) -> &Image {
        self.disk.running()
    }

    /// The images of the systems on its disk, the one that boots next first.
    pub fn systems(&self) -> impl Iterator<Item = &Image> {
        self.disk.systems()
    }

    /// Its META partition.
    pub fn meta(&self) -> &BTreeMap<u8, String> {
        &self.meta
    }

    /// Whether an image is on its disk.
    pub fn has_pulled(&self, image: &Image) -> bool {
        self.pulled.contains(&image.reference)
    }

    /// What of the API it has.
    pub fn api(&self) -> Api {
        match self.power {
            Power::Off { .. } => Api::Down,
            _ if self.is_in_maintenance() => Api::Maintenance,
            _ => Api::Running,
        }
    }

    /// Whether its port takes connections that nobody answers.
    pub fn is_dead(&self) -> bool {
        self.faults.dead || (self.faults.shut_out && self.active.as_ref().is_some_and(Config::blocks))
    }

    /// Whether it takes its config back by itself unless it is kept.
    pub fn is_on_trial(&self) -> bool {
        self.revert.is_some()
    }

    /// Whether a service of it runs.
    pub fn has_service(&self, id: &str) -> bool {
        self.services.is_running(id)
    }

    /// What it is doing.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What it runs with.
    pub fn active(&self) -> Option<&Config> {
        self.active.as_ref()
    }

    /// What is on its disk.
    pub fn persistent(&self) -> Option<&Config> {
        self.persistent.as_ref()
    }

    /// Its resources.
    pub fn resources(&self) -> &Store {
        &self.resources
    }

    /// Its events since it booted.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The log of its kernel.
    pub fn dmesg(&self) -> &Log {
        &self.dmesg
    }

    /// Its services.
    pub fn service_list(&self) -> Vec<proto::ServiceInfo> {
        self.services.list()
    }

    /// The ids of its logs.
    pub fn log_ids(&self) -> Vec<String> {
        self.services.logs().map(str::to_owned).collect()
    }

    /// Its addresses, each with the name of its link.
    pub fn addresses(&self) -> &[(String, IpNet)] {
        &self.spec.addresses
    }

    /// How often it booted.
    pub fn boots(&self) -> u64 {
        self.boots
    }

    /// When it booted, since 1970.
    pub fn booted_at(&self) -> Duration {
        self.booted_at
    }

    /// What kind of node it is; `None` in maintenance mode.
    pub fn machine_type(&self) -> Option<MachineType> {
        self.active.as_ref().and_then(Config::machine_type)
    }

    /// Names and addresses that the certificate of its API has.
    pub fn cert_sans(&self) -> Vec<String> {
        let addresses = self.spec.addresses.iter().map(|(_, net)| net.addr().to_string());
        let config = self.active.iter().flat_map(Config::cert_sans).map(str::to_owned);
        let own = ["127.0.0.1".to_owned(), "::1".to_owned(), self.hostname().to_owned()];
        let mut sans: Vec<String> = addresses.chain(own).chain(config).collect();
        sans.sort();
        sans.dedup();
        sans
    }

    /// Its host name.
    pub fn hostname(&self) -> &str {
        self.active.as_ref().and_then(Config::hostname).unwrap_or(&self.spec.name)
    }

    /// A number of 128 bits that is another one after each boot.
    pub fn boot_id(&self) -> String {
        uuid(&format!("boot {} {} {:?}", self.spec.name, self.boots, self.booted_at))
    }

    pub(crate) fn is_in_maintenance(&self) -> bool {
        self.machine_type().is_none()
    }

    /// Takes over a config while running.
    pub(crate) fn activate(&mut self, config: Config, now: Duration) {
        self.active = Some(config);
        self.say("machined", "[talos] machine config was updated", now);
        self.services.write("machined", "machine config was updated");
        self.tell_extensions(false);
    }

    /// Tells extension services about their configs, where those are news.
    pub(super) fn tell_extensions(&mut self, is_boot: bool) {
        let configs: BTreeMap<String, ExtensionConfig> = match &self.active {
            Some(active) => active.extensions().map(|(name, config)| (name.to_owned(), config)).collect(),
            None => BTreeMap::new(),
        };
        let names: Vec<String> = self.image().extensions.iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            let service = format!("ext-{name}");
            match configs.get(&name) {
                Some(config) if self.told.get(&service).is_none_or(|told| told.config != *config) => {
                    let is_mounted = is_boot || self.told.contains_key(&service);
                    self.told.insert(service.clone(), Told { config: config.clone(), is_mounted });
                    if is_mounted && !self.services.is_stuck(&service) {
                        self.services.write(&service, "configuration has changed");
                        self.jobs.push(Job::Run { service, config: config.clone() });
                    }
                }
                None if self.told.remove(&service).is_some() => {
                    self.services.write(&service, "configuration was removed");
                    self.jobs.push(Job::Stop { service });
                }
                _ => {}
            }
        }
    }

    /// Mounts the config of an extension service that is started again, and tells it.
    pub(crate) fn mount(&mut self, service: &str) -> Option<ExtensionConfig> {
        let told = self.told.get_mut(service)?;
        told.is_mounted = true;
        Some(told.config.clone())
    }

    /// Whether a service runs.
    pub(crate) fn runs(&self, service: &str) -> bool {
        self.services.is_running(service)
    }

    /// The config that an extension service runs with.
    pub(crate) fn mounted(&self, service: &str) -> Option<&ExtensionConfig> {
        let told = self.told.get(service).filter(|told| told.is_mounted && self.runs(service));
        told.map(|told| &told.config)
    }

    pub(crate) fn enter(&mut self, stage: Stage, now: Duration) {
        self.stage = stage;
        let status = MachineStatus { ready: self.is_ready(), unmet_conditions: self.unmet() };
        let event = proto::MachineStatusEvent { stage: stage.number().into(), status: Some(status) };
        self.events.push("MachineStatusEvent", &event, "", now);
    }

    /// Whether Talos calls it ready: everywhere but in two stages.
    pub fn is_ready(&self) -> bool {
        !matches!(self.stage, Stage::Booting | Stage::Running) || self.unmet().is_empty()
    }

    pub(crate) fn unmet(&self) -> Vec<proto::machine_status_event::machine_status::UnmetCondition> {
        let condition = |name: &str, reason: String| {
            proto::machine_status_event::machine_status::UnmetCondition { name: name.to_owned(), reason }
        };
        if self.stage == Stage::Booting {
            return vec![condition("services", "boot sequence is not finished".to_owned())];
        }
        let unwell = self.services.unwell();
        match unwell.is_empty() {
            true => Vec::new(),
            false => vec![condition("services", format!("{} not running or not healthy", unwell.join(", ")))],
        }
    }

    /// Writes to the log of the kernel.
    pub(super) fn say(&mut self, facility: &str, text: &str, now: Duration) {
        let facility = if facility == "kern" { "kern" } else { "user" };
        let stamp = time::OffsetDateTime::from_unix_timestamp_nanos(now.as_nanos() as i128).ok();
        let format = time::format_description::well_known::Rfc3339;
        let stamp = stamp.and_then(|stamp| stamp.format(&format).ok()).unwrap_or_default();
        self.dmesg.push(format!("{facility}:    info: [{stamp}]: {text}\n"));
    }
}

/// A UUID that is always the same for `seed`.
pub(crate) fn uuid(seed: &str) -> String {
    let hex: String = digest(seed)[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}
