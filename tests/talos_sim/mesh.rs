//! The mesh's config applied to nodes whose daemon runs already.

use std::fs;

use ichor_lab::talos::model::Line;

use crate::world::World;

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

/// A cluster file; `key`: of cp-1, whose peers are told.
fn cluster_file(key: &str) -> String {
    let node = |name: &str, role: &str, host: u8, more: &str| {
        format!(
            "  - {{name: {name}, role: {role}, site: a, address: 10.213.0.{host}, api: 10.5.0.{host}{more}}}\n"
        )
    };
    format!(
        "mesh: {{name: home, range: 10.213.0.0/16}}\nsites: [{{name: a, lans: [10.5.0.0/24]}}]\nnodes:\n{}{}{}{}",
        node("cp-1", "controlplane", 1, key),
        node("cp-2", "controlplane", 2, ""),
        node("cp-3", "controlplane", 3, ""),
        node("w-1", "worker", 11, "")
    )
}

#[test]
fn the_daemon_is_restarted_for_its_first_config_and_talos_does_it_for_every_other() {
    for line in [Line::V1_12, Line::V1_14] {
        let world = World::new(line);
        let apply = || {
            let output = world.output(&["apply", "--no-lock", "--soak", "300ms"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            said
        };
        fs::write(world.path("ichor.yaml"), cluster_file("")).expect("written");
        let said = apply();
        for node in ["cp-1", "cp-2", "cp-3", "w-1"] {
            assert!(
                said.contains(&format!("{node}: the daemon was restarted and has read its config")),
                "{said}"
            );
        }
        assert!(world.run(&["-n", "w-1", "read", "/var/run/ichor/status.json"]).contains("\"running\""));

        fs::write(world.path("ichor.yaml"), cluster_file(&format!(", publicKey: {KEY}"))).expect("written");
        let said = apply();
        for node in ["cp-2", "cp-3", "w-1"] {
            assert!(said.contains(&format!("{node}: the daemon has read its config")), "{said}");
        }
        assert!(!said.contains("restarted"), "{said}");
        assert!(apply().contains("nothing to do"));
    }
}
