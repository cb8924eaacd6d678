//! The types of resources that a node has. Source: Talos, pkg/machinery/resources.

use super::line::Line;

/// A type of resource.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// Its full name.
    pub(crate) name: &'static str,
    pub(crate) namespace: &'static str,
    /// Names of its own, besides those made from `name`.
    pub(crate) aliases: &'static [&'static str],
    /// Only for os:admin.
    pub(crate) sensitive: bool,
    pub(crate) since: Line,
    /// What tables show: a heading, and where it is in the spec.
    pub(crate) columns: &'static [(&'static str, &'static str)],
}

const fn kind(
    name: &'static str,
    namespace: &'static str,
    columns: &'static [(&'static str, &'static str)],
) -> Kind {
    Kind { name, namespace, aliases: &[], sensitive: false, since: Line::V1_11, columns }
}

impl Kind {
    const fn alias(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    const fn sensitive(self) -> Self {
        Self { sensitive: true, ..self }
    }

    const fn since(self, since: Line) -> Self {
        Self { since, ..self }
    }

    /// The types that a node of `line` has.
    pub(crate) fn of(line: Line) -> impl Iterator<Item = &'static Self> {
        KINDS.iter().filter(move |kind| kind.since <= line)
    }

    /// The type called `name` in full; capitals do not count.
    pub(crate) fn find(name: &str, line: Line) -> Option<&'static Self> {
        Self::of(line).find(|kind| kind.name.eq_ignore_ascii_case(name))
    }

    /// Whether a node has the namespace.
    pub(crate) fn has_namespace(namespace: &str) -> bool {
        KINDS.iter().any(|kind| kind.namespace == namespace)
    }

    /// The name for tables: `Member` for `Members.cluster.talos.dev`.
    fn display(&self) -> String {
        let plural = self.name.split('.').next().unwrap_or_default();
        for (ending, singular) in [("ses", "s"), ("ies", "y"), ("s", "")] {
            if let Some(stem) = plural.strip_suffix(ending) {
                return format!("{stem}{singular}");
            }
        }
        plural.to_owned()
    }

    /// What `ResourceDefinitions.meta.cosi.dev` says about it, as YAML.
    pub(crate) fn definition(&self) -> String {
        let display = self.display();
        let plural = self.name.split('.').next().unwrap_or_default().to_lowercase();
        let mut all = vec![plural, display.to_lowercase()];
        let mut rest = self.name.to_lowercase();
        while let Some((shorter, _)) = rest.rsplit_once('.') {
            rest = shorter.to_owned();
            all.push(rest.clone());
        }
        all.extend(self.aliases.iter().map(|alias| (*alias).to_owned()));
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|alias| seen.insert(alias.clone()));
        let list = |names: &[String]| names.iter().map(|name| format!("    - {name}\n")).collect::<String>();
        let own: Vec<String> = self.aliases.iter().map(|alias| (*alias).to_owned()).collect();
        let columns: String = self
            .columns
            .iter()
            .map(|(name, path)| format!("    - name: {name}\n      jsonPath: '{{.{path}}}'\n"))
            .collect();
        let section = |key: &str, items: String| {
            if items.is_empty() { format!("{key}: []\n") } else { format!("{key}:\n{items}") }
        };
        format!(
            "type: {}\ndisplayType: {display}\ndefaultNamespace: {}\n{}{}{}sensitivity: {}\n",
            self.name,
            self.namespace,
            section("aliases", list(&own)),
            section("allAliases", list(&all)),
            section("printColumns", columns),
            if self.sensitive { "sensitive" } else { "\"\"" },
        )
    }
}

/// The type that lists the types.
pub(crate) const DEFINITIONS: &str = "ResourceDefinitions.meta.cosi.dev";

const KINDS: &[Kind] = &[
    kind("AddressStatuses.net.talos.dev", "network", &[("Address", "address"), ("Link", "linkName")])
        .alias(&["address", "addresses"]),
    kind("BootIDs.runtime.talos.dev", "runtime", &[("Boot ID", "bootID")]).since(Line::V1_14),
    kind("Diagnostics.runtime.talos.dev", "runtime", &[("Message", "message"), ("Details", "details")]),
    kind("EtcdMembers.etcd.talos.dev", "etcd", &[("Member ID", "memberID")]),
    kind(
        "EtcdSpecs.etcd.talos.dev",
        "etcd",
        &[("Name", "name"), ("AdvertisedAddresses", "advertisedAddresses")],
    ),
    kind("ExtensionServiceConfigs.runtime.talos.dev", "runtime", &[]).sensitive(),
    kind("ExtensionServiceConfigStatuses.runtime.talos.dev", "runtime", &[("Version", "specVersion")]),
    kind(
        "ExtensionStatuses.runtime.talos.dev",
        "runtime",
        &[("Name", "metadata.name"), ("Version", "metadata.version")],
    )
    .alias(&["extensions"]),
    kind(
        "HostnameStatuses.net.talos.dev",
        "network",
        &[("Hostname", "hostname"), ("Domainname", "domainname")],
    )
    .alias(&["hostname"]),
    kind("Identities.cluster.talos.dev", "cluster", &[("ID", "nodeId")]),
    kind(
        "Infos.cluster.talos.dev",
        "cluster",
        &[("Cluster ID", "clusterId"), ("Cluster Name", "clusterName")],
    ),
    kind(
        "LinkStatuses.net.talos.dev",
        "network",
        &[("Type", "type"), ("Kind", "kind"), ("Oper State", "operationalState")],
    )
    .alias(&["links"]),
    kind("MachineConfigs.config.talos.dev", "config", &[]).alias(&["mc"]).sensitive(),
    kind("MachineStatuses.runtime.talos.dev", "runtime", &[("Stage", "stage"), ("Ready", "status.ready")]),
    kind("MachineTypes.config.talos.dev", "config", &[("Type", "")]),
    kind(
        "Members.cluster.talos.dev",
        "cluster",
        &[
            ("Hostname", "hostname"),
            ("Machine Type", "machineType"),
            ("OS", "operatingSystem"),
            ("Addresses", "addresses"),
        ],
    ),
    kind("MetaKeys.runtime.talos.dev", "runtime", &[("Value", "value")]).alias(&["meta"]),
    kind("NodeAddresses.net.talos.dev", "network", &[("Addresses", "addresses")]),
    kind("NodeIPs.kubernetes.talos.dev", "k8s", &[("Addresses", "addresses")]),
    kind("Nodenames.kubernetes.talos.dev", "k8s", &[("Nodename", "nodename")]),
    kind(
        "NodeStatuses.kubernetes.talos.dev",
        "k8s",
        &[("Ready", "nodeReady"), ("Unschedulable", "unschedulable")],
    ),
    kind(
        "PlatformMetadatas.talos.dev",
        "runtime",
        &[("Platform", "platform"), ("Region", "region"), ("Zone", "zone")],
    ),
    kind(DEFINITIONS, "meta", &[("Aliases", "aliases")]).alias(&["rd", "rds"]),
    kind(
        "RouteStatuses.net.talos.dev",
        "network",
        &[("Destination", "dst"), ("Gateway", "gateway"), ("Link", "outLinkName")],
    )
    .alias(&["routes"]),
    kind("SecurityStates.talos.dev", "runtime", &[("SecureBoot", "secureBoot")]),
    kind(
        "Services.v1alpha1.talos.dev",
        "runtime",
        &[("Running", "running"), ("Healthy", "healthy"), ("Health Unknown", "unknown")],
    )
    .alias(&["svc"]),
    kind("SystemDisks.block.talos.dev", "runtime", &[("Disk", "diskID")]),
    kind("TimeStatuses.v1alpha1.talos.dev", "runtime", &[("Synced", "synced")]),
    kind("Versions.runtime.talos.dev", "runtime", &[("Version", "version")]),
    kind("VolumeStatuses.block.talos.dev", "runtime", &[("Phase", "phase"), ("Size", "prettySize")]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_known_from_the_line_that_brought_it() {
        assert!(Kind::find("bootids.runtime.talos.dev", Line::V1_13).is_none());
        assert!(Kind::find("bootids.runtime.talos.dev", Line::V1_14).is_some());
    }

    #[test]
    fn every_definition_is_yaml_with_the_name_for_tables() {
        for (name, display) in
            [("Members", "Member"), ("MachineStatuses", "MachineStatus"), ("NodeAddresses", "NodeAddress")]
        {
            let kind = KINDS.iter().find(|kind| kind.name.starts_with(&format!("{name}."))).unwrap();
            let value: yaml_serde::Value = yaml_serde::from_str(&kind.definition()).unwrap();
            assert_eq!(value["displayType"].as_str(), Some(display));
        }
        for kind in KINDS {
            let value: yaml_serde::Value = yaml_serde::from_str(&kind.definition()).unwrap();
            assert_eq!(value["type"].as_str(), Some(kind.name));
        }
    }
}
