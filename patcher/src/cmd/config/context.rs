//! The contexts of a talosconfig.

use std::io::{BufRead as _, Write as _};

use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{self, Format, Output};
use crate::talosconfig::TalosConfig;

/// Nodes that a table shows of a context.
const SHOWN_NODES: usize = 3;

/// Flags of `config remove`.
#[derive(Args, Debug)]
pub(super) struct Remove {
    /// Names, with * for any text
    pattern: String,
    /// Do not ask
    #[arg(short = 'y', long)]
    noconfirm: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    current: bool,
    endpoints: Vec<String>,
    nodes: Vec<String>,
}

pub(super) fn list(config: &TalosConfig, format: Format) -> anyhow::Result<Exit> {
    let rows: Vec<Row> = config
        .context_names()
        .into_iter()
        .map(|name| {
            let (endpoints, nodes) = config.addresses(name).unwrap_or_default();
            Row { name: name.to_owned(), current: config.current() == Some(name), endpoints, nodes }
        })
        .collect();
    Output::new(format).rows(["CURRENT", "NAME", "ENDPOINTS", "NODES"], &rows, |row| {
        let current = if row.current { "*" } else { "" };
        let more = if row.nodes.len() > SHOWN_NODES { "..." } else { "" };
        let nodes = row.nodes[..row.nodes.len().min(SHOWN_NODES)].join(",");
        [current.to_owned(), row.name.clone(), row.endpoints.join(","), format!("{nodes}{more}")]
    })?;
    Ok(Exit::Done)
}

pub(super) fn show_proxy(config: &TalosConfig, context: Option<&str>) -> anyhow::Result<Exit> {
    let proxy = config.proxy_url(context)?.unwrap_or_default();
    Output::new(Format::Text).raw(format!("{}\n", output::escape(proxy)).as_bytes())?;
    Ok(Exit::Done)
}

impl Remove {
    pub(super) fn run(self, mut config: TalosConfig) -> anyhow::Result<Exit> {
        let names: Vec<String> = config
            .context_names()
            .into_iter()
            .filter(|name| matches(&self.pattern, name))
            .map(str::to_owned)
            .collect();
        anyhow::ensure!(!names.is_empty(), "no context matches {:?}", self.pattern);
        let mut removed = false;
        for name in names {
            if config.current() == Some(&name) {
                output::note(&format!(
                    "warning: {name:?} is the current context and stays; choose another one first"
                ));
            } else if self.dry_run || self.noconfirm || confirm(&format!("remove context {name:?}?"))? {
                output::note(&format!("removing context {name:?}"));
                removed |= config.remove(&name);
            }
        }
        if removed && !self.dry_run {
            config.save()?;
        }
        Ok(Exit::Done)
    }
}

/// Asks on the terminal. Anything but yes is no.
fn confirm(question: &str) -> anyhow::Result<bool> {
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{} [y/N]: ", output::escape(question))?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// `*` is any text, also none; everything else is itself.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(head) else { return false };
    let mut pieces = tail.split('*').peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some(position) = rest.find(piece) else { return false };
        rest = &rest[position + piece.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "ac", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXcYb", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
