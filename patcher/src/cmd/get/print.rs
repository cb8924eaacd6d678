//! Resources as a table, as YAML and as JSON, in the forms of talosctl.

use std::cell::RefCell;
use std::fmt::Write as _;

use anyhow::Context as _;
use ichor_proto::talos::cosi::resource::EventType;
use serde_json::{Map, Value, json};

use super::OutputFormat;
use super::definition::Definition;
use super::jsonpath::{JsonPath, show};
use crate::api::Resource;
use crate::output::{Format, Output, Table, rfc3339};

/// A machine config is text with comments, whatever its spec looks like.
const MACHINE_CONFIG: &str = "MachineConfigs.config.talos.dev";

/// A resource of a node, and with a watch what happened to it.
#[derive(Clone, Debug)]
pub(super) struct Document {
    node: String,
    event: Option<EventType>,
    resource: Resource,
}

/// Prints documents as they come, or in batches where columns have to be aligned.
#[derive(Debug)]
pub(super) struct Printer {
    output: Output,
    form: Form,
    state: RefCell<State>,
}

#[derive(Debug)]
enum Form {
    Table { display_type: String, columns: Vec<JsonPath>, with_events: bool },
    Yaml,
    Json,
    JsonPath(JsonPath),
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<Document>,
    head: Option<Vec<String>>,
    table: Table,
    any_yaml: bool,
}

impl Document {
    pub(super) fn new(node: &str, event: Option<EventType>, resource: Resource) -> Self {
        Self { node: node.to_owned(), event, resource }
    }
}

impl Printer {
    pub(super) fn new(
        format: OutputFormat,
        definition: &Definition,
        with_events: bool,
    ) -> anyhow::Result<Self> {
        let mut state = State::default();
        let form = match format {
            OutputFormat::Yaml => Form::Yaml,
            OutputFormat::Json => Form::Json,
            OutputFormat::JsonPath(path) => Form::JsonPath(path),
            OutputFormat::Table => {
                let columns = definition.print_columns.iter().map(|column| column.json_path.parse());
                let columns =
                    columns.collect::<Result<Vec<_>, _>>().context("a column of the type is unknown")?;
                let events: &[&str] = if with_events { &["*"] } else { &[] };
                let fixed = ["NODE"].iter().chain(events).chain(&["NAMESPACE", "TYPE", "ID", "VERSION"]);
                let own = definition.print_columns.iter().map(|column| column.name.to_uppercase());
                state.head = Some(fixed.map(|name| (*name).to_owned()).chain(own).collect());
                Form::Table { display_type: definition.display_type.clone(), columns, with_events }
            }
        };
        Ok(Self { output: Output::new(Format::Text), form, state: RefCell::new(state) })
    }

    /// Takes documents to be printed by the next flush.
    pub(super) fn add(&self, documents: Vec<Document>) {
        self.state.borrow_mut().pending.extend(documents);
    }

    /// Prints what was added.
    pub(super) fn flush(&self) -> anyhow::Result<()> {
        let mut state = self.state.borrow_mut();
        let documents = std::mem::take(&mut state.pending);
        if documents.is_empty() {
            return Ok(());
        }
        match &self.form {
            Form::Table { display_type, columns, with_events } => {
                let rows =
                    documents.iter().map(|document| document.cells(display_type, columns, *with_events));
                let head = state.head.take();
                let text = state.table.lines(head.into_iter().chain(rows));
                self.output.raw(text.as_bytes())?;
            }
            Form::Yaml => {
                for document in &documents {
                    let dashes = if std::mem::replace(&mut state.any_yaml, true) { "---\n" } else { "" };
                    self.output.foreign(format!("{dashes}{}", document.yaml()?).as_bytes())?;
                }
            }
            Form::Json => {
                for document in &documents {
                    self.output.json(&document.json())?;
                }
            }
            Form::JsonPath(path) => {
                for document in &documents {
                    for value in path.select(&document.json()) {
                        match value {
                            Value::Array(_) | Value::Object(_) => self.output.json(value)?,
                            scalar => self.output.foreign(format!("{}\n", show(scalar)).as_bytes())?,
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Prints what is left, and the headings of a table without rows.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        self.flush()?;
        let mut state = self.state.borrow_mut();
        match state.head.take() {
            Some(head) => Ok(self.output.raw(state.table.lines([head]).as_bytes())?),
            None => Ok(()),
        }
    }
}

impl Document {
    fn cells(&self, display_type: &str, columns: &[JsonPath], with_events: bool) -> Vec<String> {
        let metadata = &self.resource.metadata;
        let mut cells = vec![self.node.clone()];
        if with_events {
            let marker = match self.event {
                Some(EventType::Created) => "+",
                Some(EventType::Destroyed) => "-",
                Some(EventType::Updated | EventType::Bootstrapped | EventType::Errored | EventType::Noop)
                | None => "",
            };
            cells.push(marker.to_owned());
        }
        let fixed = [&metadata.namespace, display_type, &metadata.id, &metadata.version];
        cells.extend(fixed.map(ToOwned::to_owned));
        let spec = self.spec();
        cells.extend(columns.iter().map(|column| column.render(&spec)));
        cells
    }

    fn json(&self) -> Value {
        let mut document = Map::new();
        document.insert("node".to_owned(), json!(self.node));
        if let Some(event) = self.event {
            document.insert("event".to_owned(), json!(event_name(event)));
        }
        document.insert("metadata".to_owned(), self.metadata());
        document.insert("spec".to_owned(), self.spec());
        Value::Object(document)
    }

    fn yaml(&self) -> anyhow::Result<String> {
        let mut text = format!("node: {}\n", scalar(&self.node)?);
        // Writing to a string cannot fail.
        if let Some(event) = self.event {
            let _ = writeln!(text, "event: {}", event_name(event));
        }
        let metadata = &self.resource.metadata;
        text.push_str("metadata:\n");
        for (key, value) in [
            ("namespace", &metadata.namespace),
            ("type", &metadata.r#type),
            ("id", &metadata.id),
            ("version", &metadata.version),
            ("owner", &metadata.owner),
            ("phase", &metadata.phase),
            ("created", &rfc3339(metadata.created.as_ref())),
            ("updated", &rfc3339(metadata.updated.as_ref())),
        ] {
            // A version is a number, and a time a timestamp: neither is quoted.
            let plain = matches!(key, "version" | "created" | "updated");
            let value = if plain { value.clone() } else { scalar(value)? };
            let _ = writeln!(text, "    {key}: {value}");
        }
        for (key, map) in [("labels", &metadata.labels), ("annotations", &metadata.annotations)] {
            let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
            if !sorted.is_empty() {
                let _ = writeln!(text, "    {key}:");
            }
            for (name, value) in sorted {
                let _ = writeln!(text, "        {}: {}", scalar(name)?, scalar(value)?);
            }
        }
        if !metadata.finalizers.is_empty() {
            text.push_str("    finalizers:\n");
        }
        for finalizer in &metadata.finalizers {
            let _ = writeln!(text, "        - {}", scalar(finalizer)?);
        }
        text.push_str("spec:");
        text.push_str(&self.yaml_spec());
        Ok(text)
    }

    /// The spec below `spec:`. Its text is kept as the node wrote it, moved to the right.
    fn yaml_spec(&self) -> String {
        if let Some(config) = self.machine_config() {
            return format!(" |\n{}", indent(&config));
        }
        let yaml = self.resource.spec.yaml_spec.trim_end_matches('\n');
        let is_text = matches!(yaml_serde::from_str(yaml), Ok(yaml_serde::Value::String(_)));
        match yaml {
            "" => " {}\n".to_owned(),
            yaml if is_text && yaml.contains('\n') => format!(" {}\n", self.spec()),
            yaml if yaml.contains('\n') || yaml.contains(": ") || yaml.starts_with("- ") => {
                format!("\n{}", indent(yaml))
            }
            yaml => format!(" {yaml}\n"),
        }
    }

    fn machine_config(&self) -> Option<String> {
        let is_config =
            self.resource.metadata.r#type == MACHINE_CONFIG && !self.resource.spec.proto_spec.is_empty();
        let text = is_config.then(|| self.resource.machine_config().ok()).flatten()?;
        Some((*text).clone())
    }

    fn spec(&self) -> Value {
        match self.machine_config() {
            Some(config) => Value::String(config),
            None => yaml_serde::from_str(&self.resource.spec.yaml_spec).map_or(Value::Null, to_json),
        }
    }

    fn metadata(&self) -> Value {
        let metadata = &self.resource.metadata;
        let version =
            metadata.version.parse::<u64>().map_or_else(|_| json!(metadata.version), |number| json!(number));
        let mut map = json!({
            "namespace": metadata.namespace,
            "type": metadata.r#type,
            "id": metadata.id,
            "version": version,
            "owner": metadata.owner,
            "phase": metadata.phase,
            "created": rfc3339(metadata.created.as_ref()),
            "updated": rfc3339(metadata.updated.as_ref()),
        });
        if !metadata.labels.is_empty() {
            map["labels"] = json!(metadata.labels);
        }
        if !metadata.annotations.is_empty() {
            map["annotations"] = json!(metadata.annotations);
        }
        if !metadata.finalizers.is_empty() {
            map["finalizers"] = json!(metadata.finalizers);
        }
        map
    }
}

fn event_name(event: EventType) -> String {
    event.as_str_name().to_lowercase()
}

/// A string as a YAML scalar on one line, quoted where it has to be.
fn scalar(text: &str) -> anyhow::Result<String> {
    if text.contains('\n') {
        return Ok(Value::String(text.to_owned()).to_string());
    }
    Ok(yaml_serde::to_string(text)?.trim_end().to_owned())
}

fn indent(text: &str) -> String {
    let mut indented = String::with_capacity(text.len() + text.len() / 8);
    for line in text.lines() {
        if !line.is_empty() {
            indented.push_str("    ");
            indented.push_str(line);
        }
        indented.push('\n');
    }
    indented
}

fn to_json(value: yaml_serde::Value) -> Value {
    use yaml_serde::Value as Yaml;
    match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(flag) => json!(flag),
        Yaml::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => json!(number),
            (None, Some(number)) => json!(number),
            (None, None) => json!(number.as_f64()),
        },
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(list) => Value::Array(list.into_iter().map(to_json).collect()),
        Yaml::Mapping(map) => {
            let entries = map.into_iter().map(|(key, value)| {
                let key = match key {
                    Yaml::String(key) => key,
                    other => show(&to_json(other)),
                };
                (key, to_json(value))
            });
            Value::Object(entries.collect())
        }
        Yaml::Tagged(tagged) => to_json(tagged.value),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ichor_proto::talos::cosi::resource::{Metadata, Spec};
    use ichor_proto::talos::resource::config::MachineConfigSpec;
    use prost::Message as _;

    use super::*;

    #[test]
    fn yaml_keeps_the_spec_as_the_node_wrote_it() {
        let yaml = "stage: running\nstatus:\n    ready: true\n    unmetConditions: []\n";
        let document = document("MachineStatuses.runtime.talos.dev", yaml, &[]);
        let expected = "\
node: 10.0.0.2
event: updated
metadata:
    namespace: runtime
    type: MachineStatuses.runtime.talos.dev
    id: machine
    version: 27
    owner: ''
    phase: running
    created: 2026-01-01T00:00:00Z
    updated: 2026-01-01T00:00:00Z
    labels:
        a: b
spec:
    stage: running
    status:
        ready: true
        unmetConditions: []
";
        assert_eq!(document.yaml().unwrap(), expected);
    }

    #[test]
    fn every_form_of_a_spec_parses_back_to_itself() {
        for yaml in [
            "worker\n",
            "{}\n",
            "- a\n- b\n",
            "a: 1\n",
            "|\n    text\n      more\n",
            "null\n",
            "a: |\n    x\n\n    y\n",
        ] {
            let document = document("Some.talos.dev", yaml, &[]);
            let printed: yaml_serde::Value = yaml_serde::from_str(&document.yaml().unwrap()).unwrap();
            let spec: yaml_serde::Value = yaml_serde::from_str(yaml).unwrap();
            assert_eq!(printed["spec"], spec, "{}", document.yaml().unwrap());
            assert_eq!(document.json()["spec"], to_json(spec));
        }
    }

    #[test]
    fn a_machine_config_is_text_whatever_its_spec_looks_like() {
        let config = "version: v1alpha1 # comment\n---\nkind: Other\n";
        let proto = MachineConfigSpec { yaml_marshalled: config.into() }.encode_to_vec();
        for yaml in [config, "|\n    version: v1alpha1\n"] {
            let document = document(MACHINE_CONFIG, yaml, &proto);
            assert_eq!(document.json()["spec"], json!(config));
            let printed: yaml_serde::Value = yaml_serde::from_str(&document.yaml().unwrap()).unwrap();
            assert_eq!(printed["spec"].as_str(), Some(config));
        }
    }

    #[test]
    fn json_has_numbers_where_yaml_has_them() {
        let document = document("Some.talos.dev", "a: 1\nb: -2\nc: 1.5\nd: '1'\n1: x\n", &[]);
        assert_eq!(document.json()["spec"], json!({"a": 1, "b": -2, "c": 1.5, "d": "1", "1": "x"}));
        assert_eq!(document.json()["metadata"]["version"], json!(27));
    }

    fn document(kind: &str, yaml: &str, proto: &[u8]) -> Document {
        let moment = Some(prost_types::Timestamp { seconds: 1_767_225_600, nanos: 0 });
        let metadata = Metadata {
            namespace: "runtime".into(),
            r#type: kind.into(),
            id: "machine".into(),
            version: "27".into(),
            phase: "running".into(),
            created: moment,
            updated: moment,
            labels: HashMap::from([("a".into(), "b".into())]),
            ..Metadata::default()
        };
        let spec = Spec { proto_spec: proto.to_vec(), yaml_spec: yaml.into() };
        Document::new("10.0.0.2", Some(EventType::Updated), Resource { metadata, spec })
    }
}
