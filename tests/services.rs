//! What members serve on their own addresses: metrics, and the names of all.

use ichor_lab::{Family, Lab, LabError, Nat, Node, NodeSpec, Site, Topology};
use ichor_tests::netns::{in_lab, until_succeeds};

const AGENT: &str = env!("CARGO_BIN_EXE_lab-agent");
const OPERATOR: &str = env!("CARGO_BIN_EXE_operator");

/// Runs `test` with two members of one network; `more` is configured beside their membership.
fn with_members(more: &str, test: impl AsyncFnOnce(&Node, &Node) -> Result<(), LabError>) {
    let mut site = Site::new("here", Nat::None);
    site.nodes = ["a", "b"].map(NodeSpec::new).into();
    let topology = Topology { sites: vec![site], ..Topology::default() };
    in_lab(AGENT, Lab::builder().topology(topology), async |lab| {
        let [a, b] = ["a", "b"].map(|name| lab.node(name));
        let seed = format!("{}:51840", a.view().await?.underlay.ip(Family::V4));
        let operator = async |args: &[&str]| {
            let command = [&[OPERATOR], args].concat().into_iter().map(str::to_owned);
            a.command(command).env("HOME", "/run/operator").success().await
        };
        operator(&["mesh", "init", "lab", "--range", "10.213.0.0/16", "--seed", &seed]).await?;
        for node in [&a, &b] {
            let join = operator(&["token", "create", "--name", node.name()]).await?.stdout;
            node.configure(&format!("mesh:\n  join: {join}{more}")).await?;
        }
        for (node, other) in [(&a, "b"), (&b, "a")] {
            node.until_connected(&[other]).await?;
        }
        test(&a, &b).await
    });
}

#[test]
fn members_read_the_metrics_of_each_other() {
    with_members("", async |a, _b| {
        // The value of a measured round trip comes with the first look at the session.
        let of_b =
            "exec 3<>/dev/tcp/10.213.0.2/51841; printf \"GET /metrics HTTP/1.1\\r\\n\\r\\n\" >&3; cat <&3";
        let expected = [
            "^HTTP/1.1 200 OK",
            "^ichor_members 2",
            "^ichor_state\\{state=\"running\"\\} 1",
            "^ichor_peer_connected\\{peer=\"a\"\\} 1",
            "^ichor_peer_rtt_seconds\\{peer=\"a\"\\} 0\\.",
            "^# EOF",
        ];
        for line in expected {
            until_succeeds(a, &format!("bash -c '{of_b}' | grep -qE '{line}'")).await?;
        }
        let elsewhere = of_b.replace("/metrics", "/").replace("10.213.0.2", "127.0.0.1");
        until_succeeds(a, &format!("bash -c '{elsewhere}' | grep -q 404")).await
    });
}

/// A DNS question for the addresses of `name`, as octal escapes of a shell.
fn question(name: &str) -> String {
    let labels = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    let bytes = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0].into_iter().chain(labels).chain([0, 0, 1, 0, 1]);
    bytes.map(|byte| format!("\\{byte:03o}")).collect()
}

#[test]
fn members_answer_questions_about_names_if_they_are_told_to() {
    with_members("  dns:\n    zone: home.internal\n", async |a, _b| {
        let ask = |name: &str, found: &str| {
            let question = question(name);
            // The last bytes of an answer are the address.
            format!(
                "bash -c 'exec 3<>/dev/udp/10.213.0.2/53; printf \"{question}\" >&3; \
                 timeout 2 dd bs=512 count=1 <&3 2>/dev/null' | od -An -v -tu1 | tr -s ' \\n' ' ' | grep -q '{found}'"
            )
        };
        until_succeeds(a, &ask("a.home.internal", "10 213 0 1 $")).await?;
        // NXDOMAIN, and the authority of the zone.
        until_succeeds(a, &ask("c.home.internal", "^ 18 52 133 3 0 1 0 0 0 1 ")).await?;
        // Refused.
        until_succeeds(a, &ask("example.org", "^ 18 52 129 5 0 1 0 0 0 0 ")).await
    });
}

#[test]
fn without_being_told_to_no_member_answers_questions_about_names() {
    with_members("", async |a, _b| {
        let tried = a.command(["bash", "-c", "exec 3<>/dev/tcp/10.213.0.2/53"]).output().await?;
        assert!(!tried.exit.success() && tried.stderr.contains("refused"), "{}", tried.stderr);
        Ok(())
    });
}
