//! The range of Talos versions in a manifest.
//!
//! Talos compares major, minor and patch of the version only (Talos: extensions/validate.go), so `>= v1.14.0` takes
//! 1.14.0-beta.1 too. It is looked at when a boot asset is built, never on a node.

use semver::Version;

/// A set of versions: alternatives (`||`) of comparisons that must all hold (blank).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    alternatives: Vec<Vec<(Comparison, Version)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Text that is no range.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// An alternative without any comparison.
    #[error("failed to read the range {text:?}: there is nothing on one side of `||`")]
    Empty {
        /// The range.
        text: String,
    },
    /// No operator that Talos knows, or no full version behind it. Wildcards are not used here.
    #[error("failed to read the range {text:?}: {part:?} is not a comparison with a version X.Y.Z")]
    Comparison {
        /// The range.
        text: String,
        /// The part of it.
        part: String,
    },
}

impl Range {
    /// Reads a range. An empty one holds for every version.
    ///
    /// # Errors
    ///
    /// [`RangeError`].
    pub fn parse(text: &str) -> Result<Self, RangeError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let alternatives = text.split("||").map(|part| alternative(text, part)).collect::<Result<_, _>>()?;
        Ok(Self { alternatives })
    }

    /// True when Talos takes an extension with this range for this version.
    pub fn contains(&self, version: &Version) -> bool {
        let core = Version::new(version.major, version.minor, version.patch);
        let holds = |(comparison, bound): &(Comparison, Version)| match comparison {
            Comparison::Equal => core == *bound,
            Comparison::NotEqual => core != *bound,
            Comparison::Less => core < *bound,
            Comparison::LessOrEqual => core <= *bound,
            Comparison::Greater => core > *bound,
            Comparison::GreaterOrEqual => core >= *bound,
        };
        self.alternatives.is_empty() || self.alternatives.iter().any(|all| all.iter().all(holds))
    }

    /// True when no version is excluded for being too new.
    pub fn is_open(&self) -> bool {
        self.contains(&Version::new(u64::from(u32::MAX), 0, 0))
    }
}

fn alternative(text: &str, part: &str) -> Result<Vec<(Comparison, Version)>, RangeError> {
    let mut comparisons = Vec::new();
    let mut words = part.split_whitespace();
    while let Some(word) = words.next() {
        // A blank is allowed between the operator and the version.
        let joined = match word.trim_start_matches(['<', '>', '=', '!']) {
            "" => format!("{word}{}", words.next().unwrap_or_default()),
            _ => word.to_owned(),
        };
        let wrong = || RangeError::Comparison { text: text.to_owned(), part: joined.clone() };
        comparisons.push(comparison(&joined).ok_or_else(wrong)?);
    }
    if comparisons.is_empty() {
        return Err(RangeError::Empty { text: text.to_owned() });
    }
    Ok(comparisons)
}

fn comparison(word: &str) -> Option<(Comparison, Version)> {
    let version = word.trim_start_matches(['<', '>', '=', '!']);
    let comparison = match &word[..word.len() - version.len()] {
        "" | "=" | "==" => Comparison::Equal,
        "!" | "!=" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ => return None,
    };
    let version = version.strip_prefix('v').unwrap_or(version);
    Some((comparison, Version::parse(version).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(range: &str, version: &str) -> bool {
        Range::parse(range).unwrap().contains(&Version::parse(version).unwrap())
    }

    #[test]
    fn only_major_minor_and_patch_count() {
        assert!(holds(">= v1.14.0", "1.14.0-beta.1"));
        assert!(holds(">=1.11.0", "1.11.0"));
        assert!(!holds(">= v1.11.0", "1.10.9"));
    }

    #[test]
    fn a_blank_is_and_two_bars_are_or() {
        assert!(holds(">= v1.11.0 < v1.13.0 || = 1.14.1", "1.12.3"));
        assert!(!holds(">= v1.11.0 < v1.13.0 || = 1.14.1", "1.13.0"));
        assert!(holds(">= v1.11.0 < v1.13.0 || = 1.14.1", "1.14.1"));
        assert!(holds("!=1.12.0", "1.13.0") && !holds("!1.12.0", "1.12.0"));
        assert!(holds("", "0.0.1"));
    }

    #[test]
    fn a_range_without_upper_bound_is_open() {
        assert!(Range::parse(">= v1.11.0").unwrap().is_open());
        assert!(!Range::parse(">= v1.11.0 < v2.0.0").unwrap().is_open());
    }

    #[test]
    fn what_talos_cannot_read_is_refused() {
        for text in
            ["1.11", ">=", "~1.11.0", "^1.11.0", ">= v1.11.0 ||", "|| 1.0.0", ">= 1.x", "=> 1.0.0", "vv1.0.0"]
        {
            assert!(Range::parse(text).is_err(), "{text}");
        }
    }
}
