//! Compares what we make of a config and patches with what the official library makes of them.

use ichorctl::patch::{self, Class, PatchArg, PatchError, TalosLine, conflict};

use crate::oracle::{Oracle, Request, Response};
use crate::refusal::{self, Refusal};

/// A config and patches for it.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The config.
    pub config: String,
    /// Values of `-p`.
    pub patches: Vec<String>,
    /// What the pair is meant to show.
    pub label: String,
}

/// How a pair came out: what both say, or where they differ.
pub type Verdict = Result<Agreement, Difference>;

/// How a pair came out, where both agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agreement {
    /// Both give this config, in canonical form.
    Patched(String),
    /// Both give the same config, and both say that it contradicts itself, in these words.
    Contradicts(Vec<String>),
    /// Both refuse.
    Refused(Class),
    /// The official tool wrote an enum that has no name, which no node reads back; we keep the text as it was.
    Unreadable,
}

/// A difference, in words.
#[derive(Debug, Clone)]
pub struct Difference {
    /// What we say.
    pub ours: String,
    /// What the official library says.
    pub theirs: String,
    /// What is compared.
    pub what: &'static str,
}

/// What we make of a pair.
pub fn ours(pair: &Pair, line: TalosLine) -> Result<String, PatchError> {
    let args: Result<Vec<PatchArg>, PatchError> =
        pair.patches.iter().map(|value| PatchArg::from_flag(value, line)).collect();
    let patches = patch::load(&args?, line)?;
    patch::apply(&pair.config, &patches, line)
}

/// Compares many pairs at once.
///
/// # Errors
/// When the oracle fails, not when there are differences.
pub fn compare(oracle: &mut Oracle, line: TalosLine, pairs: &[Pair]) -> anyhow::Result<Vec<Verdict>> {
    let requests: Vec<_> =
        pairs.iter().map(|pair| Request::patch(pair.config.as_bytes(), &pair.patches)).collect();
    let answers = oracle.ask_all(&requests)?;
    let ours: Vec<Result<String, PatchError>> = pairs.iter().map(|pair| ours(pair, line)).collect();
    let texts: Vec<_> =
        ours.iter().map(|ours| Request::canonical(ours.as_deref().unwrap_or_default().as_bytes())).collect();
    let canonical = oracle.ask_all(&texts)?;
    let verdicts = answers.iter().zip(&ours).zip(&canonical).zip(pairs);
    let verdicts: Vec<Verdict> = verdicts
        .map(|(((theirs, ours), canonical), pair)| {
            // After a JSON patch the official library has a text of its own, with other lines.
            let rewritten = pair.patches.len() > 1 && theirs.stage == "apply";
            judge(theirs, ours, canonical, rewritten)
        })
        .collect();
    validate(oracle, line, &ours, verdicts)
}

/// Compares, for every result, the contradictions that the official validation finds with those that we find.
fn validate(
    oracle: &mut Oracle,
    line: TalosLine,
    ours: &[Result<String, PatchError>],
    mut verdicts: Vec<Verdict>,
) -> anyhow::Result<Vec<Verdict>> {
    let results: Vec<usize> =
        (0..verdicts.len()).filter(|index| matches!(verdicts[*index], Ok(Agreement::Patched(_)))).collect();
    // Of our own text: what the official tool writes has lost empty collections, which count as settings.
    let text = |index: usize| ours[index].as_deref().unwrap_or_default();
    let requests: Vec<_> =
        results.iter().map(|index| Request::validate(text(*index).as_bytes(), "metal")).collect();
    for (index, answer) in results.iter().zip(oracle.ask_all(&requests)?) {
        // Some configs that can be loaded make validation crash.
        if answer.panic {
            continue;
        }
        let known: Vec<&str> =
            line.schema().conflicts.iter().map(|conflict| conflict.text.as_str()).collect();
        let is_contradiction = |text: &str| {
            known.iter().any(|known| text.ends_with(known))
                || text.contains("document kinds are only allowed")
        };
        let mut theirs: Vec<String> =
            answer.errors.iter().filter(|text| is_contradiction(text)).cloned().collect();
        let mut found: Vec<String> = match conflict::contradictions(text(*index), line) {
            Ok(found) => found.into_iter().map(|found| found.message).collect(),
            Err(error) => vec![error.to_string()],
        };
        theirs.sort();
        found.sort();
        let same = theirs.len() == found.len()
            && theirs.iter().zip(&found).all(|(theirs, ours)| theirs.ends_with(ours.as_str()));
        if !same {
            verdicts[*index] =
                Err(Difference { ours: found.join("\n"), theirs: theirs.join("\n"), what: "contradictions" });
        } else if !found.is_empty() {
            verdicts[*index] = Ok(Agreement::Contradicts(found));
        }
    }
    Ok(verdicts)
}

fn judge(
    theirs: &Response,
    ours: &Result<String, PatchError>,
    canonical: &Response,
    rewritten: bool,
) -> Verdict {
    let difference =
        |what: &'static str, ours: String, theirs: String| Err(Difference { ours, theirs, what });
    match (ours, theirs.ok) {
        (Ok(ours), true) => {
            if theirs.load_error.contains("(0) does not belong to") {
                return Ok(Agreement::Unreadable);
            }
            if theirs.load_error.is_empty() != canonical.load_error.is_empty() {
                return difference(
                    "loading",
                    format!("{}\n{ours}", canonical.load_error),
                    format!("{}\n{}", theirs.load_error, theirs.output),
                );
            }
            if theirs.load_error.is_empty() {
                if theirs.canonical == canonical.canonical {
                    return Ok(Agreement::Patched(theirs.canonical.clone()));
                }
                return difference("result", canonical.canonical.clone(), theirs.canonical.clone());
            }
            // Both wrote something that is no config any more: then why must be the same.
            let (our_class, their_class) = (
                refusal::of_text(&canonical.load_error, "load", false).class,
                refusal::of_text(&theirs.load_error, "load", false).class,
            );
            if our_class == their_class {
                return Ok(Agreement::Refused(our_class));
            }
            difference("load error", canonical.load_error.clone(), theirs.load_error.clone())
        }
        (Err(ours), false) => {
            let refusal = refusal::of(theirs);
            if agrees(ours, &refusal, theirs, rewritten) {
                return Ok(Agreement::Refused(ours.class));
            }
            difference(
                "refusal",
                format!("{:?} {ours}", ours.class),
                format!("{:?} {} {}", refusal.class, theirs.stage, theirs.error),
            )
        }
        // Up to 1.13 a delete of a missing document leaves a document behind that no node loads. We refuse.
        (Err(ours), true) if ours.class == Class::DeleteMissingDocument && !theirs.load_error.is_empty() => {
            Ok(Agreement::Refused(ours.class))
        }
        // As YAML, not as JSON, the official tool lets a patch replace a whole config by null, which no node loads.
        (Err(ours), true)
            if ours.class == Class::JsonPatch
                && theirs.output.trim() == "null"
                && !theirs.load_error.is_empty() =>
        {
            Ok(Agreement::Refused(ours.class))
        }
        (Ok(ours), false) => {
            difference("refused by them", ours.clone(), format!("{} {}", theirs.stage, theirs.error))
        }
        (Err(ours), true) => {
            difference("refused by us", format!("{:?} {ours}", ours.class), theirs.output.clone())
        }
    }
}

fn agrees(ours: &PatchError, theirs: &Refusal, answer: &Response, rewritten: bool) -> bool {
    let class = ours.class == theirs.class
        // Up to 1.13 the official tool crashes when it writes what a delete of a missing document left behind.
        || (answer.panic
            && answer.error.contains("unexported field")
            && matches!(ours.class, Class::DeleteMissingDocument | Class::JsonPatchDocuments))
        // The library names a nil that it falls over neither the one nor the other.
        || (answer.panic && matches!(ours.class, Class::Merge | Class::DeleteLookup | Class::NullElement | Class::JsonPatch));
    let path = match (&theirs.path, ours.class) {
        // Paths of deletes name list items by their place, which moves while deletes are taken out.
        (Some(path), Class::DeleteLookup | Class::DeleteSyntax | Class::NullElement) => *path == ours.path,
        _ => true,
    };
    let document = match &ours.document {
        Some(id) if answer.error.starts_with("error decoding document") => {
            answer.error.contains(&format!("document {id} "))
        }
        _ => true,
    };
    let line = match ours.class {
        Class::UnknownKeys => keys_agree(ours, &answer.error),
        Class::WrongType | Class::DuplicateKey | Class::InvalidValue | Class::DuplicateDocument => {
            // The resolver of yaml.v4 does not say where it was.
            rewritten
                || answer.error.contains("unknown position")
                || answer.error.contains("` as a !!")
                || ours.line.is_none_or(|line| theirs.lines.is_empty() || theirs.lines.contains(&line))
        }
        _ => true,
    };
    class && path && document && line
}

/// Every key that we name stands in the official list.
fn keys_agree(ours: &PatchError, text: &str) -> bool {
    let Some((_, list)) = text.split_once("during decoding:") else { return false };
    let Some((_, names)) = ours.message.split_once("during decoding: ") else { return false };
    names
        .split(", ")
        .all(|path| path.split(['.', '[']).filter(|key| !key.ends_with(']')).all(|key| list.contains(key)))
}
