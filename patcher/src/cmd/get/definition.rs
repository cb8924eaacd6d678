//! Types of resources: what they are called, where they are, and what is worth showing of them.

use serde::Deserialize;

use crate::exit::UsageError;

/// A type of resource: the spec of `ResourceDefinitions.meta.cosi.dev`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Definition {
    /// The full name, as `Members.cluster.talos.dev`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The name for tables, as `Member`.
    pub(super) display_type: String,
    pub(super) default_namespace: String,
    /// Every shorter name.
    pub(super) all_aliases: Vec<String>,
    pub(super) print_columns: Vec<Column>,
}

/// A column of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) json_path: String,
}

/// The type that `name` means, without regard to case.
pub(super) fn find(definitions: Vec<Definition>, name: &str) -> Result<Definition, UsageError> {
    let is_it = |definition: &Definition| {
        definition.kind.eq_ignore_ascii_case(name)
            || definition.all_aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    };
    let (mut matching, others): (Vec<_>, Vec<_>) = definitions.into_iter().partition(is_it);
    match matching.len() {
        1 => Ok(matching.remove(0)),
        0 => Err(UsageError(match nearest(&others, name) {
            Some(nearest) => format!("there is no resource type {name:?}; did you mean {nearest:?}?"),
            None => format!("there is no resource type {name:?}; `ichorctl get rd` lists them"),
        })),
        _ => {
            let kinds: Vec<_> = matching.into_iter().map(|definition| definition.kind).collect();
            Err(UsageError(format!("resource type {name:?} may be any of {}", kinds.join(", "))))
        }
    }
}

/// The name that is written most like `name`, if one is close enough to be meant.
fn nearest<'a>(definitions: &'a [Definition], name: &str) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    let names = definitions.iter().flat_map(|definition| {
        std::iter::once(&definition.kind).chain(&definition.all_aliases).map(String::as_str)
    });
    let scored =
        names.map(|candidate| (strsim::jaro_winkler(&name, &candidate.to_ascii_lowercase()), candidate));
    let close = scored.filter(|(score, _)| *score > 0.85);
    close.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, candidate)| candidate)
}

/// Types that are known without asking, for nodes that do not list theirs. Source: Talos, pkg/machinery/resources.
pub(super) fn known() -> Vec<Definition> {
    KNOWN
        .iter()
        .map(|(kind, namespace, aliases, columns)| {
            let plural = kind.split('.').next().unwrap_or_default();
            let mut all_aliases = vec![plural.to_lowercase(), singular(plural).to_lowercase()];
            all_aliases.extend(aliases.iter().map(|alias| (*alias).to_owned()));
            let column = |(name, path): &(&str, &str)| Column {
                name: (*name).to_owned(),
                json_path: format!("{{.{path}}}"),
            };
            Definition {
                kind: (*kind).to_owned(),
                display_type: singular(plural),
                default_namespace: (*namespace).to_owned(),
                all_aliases,
                print_columns: columns.iter().map(column).collect(),
            }
        })
        .collect()
}

fn singular(plural: &str) -> String {
    let stem = plural.strip_suffix("ies").map(|stem| format!("{stem}y"));
    let stem = stem.or_else(|| plural.strip_suffix("sses").map(|stem| format!("{stem}ss")));
    let stem = stem.or_else(|| plural.strip_suffix("tuses").map(|stem| format!("{stem}tus")));
    stem.unwrap_or_else(|| plural.strip_suffix('s').unwrap_or(plural).to_owned())
}

type Known = (&'static str, &'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const KNOWN: &[Known] = &[
    (
        "AddressStatuses.net.talos.dev",
        "network",
        &["address", "addresses"],
        &[("Address", "address"), ("Link", "linkName")],
    ),
    (
        "Affiliates.cluster.talos.dev",
        "cluster",
        &[],
        &[("Hostname", "hostname"), ("Machine Type", "machineType"), ("Addresses", "addresses")],
    ),
    ("BootIDs.runtime.talos.dev", "runtime", &[], &[("Boot ID", "bootID")]),
    ("Diagnostics.runtime.talos.dev", "runtime", &[], &[("Message", "message"), ("Details", "details")]),
    ("EtcdMembers.etcd.talos.dev", "etcd", &[], &[("Member ID", "memberID")]),
    (
        "EtcdSpecs.etcd.talos.dev",
        "etcd",
        &[],
        &[("Name", "name"), ("AdvertisedAddresses", "advertisedAddresses")],
    ),
    ("ExtensionServiceConfigs.runtime.talos.dev", "runtime", &[], &[]),
    ("ExtensionServiceConfigStatuses.runtime.talos.dev", "runtime", &[], &[("Version", "specVersion")]),
    (
        "ExtensionStatuses.runtime.talos.dev",
        "runtime",
        &["extensions"],
        &[("Name", "metadata.name"), ("Version", "metadata.version")],
    ),
    (
        "HostnameStatuses.net.talos.dev",
        "network",
        &["hostname"],
        &[("Hostname", "hostname"), ("Domainname", "domainname")],
    ),
    ("Identities.cluster.talos.dev", "cluster", &[], &[("ID", "nodeId")]),
    (
        "Infos.cluster.talos.dev",
        "cluster",
        &[],
        &[("Cluster ID", "clusterId"), ("Cluster Name", "clusterName")],
    ),
    ("KernelModuleSpecs.runtime.talos.dev", "runtime", &["modules"], &[]),
    (
        "KubeSpanPeerStatuses.kubespan.talos.dev",
        "kubespan",
        &[],
        &[("Label", "label"), ("Endpoint", "endpoint"), ("State", "state")],
    ),
    (
        "LinkStatuses.net.talos.dev",
        "network",
        &["links"],
        &[("Type", "type"), ("Kind", "kind"), ("Oper State", "operationalState")],
    ),
    ("MachineConfigs.config.talos.dev", "config", &["mc"], &[]),
    ("MachineStatuses.runtime.talos.dev", "runtime", &[], &[("Stage", "stage"), ("Ready", "status.ready")]),
    ("MachineTypes.config.talos.dev", "config", &[], &[("Type", "")]),
    (
        "Members.cluster.talos.dev",
        "cluster",
        &[],
        &[
            ("Hostname", "hostname"),
            ("Machine Type", "machineType"),
            ("OS", "operatingSystem"),
            ("Addresses", "addresses"),
        ],
    ),
    ("MetaKeys.runtime.talos.dev", "runtime", &["meta"], &[("Value", "value")]),
    ("NodeAddresses.net.talos.dev", "network", &[], &[("Addresses", "addresses")]),
    ("NodeIPs.kubernetes.talos.dev", "k8s", &[], &[("Addresses", "addresses")]),
    ("Nodenames.kubernetes.talos.dev", "k8s", &[], &[("Nodename", "nodename")]),
    (
        "NodeStatuses.kubernetes.talos.dev",
        "k8s",
        &[],
        &[("Ready", "nodeReady"), ("Unschedulable", "unschedulable")],
    ),
    (
        "PlatformMetadatas.talos.dev",
        "runtime",
        &[],
        &[("Platform", "platform"), ("Region", "region"), ("Zone", "zone")],
    ),
    ("ResolverStatuses.net.talos.dev", "network", &["resolvers"], &[("Resolvers", "dnsServers")]),
    ("ResourceDefinitions.meta.cosi.dev", "meta", &["rd", "rds"], &[("Aliases", "aliases")]),
    (
        "RouteStatuses.net.talos.dev",
        "network",
        &["routes"],
        &[("Destination", "dst"), ("Gateway", "gateway"), ("Link", "outLinkName"), ("Metric", "priority")],
    ),
    ("SecurityStates.talos.dev", "runtime", &[], &[("SecureBoot", "secureBoot")]),
    (
        "Services.v1alpha1.talos.dev",
        "runtime",
        &["svc"],
        &[("Running", "running"), ("Healthy", "healthy"), ("Health Unknown", "unknown")],
    ),
    ("SystemDisks.block.talos.dev", "runtime", &[], &[("Disk", "diskID")]),
    ("TimeStatuses.v1alpha1.talos.dev", "runtime", &[], &[("Synced", "synced")]),
    ("Versions.runtime.talos.dev", "runtime", &[], &[("Version", "version")]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_name_and_alias_in_any_case() {
        let found = |name: &str| find(known(), name).map(|definition| definition.kind);
        assert_eq!(found("members").unwrap(), "Members.cluster.talos.dev");
        assert_eq!(found("MACHINESTATUS").unwrap(), "MachineStatuses.runtime.talos.dev");
        assert_eq!(found("machineconfig").unwrap(), "MachineConfigs.config.talos.dev");
        assert_eq!(found("mc").unwrap(), "MachineConfigs.config.talos.dev");
        assert_eq!(found("identity").unwrap(), "Identities.cluster.talos.dev");
        assert_eq!(found("NodeAddress").unwrap(), "NodeAddresses.net.talos.dev");
        assert_eq!(found("members.cluster.talos.dev").unwrap(), "Members.cluster.talos.dev");
    }

    #[test]
    fn a_typing_error_gets_a_suggestion() {
        let message = |name: &str| find(known(), name).unwrap_err().to_string();
        assert_eq!(message("membrs"), r#"there is no resource type "membrs"; did you mean "members"?"#);
        assert!(message("zzz").ends_with("`ichorctl get rd` lists them"));
    }

    #[test]
    fn an_ambiguous_alias_names_its_meanings() {
        let definition = |kind: &str| Definition {
            kind: kind.into(),
            all_aliases: vec!["x".into()],
            ..Definition::default()
        };
        let error = find(vec![definition("A.one"), definition("B.two")], "x").unwrap_err();
        assert_eq!(error.to_string(), r#"resource type "x" may be any of A.one, B.two"#);
    }

    #[test]
    fn a_definition_is_read_from_its_resource() {
        let yaml = "type: Members.cluster.talos.dev\ndisplayType: Member\naliases: []\nallAliases:\n    - member\n\
                    defaultNamespace: cluster\nprintColumns:\n    - name: Hostname\n      jsonPath: '{.hostname}'\n\
                    sensitivity: \"\"\n";
        let definition: Definition = yaml_serde::from_str(yaml).unwrap();
        assert_eq!(definition.all_aliases, ["member"]);
        assert_eq!(
            definition.print_columns,
            [Column { name: "Hostname".into(), json_path: "{.hostname}".into() }]
        );
    }
}
