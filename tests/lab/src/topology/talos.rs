//! The Talos of the nodes of a lab: which one each runs, and the images that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MAX;
use crate::error::LabError;
use crate::talos::model::{self, Line, SystemFault};

/// The Talos cluster that the nodes of a lab are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Talos {
    /// The version that nodes run in the beginning.
    #[serde(default)]
    pub version: Line,
    /// The version of single nodes, by their names, where it is another one.
    #[serde(default)]
    pub versions: BTreeMap<String, Line>,
    /// The id of the schematic of the image that nodes run in the beginning, if it comes from an Image Factory.
    #[serde(default)]
    pub schematic: Option<String>,
    /// The installer images that nodes can be upgraded to.
    #[serde(default)]
    pub images: Vec<TalosImage>,
    /// How many of the nodes, the first ones, are control plane nodes.
    pub control_planes: usize,
    /// How many of the nodes, the last ones, wait for a config in maintenance mode. They have no ichord before.
    #[serde(default)]
    pub new: usize,
    /// Whether the mesh comes later, by configs that are applied: then nodes start without anything of it.
    #[serde(default)]
    pub without_mesh: bool,
}

/// An installer image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TalosImage {
    /// Its name, with a tag.
    pub reference: String,
    /// The Talos in it.
    pub version: Line,
    /// The system extensions in it, with their versions. Without a word about them, `ichor`.
    #[serde(default)]
    pub extensions: Option<BTreeMap<String, String>>,
    /// The id of its schematic, if it comes from an Image Factory.
    #[serde(default)]
    pub schematic: Option<String>,
    /// What is wrong with it.
    #[serde(default)]
    pub fault: Option<TalosFault>,
}

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TalosFault {
    /// Its installer fails.
    NotInstallable,
    /// Its extensions never start, so that booting does not end.
    StuckBooting,
    /// Its kernel dies in each boot.
    BootLoop,
    /// Booting fails soon, and the node goes back to what it had.
    RollsBack,
    /// Booting takes a minute longer.
    SlowBoot,
}

impl Talos {
    /// What the node called `name` runs in the beginning.
    pub fn version_of(&self, name: &str) -> Line {
        self.versions.get(name).copied().unwrap_or(self.version)
    }

    /// The versions that nodes run in the beginning, as one says them.
    pub(crate) fn describe<'n>(&self, names: impl Iterator<Item = &'n str>) -> String {
        let lines: BTreeSet<Line> = names.map(|name| self.version_of(name)).collect();
        lines.into_iter().map(Line::tag).collect::<Vec<_>>().join(" and ")
    }

    /// Checks that what it says of nodes is about nodes that there are.
    pub(crate) fn check<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<(), LabError> {
        let names: BTreeSet<&str> = names.collect();
        if self.control_planes == 0 || self.control_planes + self.new > names.len() {
            let text = "a Talos cluster needs a control plane node, and no more than there are";
            return Err(LabError::Topology(text.to_owned()));
        }
        if let Some(unknown) = self.versions.keys().find(|name| !names.contains(name.as_str())) {
            return Err(LabError::Topology(format!(
                "talos.versions names {unknown}, and there is no such node"
            )));
        }
        let mut references = BTreeSet::new();
        match self.images.iter().find(|image| !references.insert(&image.reference)) {
            Some(twice) => Err(LabError::Topology(format!("the image {} is there twice", twice.reference))),
            None => Ok(()),
        }
    }
}

impl From<&TalosImage> for model::Image {
    fn from(image: &TalosImage) -> Self {
        let mut made = Self::new(&image.reference, image.version);
        if let Some(extensions) = &image.extensions {
            made.extensions = extensions.clone().into_iter().collect();
        }
        made.schematic.clone_from(&image.schematic);
        made.fault = image.fault.map(|fault| match fault {
            TalosFault::NotInstallable => SystemFault::NotInstallable,
            TalosFault::StuckBooting => SystemFault::StuckBooting,
            TalosFault::BootLoop => SystemFault::BootLoop,
            TalosFault::RollsBack => SystemFault::RollsBack,
            TalosFault::SlowBoot => SystemFault::SlowBoot(Duration::from_secs(60)),
        });
        made
    }
}

/// The numbers of a cluster's nodes, as `3+2` or `3+2+1`: control plane nodes, workers, and nodes without a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nodes {
    /// Control plane nodes.
    pub control_planes: usize,
    /// Workers.
    pub workers: usize,
    /// Nodes that wait for a config.
    pub new: usize,
}

impl FromStr for Nodes {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let malformed = || LabError::Topology(format!("{text:?} is not CONTROL-PLANES+WORKERS[+NEW]"));
        let numbers: Result<Vec<usize>, _> = text.split('+').map(str::parse).collect();
        let (control_planes, workers, new) = match *numbers.map_err(|_| malformed())? {
            [control_planes, workers] => (control_planes, workers, 0),
            [control_planes, workers, new] => (control_planes, workers, new),
            _ => return Err(malformed()),
        };
        if control_planes == 0 || control_planes > MAX || workers > MAX || new > MAX {
            return Err(LabError::Topology(format!("{text:?} is no cluster: it needs a control plane node")));
        }
        Ok(Self { control_planes, workers, new })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Topology;
    use super::*;

    fn topology(talos: &str) -> Topology {
        let text = format!("sites:\n  - name: home\n    nodes: [{{name: a}}, {{name: b}}]\ntalos:\n{talos}");
        yaml_serde::from_str(&text).unwrap()
    }

    #[test]
    fn nodes_can_run_different_versions_and_images_can_be_bad() {
        let topology = topology(
            "  controlPlanes: 1\n  schematic: abc\n  version: \"1.12\"\n  versions: {b: \"1.13\"}\n  images:\n    - reference: \
             x/installer:v1.13.9\n      version: \"1.13\"\n      extensions: {}\n      fault: stuckBooting\n    - \
             {reference: \"y:z\", version: \"1.14\", schematic: abc, fault: slowBoot}\n",
        );
        topology.check().unwrap();
        let talos = topology.talos.as_ref().unwrap();
        assert_eq!((talos.version_of("a"), talos.version_of("b")), (Line::V1_12, Line::V1_13));
        assert_eq!(talos.describe(["a", "b"].into_iter()), "v1.12.11 and v1.13.9");
        let images: Vec<model::Image> = talos.images.iter().map(Into::into).collect();
        assert!(images[0].extensions.is_empty() && images[0].fault == Some(SystemFault::StuckBooting));
        assert_eq!(images[1].fault, Some(SystemFault::SlowBoot(Duration::from_secs(60))));
        assert_eq!((images[1].extensions.len(), images[1].schematic.as_deref()), (1, Some("abc")));
    }

    #[test]
    fn a_version_is_that_of_a_node_and_an_image_is_there_once() {
        let unknown = topology("  controlPlanes: 1\n  versions: {c: \"1.13\"}\n").check().unwrap_err();
        assert!(unknown.to_string().contains("names c"), "{unknown}");
        let image = "    - {reference: x, version: \"1.13\"}\n";
        let twice = topology(&format!("  controlPlanes: 1\n  images:\n{image}{image}")).check().unwrap_err();
        assert!(twice.to_string().contains("twice"), "{twice}");
    }
}
