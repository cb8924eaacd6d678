//! The values of `-p`, which `patch`, `apply-config` and `machineconfig patch` take alike.

use anyhow::{Context as _, Result};
use zeroize::Zeroizing;

use crate::patch::{self, Patch, PatchArg, TalosLine};

/// `config` with the values of `-p` applied, by the rules of the node's line.
pub(super) fn patched(config: &str, values: &[String], line: TalosLine) -> Result<Zeroizing<String>> {
    let patched = patch::apply(config, &load(values, line)?, line)
        .with_context(|| format!("failed to patch the machine config by the rules of Talos {line}"))?;
    Ok(Zeroizing::new(patched))
}

/// Loads the values of `-p`; an error says which of them is meant.
pub(super) fn load(values: &[String], line: TalosLine) -> Result<Vec<Patch>> {
    let mut args = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let arg = PatchArg::from_flag(value, line)?;
        patch::load(std::slice::from_ref(&arg), line).with_context(|| match &arg {
            PatchArg::File { path, .. } => format!("failed to load patch {}", path.display()),
            PatchArg::Inline(_) => format!("failed to load patch {} of the command line", index + 1),
        })?;
        args.push(arg);
    }
    // Once more together, because JSON patches that follow one another are applied as one.
    patch::load(&args, line).context("failed to load the patches")
}
