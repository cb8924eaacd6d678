//! `schematic`: of files, and of a node's image.

use crate::cluster::Cluster;

const KIND: &str = "ExtensionStatuses.runtime.talos.dev";
/// The id of the schematic without anything (Talos image factory).
const EMPTY: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";

#[tokio::test]
async fn a_schematic_is_made_and_hashed_from_files() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    std::fs::write(cluster.path("empty.yaml"), "customization: {}\n").unwrap();
    let id = cluster.run(&["schematic", "id", "empty.yaml"]).await;
    assert_eq!((id.code, id.stdout.trim()), (Some(0), EMPTY), "{id:?}");

    let made =
        cluster.run(&["schematic", "create", "--extension", "siderolabs/iscsi-tools", "--ichor"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    std::fs::write(cluster.path("made.yaml"), &made.stdout).unwrap();
    let json = cluster
        .run(&["schematic", "create", "--extension", "siderolabs/iscsi-tools", "--ichor", "-o", "json"])
        .await;
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let id = cluster.run(&["schematic", "id", "made.yaml"]).await;
    assert_eq!(json["id"], id.stdout.trim());
    assert_eq!(json["schematic"], made.stdout);

    std::fs::write(cluster.path("bad.yaml"), "customisation: {}\n").unwrap();
    let bad = cluster.run(&["schematic", "id", "bad.yaml"]).await;
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(bad.stderr.contains("bad.yaml") && bad.stderr.contains("customisation"), "{bad:?}");
}

#[tokio::test]
async fn the_schematic_of_a_node_comes_from_its_image_and_ours_is_added() {
    let cluster = Cluster::new(&["10.0.0.2"]).await;
    let node = &cluster.nodes[0];
    node.set("runtime", KIND, "0", "image: 0.sqsh\nmetadata:\n    name: iscsi-tools\n    version: v0.1.6\n");
    let of = ["schematic", "of", "10.0.0.2", "+ichor"];
    let none = cluster.run(&of).await;
    assert_eq!(none.code, Some(3), "{none:?}");
    assert!(none.stderr.contains("was not made by a factory; it has iscsi-tools v0.1.6"), "{none:?}");

    let mark = |text: &str| {
        format!(
            "metadata:\n    name: schematic\n    version: {EMPTY}\n    extraInfo: {}\n",
            serde_json::json!(text)
        )
    };
    // Older factories left the text out.
    node.set("runtime", KIND, "1", &mark(""));
    let older = cluster.run(&of).await;
    assert_eq!(older.code, Some(3), "{older:?}");
    assert!(older.stderr.contains(&format!("GET /schematics/{EMPTY}")), "{older:?}");

    node.set("runtime", KIND, "1", &mark("customization: {}\n"));
    let plain = cluster.run(&of[..3]).await;
    assert_eq!(plain.code, Some(0), "{plain:?}");
    assert!(plain.stderr.contains(&format!("id: {EMPTY}")), "{plain:?}");
    let added = cluster.run(&of).await;
    assert!(
        added.stdout.contains("ichor") && added.stderr.contains("factory.talos.dev cannot serve"),
        "{added:?}"
    );
    assert!(!added.stderr.contains("warning"), "{added:?}");

    // Another id than that of the text is said.
    node.set("runtime", KIND, "1", &mark("customization:\n    extraKernelArgs:\n        - a=b\n"));
    let odd = cluster.run(&of).await;
    assert!(odd.stdout.contains("a=b") && odd.stderr.contains("warning"), "{odd:?}");
}
