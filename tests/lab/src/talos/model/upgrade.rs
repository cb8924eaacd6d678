//! Upgrades, of both kinds, and going back.
//!
//! Talos: internal/app/machined/internal/server/v1alpha1 (Upgrade, Rollback), internal/app/lifecycle, internal/app/images.

use std::time::Duration;

use ichor_proto::talos::machine as proto;
use proto::sequence_event::Action;
use tonic::Code;

use super::cluster::Cluster;
use super::config::MachineType;
use super::disk::UPGRADE_MARKER;
use super::image::{Failure, Image};
use super::node::{Node, Stage};
use super::power::Power;
use super::refusal::Refusal;

/// An installer that runs beside everything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Tells it from those before.
    id: u64,
    image: Image,
    /// When it is done.
    until: Duration,
    /// How it ended.
    result: Option<(i32, String)>,
}

impl Installation {
    /// Its exit code and what it printed last, once it has ended.
    pub fn result(&self) -> Option<(i32, &str)> {
        self.result.as_ref().map(|(code, text)| (*code, text.as_str()))
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.result.is_none().then_some(self.until)
    }
}

impl Node {
    /// How long an installer takes.
    fn install_time(&self) -> Duration {
        self.spec.boot_time / 4
    }

    fn install(&mut self, image: &Image) -> Result<(), Failure> {
        if let Some(failure) = image.refuses(self.line(), self.faults.new_system) {
            return Err(failure);
        }
        let before = self.disk.write(image.clone());
        self.meta.insert(UPGRADE_MARKER, before.to_owned());
        Ok(())
    }

    /// The installer with `id`, if it is the last one of this boot.
    pub fn installation(&self, id: u64) -> Option<&Installation> {
        self.installation.as_ref().filter(|it| it.id == id)
    }

    /// Ends the installer that runs beside everything else, when it is time.
    pub(super) fn finish_installation(&mut self, now: Duration) {
        let Some(mut installation) = self.installation.take() else { return };
        if installation.deadline().is_some_and(|until| until <= now) {
            installation.result = Some(match self.install(&installation.image) {
                Ok(()) => (0, "installation of the new system complete".to_owned()),
                Err(Failure { code, text }) => (code, text),
            });
        }
        self.installation = Some(installation);
    }

    /// Kills the installer that runs beside everything else.
    pub(super) fn interrupt_installation(&mut self) {
        if self.installation.take().is_some_and(|it| it.result.is_none()) {
            self.disk.spoil();
        }
    }

    fn start_upgrade(&mut self, image: Image, actor: &str, now: Duration) {
        if self.is_busy() {
            return self.refuse("upgrade", actor, now);
        }
        self.sequence("upgrade", Action::Start, actor, now);
        self.enter(Stage::Upgrading, now);
        self.stop_services(actor, now);
        for service in ["kubelet", "etcd", "cri"] {
            self.services.end(service, &mut self.events, now);
        }
        self.interrupt_installation();
        self.power = Power::Upgrading { until: now + self.install_time(), image: Box::new(image) };
    }

    /// The installer of an upgrade sequence is done.
    pub(super) fn finish_upgrade(&mut self, image: Image, now: Duration) {
        self.power = Power::On;
        match self.install(&image) {
            Ok(()) => self.leave("reboot", "", true, now),
            Err(Failure { code, text }) => {
                let text =
                    format!("task upgrade (1/1) failed: task \"upgrade\" failed: exit code {code}: {text}");
                self.fail("upgrade", "", &text, now);
            }
        }
    }
}

impl Cluster {
    /// Adds an image to the registries that the nodes reach, in place of what had its name.
    pub fn add_image(&mut self, image: Image) {
        self.images.add(image);
    }

    /// The image called `name`, by tag or by digest.
    pub fn image(&self, name: &str) -> Option<&Image> {
        self.images.find(name)
    }

    fn pullable(&self, reference: &str) -> Result<Image, Refusal> {
        let missing = || Refusal::new(Code::NotFound, format!("error pulling image: {reference}: not found"));
        self.images.find(reference).cloned().ok_or_else(missing)
    }

    /// Pulls an image to the disk of a node, and returns its name by digest.
    ///
    /// # Errors
    ///
    /// NotFound for images that are nowhere.
    pub fn pull(&mut self, node: &str, reference: &str) -> Result<String, Refusal> {
        let image = self.pullable(reference)?;
        let name = image.pinned();
        self.node_mut(node)?.pulled.insert(image.reference);
        Ok(name)
    }

    /// `MachineService.Upgrade`: looks at etcd, and starts the sequence that does all the rest. Returns the id under
    /// which the events of it speak.
    ///
    /// # Errors
    ///
    /// Those of Talos.
    pub fn upgrade(&mut self, node: &str, reference: &str, now: Duration) -> Result<String, Refusal> {
        let found = self.node(node)?;
        if !found.disk.is_installed() {
            return Err(Refusal::new(Code::FailedPrecondition, "Talos is not installed"));
        }
        let is_voter = found.machine_type() == Some(MachineType::ControlPlane);
        let image = self.pullable(reference).map_err(|refusal| {
            Refusal::plain(format!("error validating installer image {reference:?}: {}", refusal.text))
        })?;
        if is_voter {
            self.etcd().check_upgrade()?;
        }
        let actor = self.actor(node);
        self.node_mut(node)?.start_upgrade(image, &actor, now);
        self.settle(now);
        Ok(actor)
    }

    /// `LifecycleService.Upgrade`: starts an installer beside everything else, and returns its number. It looks at
    /// nothing, and nothing reboots.
    ///
    /// # Errors
    ///
    /// Those of Talos.
    pub fn lifecycle_upgrade(&mut self, node: &str, reference: &str, now: Duration) -> Result<u64, Refusal> {
        let precondition = |text: &str| Err(Refusal::new(Code::FailedPrecondition, text));
        let image = self.images.find(reference).cloned();
        self.installers += 1;
        let id = self.installers;
        let node = self.node_mut(node)?;
        if !node.line().has_lifecycle() {
            let text = "unknown service machine.LifecycleService";
            return Err(Refusal::new(Code::Unimplemented, text));
        }
        if node.installation.as_ref().is_some_and(|it| it.result.is_none()) {
            return precondition("another installation/upgrade is already in progress");
        }
        if !node.disk.is_installed() {
            return precondition("machine is not installed");
        }
        if reference.is_empty() {
            return Err(Refusal::invalid("installer image name is required"));
        }
        let Some(image) = image.filter(|image| node.has_pulled(image)) else {
            let text = format!("upgrade failed: image {reference:?}: not found");
            return Err(Refusal::new(Code::Internal, text));
        };
        let until = now + node.install_time();
        node.installation = Some(Installation { id, image, until, result: None });
        Ok(id)
    }

    /// `Rollback`: makes the other system the one that boots, and reboots.
    ///
    /// # Errors
    ///
    /// Those of Talos.
    pub fn rollback(&mut self, node: &str, now: Duration) -> Result<(), Refusal> {
        let found = self.node_mut(node)?;
        if !found.disk.is_installed() {
            return Err(Refusal::new(Code::FailedPrecondition, "system disk not found"));
        }
        if !found.disk.flip() {
            return Err(Refusal::plain("previous UKI not found"));
        }
        found.leave("rollback", "", true, now);
        self.settle(now);
        Ok(())
    }

    /// Somebody chooses the other system at the console of a machine that does not come up, and switches it on.
    ///
    /// # Errors
    ///
    /// When there is no other system.
    pub fn choose_other_system(&mut self, node: &str, now: Duration) -> Result<(), Refusal> {
        let node = self.node_mut(node)?;
        if !node.disk.flip() {
            return Err(Refusal::plain("there is no other system"));
        }
        node.power = Power::Off { until: Some(now) };
        self.tick(now);
        Ok(())
    }
}
