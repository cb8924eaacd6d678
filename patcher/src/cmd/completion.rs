//! `completion`: what a shell needs to complete our commands.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Exit;
use crate::output::{Format, Output};

/// Flags of `completion`.
#[derive(Args, Debug)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: SupportedShell,
}

/// Shells that talosctl completes for, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SupportedShell {
    /// Bourne-again shell
    Bash,
    /// Friendly interactive shell
    Fish,
    /// Z shell
    Zsh,
}

impl Completion {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When there is nowhere to print.
    pub fn run(self) -> anyhow::Result<Exit> {
        let shell = match self.shell {
            SupportedShell::Bash => Shell::Bash,
            SupportedShell::Fish => Shell::Fish,
            SupportedShell::Zsh => Shell::Zsh,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "ichorctl", &mut script);
        Output::new(Format::Text).raw(&script)?;
        Ok(Exit::Done)
    }
}
