//! One UDP port open to the world, everything else for mesh and LAN only.

use super::Case;
use crate::machine::DocumentId;
use crate::patch::ensure::{Edit, Setting, Wish};
use crate::ranges::DEFAULT_PODS;

/// Rules and the default action. They belong together: with the action alone nobody gets in any more.
pub(super) fn edits(case: &Case<'_>) -> Vec<Edit> {
    let mesh = &case.cluster.mesh;
    if !mesh.firewall {
        return Vec::new();
    }
    // Rules look at source addresses: neither the interface of the mesh nor the pods of the node are trusted by
    // themselves.
    let mut trusted: Vec<String> = mesh.ranges().map(|range| range.to_string()).collect();
    trusted.extend(case.lans().iter().map(ToString::to_string));
    if case.facts.pods.is_empty() {
        trusted.push(DEFAULT_PODS.to_string());
    }
    trusted.extend(case.facts.pods.iter().map(ToString::to_string));
    let world = ["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    let all = || Setting::text("1-65535");
    let port = Setting::Int(i64::from(mesh.port));
    let inside = "only the mesh, the LAN of the site and the pods may reach services of the node";
    vec![
        rule(
            "ichor-mesh",
            port,
            "udp",
            &world,
            "peers come from anywhere: the one port that is open to the world",
        ),
        rule("ichor-inside-tcp", all(), "tcp", &trusted, inside),
        rule("ichor-inside-udp", all(), "udp", &trusted, inside),
        Edit {
            document: DocumentId::new("NetworkDefaultActionConfig", ""),
            wish: Wish::DocumentHas(vec![("ingress".to_owned(), Setting::text("block"))]),
            reason: "everything that no rule allows is dropped".to_owned(),
        },
    ]
}

fn rule(name: &str, port: Setting, protocol: &str, sources: &[String], reason: &str) -> Edit {
    let source = |subnet: &String| Setting::map([("subnet", Setting::text(subnet))]);
    let selector = [("ports", Setting::List(vec![port])), ("protocol", Setting::text(protocol))];
    Edit {
        document: DocumentId::new("NetworkRuleConfig", name),
        wish: Wish::DocumentHas(vec![
            ("portSelector".to_owned(), Setting::map(selector)),
            ("ingress".to_owned(), Setting::List(sources.iter().map(source).collect())),
        ]),
        reason: reason.to_owned(),
    }
}
