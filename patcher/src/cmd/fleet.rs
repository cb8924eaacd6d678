//! The same call on several nodes at once, and what to say when some of them fail.

use std::cell::RefCell;
use std::future::Future;
use std::time::Duration;

use anyhow::Error;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde::Serialize;
use tokio::time::timeout;

use crate::api::{ApiError, NodeClient};
use crate::exit::{Exit, advice, exit_of};
use crate::output::{self, Output, Table, is_broken_pipe};

/// After this long without a new reply the rows so far are printed: one node that does not answer does not hold
/// back the others.
const QUIET: Duration = Duration::from_millis(500);

/// The nodes of a command.
#[derive(Debug)]
pub struct Fleet {
    nodes: Vec<NodeClient>,
}

/// Which nodes failed, and why.
#[derive(Debug)]
pub struct Failures {
    nodes: usize,
    failed: Vec<(usize, String, Error)>,
    /// Nodes that were left alone because of a failure before them.
    skipped: Vec<String>,
}

impl Fleet {
    /// A fleet of these nodes.
    pub const fn new(nodes: Vec<NodeClient>) -> Self {
        Self { nodes }
    }

    /// The nodes, in the order in which the user named them.
    pub fn nodes(&self) -> &[NodeClient] {
        &self.nodes
    }

    /// Calls all nodes side by side. `arrived` gets each result as it comes, and `quiet` is called when there was
    /// none for a while.
    ///
    /// # Errors
    ///
    /// Those of `arrived` and `quiet`, and a broken pipe in a call, which ends all of them: nobody reads any more.
    pub async fn call<T, F>(
        &self,
        call: impl Fn(NodeClient) -> F,
        mut arrived: impl FnMut(usize, &str, T) -> anyhow::Result<()>,
        mut quiet: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Failures>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let start = |(index, node): (usize, &NodeClient)| {
            let name = node.name().to_owned();
            let result = call(node.clone());
            async move { (index, name, result.await) }
        };
        let mut running: FuturesUnordered<_> = self.nodes.iter().enumerate().map(start).collect();
        let mut failures = Failures { nodes: self.nodes.len(), failed: Vec::new(), skipped: Vec::new() };
        while !running.is_empty() {
            let Ok(next) = timeout(QUIET, running.next()).await else {
                quiet()?;
                continue;
            };
            match next {
                Some((index, name, Ok(reply))) => arrived(index, &name, reply)?,
                Some((_, _, Err(error))) if is_broken_pipe(&error) => return Err(error),
                Some((index, name, Err(error))) => failures.failed.push((index, name, error)),
                None => break,
            }
        }
        failures.failed.sort_by_key(|(index, _, _)| *index);
        Ok(failures)
    }

    /// Calls all nodes side by side and returns what they replied, in the order of the nodes.
    ///
    /// # Errors
    ///
    /// As [`Fleet::call`].
    pub async fn gather<T, F>(
        &self,
        call: impl Fn(NodeClient) -> F,
    ) -> anyhow::Result<(Vec<(String, T)>, Failures)>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let mut replies = Vec::new();
        let keep = |index, name: &str, reply| {
            replies.push((index, name.to_owned(), reply));
            Ok(())
        };
        let failures = self.call(call, keep, || Ok(())).await?;
        replies.sort_by_key(|(index, _, _)| *index);
        Ok((replies.into_iter().map(|(_, name, reply)| (name, reply)).collect(), failures))
    }

    /// Calls all nodes side by side and runs each to its end, for calls that print by themselves.
    ///
    /// # Errors
    ///
    /// As [`Fleet::call`].
    pub async fn run<F>(&self, call: impl Fn(NodeClient) -> F) -> anyhow::Result<Failures>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        self.call(call, |_, _, ()| Ok(()), || Ok(())).await
    }

    /// Runs one node after the other, in the order in which the user named them, and stops at the first that fails:
    /// what broke one node must not reach the next.
    ///
    /// # Errors
    ///
    /// A broken pipe: nobody reads any more.
    pub async fn in_turn<F>(&self, call: impl Fn(NodeClient) -> F) -> anyhow::Result<Failures>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let mut failures = Failures { nodes: self.nodes.len(), failed: Vec::new(), skipped: Vec::new() };
        for (index, node) in self.nodes.iter().enumerate() {
            match call(node.clone()).await {
                Ok(()) => {}
                Err(error) if is_broken_pipe(&error) => return Err(error),
                Err(error) => {
                    failures.failed.push((index, node.name().to_owned(), error));
                    let rest = &self.nodes[index + 1..];
                    failures.skipped = rest.iter().map(|node| node.name().to_owned()).collect();
                    break;
                }
            }
        }
        Ok(failures)
    }

    /// Calls all nodes side by side and prints the rows that they reply. The first column is the node.
    ///
    /// # Errors
    ///
    /// As [`Fleet::call`], and those of printing.
    pub async fn rows<R, F, const N: usize>(
        &self,
        output: Output,
        columns: [&str; N],
        call: impl Fn(NodeClient) -> F,
        cells: impl Fn(&R) -> [String; N],
    ) -> anyhow::Result<Failures>
    where
        R: Serialize,
        F: Future<Output = anyhow::Result<Vec<R>>>,
    {
        if output.is_json() {
            let (replies, failures) = self.gather(call).await?;
            let rows: Vec<R> = replies.into_iter().flat_map(|(_, rows)| rows).collect();
            output.json(&rows)?;
            return Ok(failures);
        }
        let mut table = Table::default();
        let mut head = Some(columns.map(str::to_owned));
        let pending = RefCell::new(Vec::new());
        let mut print = |is_end: bool| -> anyhow::Result<()> {
            let mut batch: Vec<(usize, Vec<R>)> = pending.take();
            if batch.is_empty() && !is_end {
                return Ok(());
            }
            batch.sort_by_key(|(index, _)| *index);
            let rows = batch.iter().flat_map(|(_, rows)| rows).map(&cells);
            Ok(output.raw(table.lines(head.take().into_iter().chain(rows)).as_bytes())?)
        };
        let keep = |index, _: &str, rows: Vec<R>| {
            pending.borrow_mut().push((index, rows));
            Ok(())
        };
        let failures = self.call(call, keep, || print(false)).await?;
        print(true)?;
        Ok(failures)
    }
}

impl Failures {
    /// Tells about each failure once, and says how the command ends. Nodes that failed for the same reason are
    /// named together.
    ///
    /// # Errors
    ///
    /// A failure of the command line, for the caller's caller to print.
    pub fn finish(self) -> Exit {
        let mut groups: Vec<(Vec<String>, Option<&'static str>, String, &Error)> = Vec::new();
        for (_, node, error) in &self.failed {
            let (call, cause) = split(error);
            match groups.iter_mut().find(|(_, other_call, other, _)| *other_call == call && *other == cause) {
                Some((nodes, ..)) => nodes.push(node.clone()),
                None => groups.push((vec![node.clone()], call, cause, error)),
            }
        }
        for (nodes, call, cause, error) in groups {
            let nodes = nodes.join(", ");
            match call {
                Some(call) => output::note(&format!("error: {call} on {nodes} failed: {cause}")),
                None => output::note(&format!("error: {nodes}: {cause}")),
            }
            if let Some(advice) = advice(error) {
                output::note(&format!("  next: {advice}"));
            }
        }
        if !self.skipped.is_empty() {
            output::note(&format!("not tried after this failure: {}", self.skipped.join(", ")));
        }
        match self.failed.first() {
            None => Exit::Done,
            Some((_, _, error)) if self.failed.len() + self.skipped.len() == self.nodes => exit_of(error),
            Some(_) => Exit::Partial,
        }
    }

    /// True without failures.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }
}

/// The call and the cause of an error, where it is that of a call alone.
fn split(error: &Error) -> (Option<&'static str>, String) {
    match error.downcast_ref::<ApiError>() {
        Some(failed) if error.chain().next().is_some_and(|first| first.is::<ApiError>()) => {
            let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
            (Some(failed.call), causes.join(": "))
        }
        _ => (None, format!("{error:#}")),
    }
}
