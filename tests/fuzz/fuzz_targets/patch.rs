//! Machine configs and patches of any Talos line: loading, patching, edits and diffs.
#![no_main]

use ichorctl::machine::DocumentId;
use ichorctl::patch::ensure::{Edit, Place, Setting, Wish, apply_edits};
use ichorctl::patch::{self, PatchArg, TalosLine, conflict, diff};
use libfuzzer_sys::fuzz_target;

/// Between the config and its patches.
const SEPARATOR: &str = "\n%%%\n";

fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else { return };
    let line = TalosLine::ALL[usize::from(*choice) % TalosLine::ALL.len()];
    let text = String::from_utf8_lossy(text);
    let mut parts = text.split(SEPARATOR);
    let config = parts.next().unwrap_or_default();
    let args: Vec<PatchArg> = parts.take(3).map(|patch| PatchArg::Inline(patch.to_owned())).collect();
    if let Ok(patches) = patch::load(&args, line)
        && let Ok(patched) = patch::apply(config, &patches, line)
    {
        // What comes out of small input is small.
        assert!(patched.len() <= (1 << 20) + 64 * data.len(), "{} bytes", patched.len());
        let _ = conflict::contradictions(&patched, line);
        diff::unified(config, &patched, ("before", "after"));
    }
    let wish = Wish::Is(Place::at("machine.kubelet.nodeIP.validSubnets"), Setting::texts(["10.0.0.0/8"]));
    let edits = [Edit { document: DocumentId::legacy(), wish, reason: "fuzz".into() }];
    if let Ok(once) = apply_edits(config, &edits, line) {
        let twice = apply_edits(&once.text, &edits, line).map(|twice| twice.text);
        assert_eq!(twice.ok().as_ref(), Some(&once.text));
    }
});
