//! How often the engine and the official library were compared, by the rule that each pair shows.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use ichorctl::patch::{Class, TalosLine};

use crate::compare::{Agreement, Difference, Pair, Verdict, compare};
use crate::oracle::Oracle;
use crate::pairs;
use crate::pairs::rules::{self, Proof, proofs};
use crate::random::Random;

/// Pairs in one exchange with the oracle.
const BATCH: usize = 500;
/// Pairs from which on the floors below must be reached.
pub const FLOORS_FROM: usize = 20_000;
/// How often a rule of merges and deletes must be shown.
const FLOOR_RULE: usize = 50;
/// How often a contradiction must be refused.
const FLOOR_CONTRADICTION: usize = 20;

/// The count of a run.
#[derive(Debug)]
pub struct Tally {
    line: TalosLine,
    /// Pairs that were compared.
    pub pairs: usize,
    /// Pairs that both refuse, contradictions included.
    pub refused: usize,
    /// Pairs for which the official tool wrote what no node reads back.
    pub unreadable: usize,
    /// Pairs that came out differently.
    pub different: usize,
    /// The first few of them.
    pub examples: Vec<(Pair, Difference)>,
    rules: BTreeMap<String, Count>,
    classes: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Count {
    proof: Proof,
    results: usize,
    refusals: usize,
    /// Pairs that came out as the rule says.
    shown: usize,
}

impl Count {
    fn floor(&self) -> usize {
        match self.proof {
            Proof::Result | Proof::Refusal => FLOOR_RULE,
            Proof::Kinds | Proof::Contradiction(_) => FLOOR_CONTRADICTION,
        }
    }
}

impl Tally {
    /// Compares that many pairs, always the same ones for a seed. Keeps `examples` differences.
    ///
    /// # Errors
    /// When the oracle fails, not when there are differences.
    pub fn run(
        oracle: &mut Oracle,
        line: TalosLine,
        pairs: usize,
        seed: u64,
        examples: usize,
    ) -> Result<Self> {
        let mut tally = Self {
            line,
            pairs: 0,
            refused: 0,
            unreadable: 0,
            different: 0,
            examples: Vec::new(),
            rules: proofs(line)
                .into_iter()
                .map(|(label, proof)| (label, Count { proof, results: 0, refusals: 0, shown: 0 }))
                .collect(),
            classes: BTreeMap::new(),
        };
        let mut random = Random::new(seed);
        while tally.pairs < pairs {
            let count = BATCH.min(pairs - tally.pairs);
            let batch: Vec<Pair> = (0..count).map(|_| tally.next_pair(&mut random)).collect();
            let verdicts = compare(oracle, line, &batch)?;
            for (pair, verdict) in batch.into_iter().zip(verdicts) {
                tally.add(pair, verdict, examples);
            }
        }
        Ok(tally)
    }

    /// A third of the pairs goes to the rules that were shown least: some are hard to show by chance.
    fn next_pair(&self, random: &mut Random) -> Pair {
        let short = || self.rules.iter().filter(|(_, count)| count.shown < 2 * count.floor());
        let rare = random.chance(1, 3).then(|| short().nth(random.below(short().count()))).flatten();
        rare.and_then(|(label, _)| rules::pair_of(self.line, label, random))
            .unwrap_or_else(|| pairs::pair(self.line, random))
    }

    fn add(&mut self, pair: Pair, verdict: Verdict, examples: usize) {
        self.pairs += 1;
        let agreement = match verdict {
            Ok(agreement) => agreement,
            Err(difference) => {
                self.different += 1;
                if self.examples.len() < examples {
                    self.examples.push((pair, difference));
                }
                return;
            }
        };
        let class = match &agreement {
            Agreement::Contradicts(_) => Some("Contradiction".to_owned()),
            Agreement::Refused(class) => Some(format!("{class:?}")),
            Agreement::Patched(_) | Agreement::Unreadable => None,
        };
        self.unreadable += usize::from(agreement == Agreement::Unreadable);
        self.refused += usize::from(class.is_some());
        if let Some(count) = self.rules.get_mut(&pair.label) {
            // A config that contradicts itself is a result of the patch all the same.
            let patched = matches!(agreement, Agreement::Patched(_) | Agreement::Contradicts(_));
            count.results += usize::from(patched);
            count.refusals += usize::from(class.is_some());
            count.shown += usize::from(match (&count.proof, &agreement) {
                (Proof::Result, _) => patched,
                (Proof::Refusal, Agreement::Refused(_)) => true,
                (Proof::Kinds, Agreement::Refused(class)) => *class == Class::ConflictingDocuments,
                (Proof::Contradiction(text), Agreement::Contradicts(found)) => {
                    found.iter().any(|found| found.contains(text.as_str()))
                }
                _ => false,
            });
        }
        if let Some(class) = class {
            *self.classes.entry(class).or_default() += 1;
        }
    }

    /// What a run of [`FLOORS_FROM`] pairs and more should have shown and did not.
    pub fn shortfalls(&self) -> Vec<String> {
        let mut short: Vec<String> = self
            .rules
            .iter()
            .filter(|(_, count)| count.shown < count.floor())
            .map(|(label, count)| {
                format!("{label}: shown {} times, {} are needed", count.shown, count.floor())
            })
            .collect();
        if self.refused * 4 < self.pairs {
            short.push(format!("{} refusals of {} pairs are less than a quarter", self.refused, self.pairs));
        }
        short
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:7} {:8} {:7} rule", "results", "refusals", "shown")?;
        for (label, count) in &self.rules {
            writeln!(f, "{:7} {:8} {:7} {label}", count.results, count.refusals, count.shown)?;
        }
        writeln!(f, "refusals by class")?;
        for (class, count) in &self.classes {
            writeln!(f, "{count:7} {class}")?;
        }
        write!(
            f,
            "line {}: {} pairs, {} refused by both, {} that no node reads back, {} different",
            self.line, self.pairs, self.refused, self.unreadable, self.different
        )
    }
}

/// Where two texts differ, with a few lines around it.
pub fn excerpt(ours: &str, theirs: &str) -> String {
    let (ours, theirs): (Vec<&str>, Vec<&str>) = (ours.lines().collect(), theirs.lines().collect());
    let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let end = ours[same..].iter().rev().zip(theirs[same..].iter().rev()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(4);
    let mut out: Vec<String> = ours[from..same].iter().map(|line| format!("  {line}")).collect();
    out.extend(ours[same..ours.len() - end].iter().take(20).map(|line| format!("- {line}")));
    out.extend(theirs[same..theirs.len() - end].iter().take(20).map(|line| format!("+ {line}")));
    out.join("\n")
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ours -, theirs +\n{}", self.what, excerpt(&self.ours, &self.theirs))
    }
}
