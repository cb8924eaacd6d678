//! `ichorctl machineconfig patch`: patches a machine config file, offline.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::patches;
use crate::exit::UsageError;
use crate::files::{read_bounded, write_private};
use crate::machine::parse::MAX_BYTES;
use crate::patch::{self, TalosLine};

/// Machine config files.
#[derive(Debug, Args)]
pub struct MachineConfigArgs {
    #[command(subcommand)]
    command: MachineConfigCommand,
}

#[derive(Debug, Subcommand)]
enum MachineConfigCommand {
    /// Patch a machine config
    #[command(
        after_help = "Examples:\n  ichorctl machineconfig patch worker.yaml -p @patch.yaml -o patched.yaml\n  \
                            ichorctl mc patch worker.yaml -p @patch.yaml --talos-version v1.12.4"
    )]
    Patch(PatchArgs),
}

/// Flags of `machineconfig patch`, as talosctl has them.
#[derive(Debug, Args)]
pub struct PatchArgs {
    /// The machine config file
    #[arg(value_name = "MACHINECONFIG-FILE")]
    pub file: PathBuf,
    /// Patch to apply, use @file to read a patch from a file; may be given several times
    #[arg(short, long = "patch", value_name = "PATCH")]
    pub patches: Vec<String>,
    /// Output destination, standard output if not given
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// Talos version whose rules apply, such as v1.13.2; the newest known if not given
    #[arg(long, value_name = "VERSION")]
    pub talos_version: Option<String>,
}

/// Runs `machineconfig`.
///
/// # Errors
/// When a file cannot be read or written, or the config or a patch is refused.
pub fn run(args: &MachineConfigArgs, out: &mut dyn Write) -> Result<()> {
    match &args.command {
        MachineConfigCommand::Patch(args) => patch(args, out),
    }
}

/// Patches the file. Documents that no patch touches keep their bytes, comments included.
///
/// # Errors
/// When a file cannot be read or written, or the config or a patch is refused. Nothing is written then.
pub fn patch(args: &PatchArgs, out: &mut dyn Write) -> Result<()> {
    let line = line_of(args.talos_version.as_deref())?;
    let config = read_bounded(&args.file, MAX_BYTES as u64).map(Zeroizing::new);
    let config = config.with_context(|| format!("failed to read {}", args.file.display()))?;
    let patches = patches::load(&args.patches, line)?;
    let patched = patch::apply(&config, &patches, line).map(Zeroizing::new);
    let patched = patched.with_context(|| format!("failed to patch {}", args.file.display()))?;
    match &args.output {
        Some(path) => write_private(path, patched.as_bytes())
            .with_context(|| format!("failed to write {}", path.display())),
        None => {
            out.write_all(patched.as_bytes())?;
            if !patched.ends_with('\n') {
                out.write_all(b"\n")?;
            }
            Ok(())
        }
    }
}

fn line_of(version: Option<&str>) -> Result<TalosLine> {
    let Some(version) = version else { return Ok(TalosLine::NEWEST) };
    TalosLine::of_version(version).ok_or_else(|| {
        UsageError(format!("no rules are known for Talos {version:?}: give v1.11 or newer")).into()
    })
}
