//! Ensure-style edits on generated configs: what one run does, a second one finds done.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fmt::Write as _;

use ichor_tests::config_gen::Generator;
use ichor_tests::pairs::write_stream;
use ichor_tests::random::Random;
use ichor_tests::yaml_model::Yaml;
use ichorctl::machine::{DocumentId, MachineConfig};
use ichorctl::patch::TalosLine;
use ichorctl::patch::ensure::{Edit, Place, Setting, Wish, apply_edits};

const CONFIGS: usize = 200;

/// Wishes as the planner has them, in places of their own so that none undoes another.
fn edits(random: &mut Random) -> Vec<Edit> {
    let legacy = DocumentId::legacy();
    let text =
        |random: &mut Random| *random.pick(&["10.0.0.0/8", "off", "a: b", "x\ny\n", "1.10", "# no", ""]);
    let mut wishes = vec![
        (
            legacy.clone(),
            Wish::Is(Place::at("machine.kubelet.nodeIP.validSubnets"), Setting::texts([text(random)])),
        ),
        (
            legacy.clone(),
            Wish::Contains(Place::at("cluster.etcd.advertisedSubnets"), vec![Setting::text(text(random))]),
        ),
        (legacy.clone(), Wish::Is(Place::at("machine.nodeLabels").key("a.b/c"), Setting::text(text(random)))),
        (
            legacy.clone(),
            Wish::Contains(
                Place::at("machine.network.interfaces").item("interface", "ichor0").key("routes"),
                vec![Setting::map([
                    ("network", Setting::text("10.9.0.0/16")),
                    ("metric", Setting::Int(2048)),
                ])],
            ),
        ),
        (legacy.clone(), Wish::Absent(Place::at("machine.certSANs"))),
        (legacy, Wish::Absent(Place::at("cluster.network.cni.name"))),
        (
            DocumentId::new("ExtensionServiceConfig", "ichor"),
            Wish::DocumentIs(vec![(
                "configFiles".into(),
                Setting::List(vec![Setting::map([
                    ("content", Setting::text(text(random))),
                    ("mountPath", Setting::text("/etc/ichor.yaml")),
                ])]),
            )]),
        ),
        (
            DocumentId::new("HostnameConfig", ""),
            Wish::DocumentHas(vec![("auto".into(), Setting::text("off"))]),
        ),
        (DocumentId::new("LinkConfig", "a"), Wish::DocumentAbsent),
    ];
    let mut edits = Vec::new();
    while !wishes.is_empty() {
        let (document, wish) = wishes.swap_remove(random.below(wishes.len()));
        if random.chance(1, 2) {
            edits.push(Edit { document, wish, reason: "test".into() });
        }
    }
    edits
}

fn config(line: TalosLine, random: &mut Random) -> String {
    let mut generator = Generator::new(line, random);
    let kinds = generator.kinds();
    let mut documents = vec![generator.document("v1alpha1", "")];
    for name in ["a", "b"] {
        let kind = *generator.random.pick(&kinds);
        documents.push(generator.document(kind, name));
    }
    // What no line knows.
    documents.push(Yaml::map([("apiVersion", Yaml::str("v9")), ("kind", Yaml::str("FutureConfig"))]));
    let mut text = String::new();
    if generator.random.chance(1, 2) {
        let _ = writeln!(text, "# a comment in front");
    }
    text.push_str(&write_stream(&documents, generator.random));
    if generator.random.chance(1, 6) {
        text.truncate(text.trim_end().len());
    }
    text
}

/// The documents that no edit is about, as they are written.
fn others(text: &str, edits: &[Edit], line: TalosLine) -> Vec<String> {
    let config = MachineConfig::parse(text.as_bytes(), line.dialect()).unwrap();
    let other = config.parts().iter().filter(|part| edits.iter().all(|edit| edit.document != part.id));
    other.map(|part| text[part.span.clone()].trim_end().to_owned()).filter(|text| !text.is_empty()).collect()
}

#[test]
fn a_second_run_changes_nothing_and_other_documents_keep_their_bytes() {
    for line in TalosLine::ALL {
        let mut random = Random::new(7);
        let (mut done, mut refused) = (0, 0);
        for number in 0..CONFIGS {
            let text = config(line, &mut random);
            let edits = edits(&mut random);
            let Ok(once) = apply_edits(&text, &edits, line) else {
                refused += 1;
                continue;
            };
            let twice = apply_edits(&once.text, &edits, line).unwrap();
            assert_eq!(once.text, twice.text, "{line} {number} {edits:?} of\n{text}");
            assert!(twice.added.is_empty() && twice.removed.is_empty(), "{line} {number}");
            let (before, after) = (others(&text, &edits, line), others(&once.text, &edits, line));
            assert_eq!(before, after, "{line} {number} {edits:?}");
            // Line endings are those of the file.
            if text.contains("\r\n") && !text.replace("\r\n", "").contains('\n') {
                assert!(!once.text.replace("\r\n", "").contains('\n'), "{line} {number}: {:?}", once.text);
            }
            done += 1;
        }
        // A value may be in the way, such as a list where a mapping is wished for.
        assert!(done > CONFIGS * 3 / 4, "{line}: {done} done, {refused} refused");
    }
}
