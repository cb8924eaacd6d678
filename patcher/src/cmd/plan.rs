//! `plan`: from `ichor.yaml` and the nodes to steps.

pub(crate) mod nodes;
pub(crate) mod service;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use super::cluster_file;
use super::connection::Connection;
use crate::api::TalosVersion;
use crate::cluster::{self, Cluster};
use crate::exit::{self, Exit};
use crate::files::{self, write_private};
use crate::machine::parse::MAX_BYTES;
use crate::output::{self, Format, Output};
use crate::plan::observe::Observation;
use crate::plan::{self, Options, patches, print};
use nodes::Nodes;

/// Flags of `plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Read NODE.yaml of each node from this directory in place of asking the nodes
    #[arg(long, value_name = "DIR")]
    configs: Option<PathBuf>,
    /// With --configs: the Talos version of the nodes; without it each config tells by its installer image
    #[arg(long, value_name = "VERSION", requires = "configs")]
    talos_version: Option<TalosVersion>,
    /// Write the whole planned config of each node to NODE.yaml in this directory
    #[arg(short = 'o', long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
    /// Write the changes of each node as patches for talosctl to this directory
    #[arg(long, value_name = "DIR")]
    as_patches: Option<PathBuf>,
    /// How to print the plan
    #[arg(long, value_enum, default_value_t)]
    output: Format,
    /// End with 10 when there are changes
    #[arg(long)]
    exit_code: bool,
    /// Print the JSON Schema of ichor.yaml and do nothing else
    #[arg(long)]
    schema: bool,
}

#[derive(Args, Debug)]
struct FileArgs {
    /// The cluster file
    #[arg(short, long, value_name = "FILE", default_value = "ichor.yaml")]
    file: PathBuf,
    /// Plan for nodes whose Talos is newer than what this program knows
    #[arg(long)]
    allow_unknown_talos: bool,
}

impl FileArgs {
    fn load(&self) -> anyhow::Result<Cluster> {
        cluster_file::load(&self.file)
    }

    const fn options(&self) -> Options {
        Options { allow_unknown_talos: self.allow_unknown_talos }
    }
}

impl PlanArgs {
    /// Runs `plan`.
    ///
    /// # Errors
    ///
    /// When a file or node cannot be read, a config cannot be edited, or an output cannot be written.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let output = Output::new(self.output);
        if self.schema {
            output.json(&cluster::schema::json_schema())?;
            return Ok(Exit::Done);
        }
        let cluster = self.file.load()?;
        let (observed, failed) = match &self.configs {
            Some(directory) => (read_configs(&cluster, directory, self.talos_version.as_ref())?, None),
            None => {
                let nodes = Nodes::connect(&cluster, connection, &connection.talosconfig()?, |_| None)?;
                let (observed, failures) = nodes.observe(&cluster).await?;
                (observed, (!failures.is_empty()).then_some(failures))
            }
        };
        if let Some(failures) = failed {
            output::note("there is no plan without all nodes");
            return Ok(failures.finish());
        }
        let plan = make(&cluster, &observed, self.file.options())?;
        // What was asked for is in the plan now; the nodes' configs need not stay twice in memory.
        drop(observed);
        if output.is_json() {
            output.json(&print::json(&cluster, &plan))?;
        } else if plan.refusals.is_empty() {
            output.raw(print::text(&cluster, &plan).as_bytes())?;
        }
        if tell_refusals(&plan) {
            return Ok(Exit::Refused);
        }
        // All patches are tried before the first file is written.
        let patches = match &self.as_patches {
            Some(_) => plan.nodes.iter().map(patches::patches).collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        if let Some(directory) = &self.out_dir {
            for node in &plan.nodes {
                write(directory, &format!("{}.yaml", node.name), node.after())?;
            }
        }
        if let Some(directory) = &self.as_patches {
            for (node, texts) in plan.nodes.iter().zip(&patches) {
                for (index, text) in texts.iter().enumerate() {
                    write(directory, &format!("{}.{}.yaml", node.name, index + 1), text)?;
                }
            }
        }
        Ok(if self.exit_code && !plan.order.is_empty() { Exit::Changes } else { Exit::Done })
    }
}

/// Makes a plan, and judges what it would lead to.
pub(crate) fn make(
    cluster: &Cluster,
    observed: &[Observation],
    options: Options,
) -> anyhow::Result<plan::Plan> {
    let mut plan = plan::plan(cluster, observed, options)?;
    if plan.refusals.is_empty() {
        plan.refusals = plan::contradictions(&plan)?;
    }
    Ok(plan)
}

pub(crate) fn tell_refusals(plan: &plan::Plan) -> bool {
    for refusal in &plan.refusals {
        let error = exit::Refusal { reason: refusal.to_string(), advice: Some(refusal.advice.clone()) };
        exit::explain(&anyhow::Error::new(error).context("refused"));
    }
    !plan.refusals.is_empty()
}

fn read_configs(
    cluster: &Cluster,
    directory: &Path,
    version: Option<&TalosVersion>,
) -> anyhow::Result<Vec<Observation>> {
    let mut observed = Vec::new();
    for node in cluster.machines() {
        let path = directory.join(format!("{}.yaml", node.name));
        match files::read_bounded(&path, MAX_BYTES as u64) {
            Ok(text) => {
                observed.push(Observation::of_config(&node.name, Zeroizing::new(text), version.cloned()));
            }
            // A refusal tells about it, together with whatever else is wrong.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(anyhow::Error::new(error).context(format!("failed to read {}", path.display())));
            }
        }
    }
    if observed.is_empty() {
        // Most likely another directory was meant.
        fs::read_dir(directory)
            .with_context(|| format!("failed to read the directory {}", directory.display()))?;
    }
    Ok(observed)
}

fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    write_private(&path, text.as_bytes()).with_context(|| format!("failed to write {}", path.display()))
}
