//! `ichorctl machineconfig patch`: patches a machine config file, offline.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use crate::patch::{self, PatchArg, TalosLine};

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
    let line = match &args.talos_version {
        None => TalosLine::NEWEST,
        Some(version) => match TalosLine::of_version(version) {
            Some(line) => line,
            None => bail!("no rules are known for Talos {version}: give v1.11 or newer"),
        },
    };
    let config = read_config(&args.file)?;
    let loaded: Result<Vec<PatchArg>, _> =
        args.patches.iter().map(|value| PatchArg::from_flag(value, line)).collect();
    let patches = patch::load(&loaded?, line).context("failed to load the patches")?;
    let patched = patch::apply(&config, &patches, line)
        .with_context(|| format!("failed to patch {}", args.file.display()))?;
    let patched = Zeroizing::new(patched);
    match &args.output {
        Some(path) => write_private(path, patched.as_bytes()),
        None => {
            out.write_all(patched.as_bytes())?;
            if !patched.ends_with('\n') {
                out.write_all(b"\n")?;
            }
            Ok(())
        }
    }
}

/// Reads a config, but not more than can be parsed.
fn read_config(path: &Path) -> Result<Zeroizing<String>> {
    let limit = crate::machine::parse::MAX_BYTES;
    let size = fs::metadata(path).with_context(|| format!("failed to read {}", path.display()))?.len();
    if size > limit as u64 {
        bail!("{} has {size} bytes, more than the limit of {limit} for a machine config", path.display());
    }
    let bytes = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            let offset = error.utf8_error().valid_up_to();
            bail!("{} is not text: invalid byte at offset {offset}", path.display())
        }
    }
}

/// Writes a file that only its owner can read, in one step: a reader sees the old one or the new one.
fn write_private(path: &Path, contents: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
    let name = path.file_name().with_context(|| format!("{} is no file name", path.display()))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let temporary = parent.join(temporary);
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    let result = write();
    if result.is_err() {
        fs::remove_file(&temporary).ok();
    }
    result.with_context(|| format!("failed to write {}", path.display()))
}
