//! The JSONPath templates of Kubernetes, as far as Talos' columns and everyday use need them: text, and in braces
//! `.name`, `['name']`, `[2]`, `[*]`, `[?(@.name=="value")]`, `@` and `$`.

use std::str::FromStr;

use serde_json::Value;

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JsonPath {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(i64),
    All,
    Filter { path: Vec<String>, equals: String },
}

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{template:?} is not a JSONPath template that is understood: {problem}")]
pub(super) struct JsonPathError {
    template: String,
    problem: &'static str,
}

impl FromStr for JsonPath {
    type Err = JsonPathError;

    fn from_str(template: &str) -> Result<Self, JsonPathError> {
        let refuse = |problem| JsonPathError { template: template.to_owned(), problem };
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((text, tail)) = rest.split_once('{') {
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            let (path, tail) = tail.split_once('}').ok_or_else(|| refuse("a brace is not closed"))?;
            parts.push(Part::Path(steps(path.trim()).map_err(refuse)?));
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }
}

impl JsonPath {
    /// The template filled in. What is not there is left out.
    pub(super) fn render(&self, root: &Value) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Path(steps) => {
                    let found: Vec<String> = select(root, steps).into_iter().map(show).collect();
                    text.push_str(&found.join(" "));
                }
            }
        }
        text
    }

    /// Everything that the paths select.
    pub(super) fn select<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let paths = self.parts.iter().filter_map(|part| match part {
            Part::Path(steps) => Some(steps),
            Part::Text(_) => None,
        });
        paths.flat_map(|steps| select(root, steps)).collect()
    }
}

fn select<'a>(root: &'a Value, steps: &[Step]) -> Vec<&'a Value> {
    let mut selected = vec![root];
    for step in steps {
        selected = selected.into_iter().flat_map(|value| advance(value, step)).collect();
    }
    selected
}

fn advance<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Name(name), _) => value.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(list)) => {
            let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
            let index = if *index < 0 { index + length } else { *index };
            usize::try_from(index).ok().and_then(|index| list.get(index)).into_iter().collect()
        }
        (Step::All, Value::Array(list)) => list.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Filter { path, equals }, Value::Array(list)) => {
            let matches = |item: &&Value| {
                let found = path.iter().try_fold(*item, |value, name| value.get(name));
                found.is_some_and(|found| show(found) == *equals)
            };
            list.iter().filter(matches).collect()
        }
        (Step::Index(_) | Step::All | Step::Filter { .. }, _) => Vec::new(),
    }
}

/// Scalars as text, everything else as JSON.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn steps(path: &str) -> Result<Vec<Step>, &'static str> {
    let mut steps = Vec::new();
    let mut rest = path.strip_prefix(['@', '$']).unwrap_or(path);
    if rest == "." {
        return Ok(steps);
    }
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('.') {
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            let (name, tail) = tail.split_at(end);
            steps.push(match name {
                "" => return Err("a name is missing after a dot"),
                "*" => Step::All,
                name => Step::Name(name.to_owned()),
            });
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix('[') {
            let (inner, tail) = bracket(tail)?;
            steps.push(inner);
            rest = tail;
        } else {
            return Err("a path is made of .name and [...]");
        }
    }
    Ok(steps)
}

fn bracket(text: &str) -> Result<(Step, &str), &'static str> {
    const OPEN: &str = "a bracket is not closed";
    if let Some(filter) = text.strip_prefix("?(") {
        let (condition, tail) = filter.split_once(")]").ok_or(OPEN)?;
        let (path, value) = condition.split_once("==").ok_or("a filter compares with ==")?;
        let path = path.trim().strip_prefix("@.").ok_or("a filter begins with @.")?;
        let value = value.trim().trim_matches(['"', '\'']);
        let path = path.split('.').map(str::to_owned).collect();
        return Ok((Step::Filter { path, equals: value.to_owned() }, tail));
    }
    for quote in ['\'', '"'] {
        if let Some(quoted) = text.strip_prefix(quote) {
            let (name, tail) = quoted.split_once(quote).ok_or("a quote is not closed")?;
            return Ok((Step::Name(name.to_owned()), tail.strip_prefix(']').ok_or(OPEN)?));
        }
    }
    let (inner, tail) = text.split_once(']').ok_or(OPEN)?;
    let step = match inner.trim() {
        "*" => Step::All,
        number => Step::Index(number.parse().map_err(|_| "an index is a number or *")?),
    };
    Ok((step, tail))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_forms_that_talos_uses_in_its_columns_are_understood() {
        let value = json!({
            "stage": "running",
            "status": {"ready": true, "n": 3},
            "addresses": ["10.0.0.2/24", "fd00::2/64"],
            "endpoints": [{"host": "a", "port": 1}, {"host": "b", "port": 2}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}],
            "odd.key": "x",
            "nothing": null,
        });
        for (template, text) in [
            ("{.stage}", "running"),
            ("{.status.ready}", "true"),
            ("{$.status.n}", "3"),
            ("{.addresses}", r#"["10.0.0.2/24","fd00::2/64"]"#),
            ("{.addresses[1]}", "fd00::2/64"),
            ("{.addresses[-1]}", "fd00::2/64"),
            ("{.endpoints[*].host}", "a b"),
            ("{.conditions[?(@.type==\"Ready\")].status}", "True"),
            ("{['odd.key']}", "x"),
            ("{.missing.deep}", ""),
            ("{.nothing}", ""),
            ("{.stage}: {.status.n}!", "running: 3!"),
        ] {
            assert_eq!(template.parse::<JsonPath>().unwrap().render(&value), text, "{template}");
        }
        assert_eq!("{@}".parse::<JsonPath>().unwrap().render(&json!("worker")), "worker");
        assert_eq!("{.}".parse::<JsonPath>().unwrap().render(&json!("worker")), "worker");
    }

    #[test]
    fn other_forms_are_refused_rather_than_guessed() {
        for template in ["{.a", "{..a}", "{.a[}", "{a}", "{.a[?(@.b>1)]}", "{.a['b}", "{range .a}{end}"] {
            assert!(template.parse::<JsonPath>().is_err(), "{template}");
        }
    }
}
