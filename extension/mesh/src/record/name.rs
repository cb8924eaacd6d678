//! Names of members, sites and networks, and patterns of names.

use std::fmt;
use std::str::FromStr;

/// Longest name, as that of a Kubernetes node (RFC 1123 section 2.1).
const MAX_NAME: usize = 253;
/// Longest label of a name (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// A name in lower-case letters, digits, hyphens and dots: an RFC 1123 host name, as Kubernetes wants for nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let valid = text.len() <= MAX_NAME && text.split('.').all(is_label);
        if valid { Ok(Self(text.to_owned())) } else { Err(BadName) }
    }
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A text that is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name: expected lower-case letters, digits, hyphens and dots, as in a host name")]
pub struct BadName;

/// Which names a token may be used for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamePattern {
    /// This name.
    Exact(Name),
    /// Every name that begins and ends like this: a pool.
    Pool {
        /// What comes before the star.
        prefix: String,
        /// What comes after it.
        suffix: String,
    },
}

impl NamePattern {
    /// Whether `name` is one of them.
    pub fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Pool { prefix, suffix } => {
                // The star stands for something.
                name.0.len() > prefix.len() + suffix.len()
                    && name.0.starts_with(prefix.as_str())
                    && name.0.ends_with(suffix.as_str())
            }
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Pool { prefix, suffix } => write!(f, "{prefix}*{suffix}"),
        }
    }
}

impl FromStr for NamePattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let Some((prefix, suffix)) = text.split_once('*') else {
            return text.parse().map(Self::Exact).map_err(|BadName| BadPattern);
        };
        // With something in place of the star it must be a name.
        if format!("{prefix}x{suffix}").parse::<Name>().is_err() {
            return Err(BadPattern);
        }
        Ok(Self::Pool { prefix: prefix.to_owned(), suffix: suffix.to_owned() })
    }
}

/// A text that is no pattern of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a pattern of names: expected a name with at most one star, as in worker-*")]
pub struct BadPattern;

/// What a member is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// A Kubernetes control plane: pairs of them are always warm.
    ControlPlane = 1,
    /// A Kubernetes worker.
    Worker = 2,
    /// Only forwards for others.
    Relay = 3,
    /// An operator's machine, without Kubernetes.
    Admin = 4,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::ControlPlane, Self::Worker, Self::Relay, Self::Admin];

    /// The role as one byte.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The role that `byte` stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.byte() == byte)
    }

    /// The role as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "controlplane",
            Self::Worker => "worker",
            Self::Relay => "relay",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = BadRole;

    fn from_str(text: &str) -> Result<Self, BadRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(BadRole)
    }
}

/// A text that is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a role: expected controlplane, worker, relay or admin")]
pub struct BadRole;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_names() {
        for good in ["a", "cp-1", "node-1.rack-2.example.com", "0", &"a".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in
            ["", "-a", "a-", "A", "a_b", "a b", "a..b", ".a", "a.", "é", &"a".repeat(64), &"a.".repeat(130)]
        {
            assert_eq!(bad.parse::<Name>(), Err(BadName), "{bad}");
        }
    }

    #[test]
    fn a_pool_matches_what_stands_for_its_star() {
        let pool: NamePattern = "worker-*.site-a".parse().unwrap();
        let matches = |name: &str| pool.matches(&name.parse().unwrap());
        assert!(matches("worker-1.site-a"));
        assert!(matches("worker-x.y.site-a"));
        assert!(!matches("worker-1.site-b"));
        assert!(!matches("cp-1.site-a"));
        assert_eq!(pool.to_string(), "worker-*.site-a");
        assert_eq!("a*b*".parse::<NamePattern>(), Err(BadPattern));
        assert!("*".parse::<NamePattern>().unwrap().matches(&"anything".parse().unwrap()));
    }

    #[test]
    fn an_exact_name_matches_itself() {
        let exact: NamePattern = "cp-1".parse().unwrap();
        assert!(exact.matches(&"cp-1".parse().unwrap()));
        assert!(!exact.matches(&"cp-11".parse().unwrap()));
    }

    #[test]
    fn roles_have_two_forms() {
        for role in Role::ALL {
            assert_eq!(Role::from_byte(role.byte()), Some(role));
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert_eq!(Role::from_byte(9), None);
        assert_eq!("boss".parse::<Role>(), Err(BadRole));
    }
}
