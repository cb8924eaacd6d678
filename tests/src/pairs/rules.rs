//! Pairs that show one rule each.

use ichorctl::patch::TalosLine;

use super::random_pair;
use crate::compare::Pair;
use crate::random::Random;

/// A pair for one of the rules.
pub fn pair(line: TalosLine, random: &mut Random) -> Pair {
    random_pair(line, random)
}
