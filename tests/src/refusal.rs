//! The kinds of refusals of the official library, told from its texts.

use ichorctl::patch::Class;

use crate::oracle::Response;

/// What a refusal of the official library amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its kind.
    pub class: Class,
    /// The key path that it names, where it names one.
    pub path: Option<String>,
    /// Lines that it names.
    pub lines: Vec<usize>,
}

const TEXTS: &[(&str, Class)] = &[
    ("for which $patch: delete is used", Class::DeleteSyntax),
    ("cannot delete an inner key", Class::DeleteSyntax),
    ("no key:val found in sequence", Class::DeleteSyntax),
    ("kind and apiVersion must be both set", Class::DeleteSyntax),
    ("in slices is not supported", Class::DeleteSyntax),
    ("lookup failed", Class::DeleteLookup),
    ("JSON6902 patches are not supported", Class::JsonPatchDocuments),
    ("excessive aliasing", Class::Alias),
    ("value contains itself", Class::Alias),
    ("rfc6902", Class::JsonPatch),
    ("failure converting", Class::JsonPatch),
    ("failure decoding talos machine config", Class::Syntax),
    ("duplicate document", Class::DuplicateDocument),
    ("duplicate v1alpha1.Config", Class::DuplicateDocument),
    ("conflicting documents", Class::ConflictingDocuments),
    ("conflicting link configurations", Class::ConflictingDocuments),
    ("unknown keys found", Class::UnknownKeys),
    ("null value is not allowed", Class::NullElement),
    ("missing kind", Class::MissingKind),
    ("missing apiVersion", Class::MissingApiVersion),
    ("not registered", Class::UnknownKind),
    ("config not found", Class::NoConfig),
    ("expected a YAML document", Class::NotADocument),
    ("expected a mapping node", Class::NotADocument),
    ("expected a document", Class::NotADocument),
    ("missing manifest content", Class::NotADocument),
    ("merge type mismatch", Class::Merge),
    ("merge not possible", Class::Merge),
];

/// Tells the kind of a refusal.
pub fn of(answer: &Response) -> Refusal {
    of_text(&answer.error, &answer.stage, answer.panic)
}

/// Tells the kind of a refusal from its text.
pub fn of_text(text: &str, stage: &str, panic: bool) -> Refusal {
    let lines = lines(text);
    if panic && text.contains("cannot deep copy") {
        return Refusal { class: Class::Merge, path: None, lines };
    }
    if panic {
        // The library gives up on nil: in a delete (1.11) or in a merge.
        let class = if text.contains("reflect: call of reflect.Value.Type on zero Value") && stage == "apply"
        {
            Class::DeleteLookup
        } else {
            Class::Merge
        };
        return Refusal { class, path: None, lines };
    }
    let path = quoted_path(text);
    // Of several errors the first one counts.
    let first = first_error(text);
    if let Some((_, class)) = TEXTS.iter().find(|(part, _)| first.contains(part)) {
        return Refusal { class: *class, path, lines };
    }
    let class = if first.contains("already defined at line") || first.contains("already set in type") {
        Class::DuplicateKey
    } else if [
        "cannot unmarshal",
        "cannot construct",
        "cannot decode",
        "unexpected mapping key type",
        "map merge requires",
        "as a map key",
        "invalid map key",
        "unexpected type for yaml",
    ]
    .iter()
    .any(|part| first.contains(part))
    {
        Class::WrongType
    } else if text.starts_with("decode error") {
        Class::Syntax
    } else if text.contains("error decoding") || text.starts_with("yaml:") || text.contains("go-yaml") {
        Class::InvalidValue
    } else {
        Class::JsonPatch
    };
    Refusal { class, path, lines }
}

fn first_error(text: &str) -> &str {
    for head in ["unmarshal errors:", "construct errors:", "load errors:"] {
        if let Some((_, list)) = text.split_once(head) {
            let first = list.trim_start().lines().next().unwrap_or_default();
            return first.split("; line ").next().unwrap_or_default();
        }
    }
    text
}

fn quoted_path(text: &str) -> Option<String> {
    for (head, quote) in
        [("null value is not allowed at \"", '"'), ("path '", '\''), ("inner key in '", '\'')]
    {
        if let Some((_, rest)) = text.split_once(head) {
            return rest.split(quote).next().map(str::to_owned);
        }
    }
    None
}

fn lines(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for part in text.split("line ").skip(1) {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        if let Ok(line) = digits.parse() {
            found.push(line);
        }
    }
    found
}
