//! Compares the YAML parser with the one of a Talos line: `yaml-oracle --line 1.14 --texts 20000 --seed 1`.
//!
//! Prints every text on which they differ, and fails when there was one.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ichor_tests::oracle::{Node, Oracle, Request};
use ichor_tests::random::Random;
use ichor_tests::yaml_text;
use ichorctl::machine::{self, Dialect, Document, Kind, NodeId, scalar};

#[derive(Debug, Parser)]
struct Args {
    /// Talos line: 1.11, 1.12, 1.13 or 1.14
    #[arg(long, default_value = "1.14")]
    line: String,
    /// How many texts
    #[arg(long, default_value_t = 20_000)]
    texts: usize,
    /// Seed of the generator
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many differences are printed
    #[arg(long, default_value_t = 20)]
    show: usize,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut oracle = Oracle::start(&args.line)?.context("there is no Go here")?;
    let dialect = match args.line.as_str() {
        "1.11" => Dialect::V3,
        "1.12" => Dialect::V4Rc3,
        "1.13" => Dialect::V4Rc4,
        _ => Dialect::V4Rc6,
    };
    let mut random = Random::new(args.seed);
    let mut out = io::stdout().lock();
    let (mut different, mut refused) = (0, 0);
    let mut done = 0;
    while done < args.texts {
        let texts: Vec<Vec<u8>> = (0..500).map(|_| yaml_text::text(&mut random)).collect();
        let requests: Vec<_> = texts.iter().map(|text| Request::tree(text)).collect();
        for (text, answer) in texts.iter().zip(oracle.ask_all(&requests)?) {
            let ours = machine::parse(text, dialect);
            let same = match (&ours, answer.ok) {
                (Ok(documents), true) => {
                    documents.len() == answer.tree.len()
                        && documents.iter().zip(&answer.tree).all(|(ours, theirs)| {
                            theirs
                                .content
                                .first()
                                .is_some_and(|root| equal(&ours.tree, ours.tree.root(), root, dialect))
                        })
                }
                (Err(_), false) => {
                    refused += 1;
                    true
                }
                _ => false,
            };
            if !same {
                different += 1;
                if different <= args.show {
                    writeln!(out, "--- {:?}", String::from_utf8_lossy(text))?;
                    writeln!(out, "ours:   {}", describe(&ours.map(|d| d.len()).map_err(|e| e.to_string())))?;
                    writeln!(out, "theirs: {} {}", answer.error, brief(&answer.tree))?;
                }
            }
        }
        done += texts.len();
    }
    writeln!(out, "line {}: {done} texts, {refused} refused by both, {different} different", args.line)?;
    Ok(if different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(ours: &Result<usize, String>) -> String {
    match ours {
        Ok(count) => format!("{count} documents"),
        Err(error) => error.clone(),
    }
}

fn brief(tree: &[Node]) -> String {
    let one = |node: &Node| -> String {
        fn walk(node: &Node, out: &mut String) {
            out.push_str(&format!("({} {} {:?}", node.kind, node.tag, node.value));
            for child in &node.content {
                walk(child, out);
            }
            out.push(')');
        }
        let mut out = String::new();
        walk(node, &mut out);
        out
    };
    tree.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn equal(tree: &Document, id: NodeId, theirs: &Node, dialect: Dialect) -> bool {
    let node = tree.node(id);
    let tag = match &node.kind {
        Kind::Scalar { .. } => match &node.tag {
            Some(tag) if &**tag != "!" => tag.to_string(),
            _ => scalar::of_node(tree, id, dialect).map_or_else(|m| m.wanted.to_string(), |s| s.tag().into()),
        },
        Kind::Mapping(_) => node.tag.as_deref().filter(|tag| *tag != "!").unwrap_or("!!map").into(),
        Kind::Sequence(_) => node.tag.as_deref().filter(|tag| *tag != "!").unwrap_or("!!seq").into(),
        Kind::Alias(_) => String::new(),
    };
    let shape = match &node.kind {
        Kind::Scalar { text, .. } => theirs.kind == "scalar" && **text == *theirs.value,
        Kind::Mapping(entries) => {
            theirs.kind == "mapping"
                && entries.len() * 2 == theirs.content.len()
                && entries.iter().zip(theirs.content.chunks(2)).all(|((key, value), pair)| {
                    equal(tree, *key, &pair[0], dialect) && equal(tree, *value, &pair[1], dialect)
                })
        }
        Kind::Sequence(items) => {
            theirs.kind == "sequence"
                && items.len() == theirs.content.len()
                && items.iter().zip(&theirs.content).all(|(item, their)| equal(tree, *item, their, dialect))
        }
        Kind::Alias(_) => theirs.kind == "alias",
    };
    shape
        && node.anchor.as_deref().unwrap_or_default()
            == if theirs.kind == "alias" { "" } else { &theirs.anchor }
        && (theirs.kind == "alias" || tag == theirs.tag)
}
