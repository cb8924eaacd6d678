//! `get`: resources of nodes.

mod definition;
mod jsonpath;
mod print;
mod watch;

use std::str::FromStr;

use anyhow::Context as _;
use clap::Args;

use super::connection::{Connection, Insecure};
use super::fleet::Fleet;
use crate::api::{ListFilter, NodeClient};
use crate::exit::{Exit, UsageError};
use crate::output;
use definition::Definition;
use jsonpath::JsonPath;
use print::{Document, Printer};

/// Flags of `get`.
#[derive(Args, Debug)]
pub struct Get {
    /// The type of the resources, in full or by an alias; `rd` lists them
    r#type: String,
    /// One resource
    id: Option<String>,
    /// The namespace, in place of the default of the type
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Go on with what changes
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    insecure: Insecure,
    /// How to print it: table, yaml, json, or jsonpath={...}
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: OutputFormat,
}

#[derive(Clone, Debug)]
enum OutputFormat {
    Table,
    Yaml,
    Json,
    JsonPath(JsonPath),
}

impl FromStr for OutputFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("jsonpath=")) {
            ("table", _) => Ok(Self::Table),
            ("yaml", _) => Ok(Self::Yaml),
            ("json", _) => Ok(Self::Json),
            (_, Some(path)) => path.parse().map(Self::JsonPath).map_err(|error| format!("{error}")),
            _ => Err("it is one of table, yaml, json, jsonpath={...}".to_owned()),
        }
    }
}

/// What is asked for.
struct Query {
    definition: Definition,
    namespace: String,
    id: Option<String>,
}

impl Get {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When there is nobody to ask, no such type, or nowhere to print.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let fleet = connection.session_or_insecure(&self.insecure)?.fleet()?;
        let definition = resolve(&fleet, &self.r#type).await?;
        let query = Query {
            namespace: self.namespace.unwrap_or_else(|| definition.default_namespace.clone()),
            definition,
            id: self.id,
        };
        let printer = Printer::new(self.output, &query.definition, self.watch)?;
        let (query, printer) = (&query, &printer);
        if self.watch {
            let call = |node: NodeClient| async move { watch::follow(&node, query, printer).await };
            return Ok(fleet.run(call).await?.finish());
        }
        let call = |node: NodeClient| async move { read(&node, query).await };
        let arrived = |_, _: &str, documents: Vec<Document>| {
            printer.add(documents);
            Ok(())
        };
        let failures = fleet.call(call, arrived, || printer.flush()).await?;
        printer.finish()?;
        Ok(failures.finish())
    }
}

/// Asks one node after the other which types there are, until one answers. When none does, types that are known
/// here still work, and the nodes themselves will say what is wrong.
async fn resolve(fleet: &Fleet, name: &str) -> anyhow::Result<Definition> {
    for node in fleet.nodes() {
        let listed = node.list("meta", "ResourceDefinitions.meta.cosi.dev", ListFilter::default()).await;
        let Ok(listed) = listed else { continue };
        let definitions = listed.iter().map(|resource| {
            let spec = resource.spec::<Definition>();
            spec.with_context(|| format!("{} described its resource types in an unknown way", node.name()))
        });
        return Ok(definition::find(definitions.collect::<anyhow::Result<Vec<_>>>()?, name)?);
    }
    let known = definition::find(definition::known(), name);
    let unknown =
        |_| UsageError(format!("no node answers, and the resource type {name:?} is not known here"));
    Ok(known.map_err(unknown)?)
}

async fn read(node: &NodeClient, query: &Query) -> anyhow::Result<Vec<Document>> {
    let kind = &query.definition.kind;
    let resources = match &query.id {
        Some(id) => vec![node.get(&query.namespace, kind, id).await?],
        None => node.list(&query.namespace, kind, ListFilter::default()).await?,
    };
    Ok(resources.into_iter().map(|resource| Document::new(node.name(), None, resource)).collect())
}

/// Says that a watch has to be started again.
fn note_restart(node: &str, reason: &str) {
    output::note(&format!("warning: the watch on {node} ended ({reason}); starting it again"));
}
