//! A YAML value that is written in one of many styles, for generated configs and patches.

use crate::random::Random;

/// A value to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    /// Items.
    List(Vec<Self>),
    /// Entries in order.
    Map(Vec<(String, Self)>),
    /// Text as it stands.
    Plain(String),
    /// A string, quoted where needed.
    Str(String),
}

impl Yaml {
    /// Plain text.
    pub fn plain(text: impl Into<String>) -> Self {
        Self::Plain(text.into())
    }

    /// A string.
    pub fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// A mapping.
    pub fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// A list.
    pub fn list<const N: usize>(items: [Self; N]) -> Self {
        Self::List(items.to_vec())
    }

    /// Wraps the value into mappings, the first key outermost.
    pub fn under(self, path: &[&str]) -> Self {
        path.iter().rev().fold(self, |value, key| Self::Map(vec![((*key).to_owned(), value)]))
    }

    /// Puts another value into this one: mappings are joined, anything else is replaced.
    pub fn join(&mut self, other: Self) {
        match (self, other) {
            (Self::Map(mine), Self::Map(theirs)) => {
                for (key, value) in theirs {
                    match mine.iter_mut().find(|(name, _)| *name == key) {
                        Some((_, slot)) => slot.join(value),
                        None => mine.push((key, value)),
                    }
                }
            }
            (mine, theirs) => *mine = theirs,
        }
    }

    /// The value of an entry.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Writes the value as a document, in a style that the randomness picks.
    pub fn write(&self, random: &mut Random) -> String {
        let style = Style {
            step: if random.chance(1, 3) { 2 } else { 4 },
            indent_lists: random.chance(1, 2),
            comments: random.chance(1, 4),
            flow: random.chance(1, 4),
        };
        let mut out = String::new();
        style.block(&mut out, self, 0, random);
        out
    }
}

struct Style {
    step: usize,
    indent_lists: bool,
    comments: bool,
    flow: bool,
}

impl Style {
    fn comment(&self, out: &mut String, random: &mut Random) {
        if self.comments && random.chance(1, 6) {
            out.push_str(" # a comment: with a colon");
        }
    }

    fn block(&self, out: &mut String, value: &Yaml, indent: usize, random: &mut Random) {
        match value {
            Yaml::Map(entries) if !entries.is_empty() => {
                for (key, value) in entries {
                    if self.comments && random.chance(1, 10) {
                        out.push_str(&" ".repeat(indent));
                        out.push_str("# - commented: out\n");
                    }
                    out.push_str(&" ".repeat(indent));
                    out.push_str(&quote(key, random));
                    out.push(':');
                    let deeper = match value {
                        Yaml::List(_) if !self.indent_lists => indent,
                        _ => indent + self.step,
                    };
                    self.below(out, value, deeper, random);
                }
            }
            Yaml::List(items) if !items.is_empty() => {
                for item in items {
                    out.push_str(&" ".repeat(indent));
                    out.push('-');
                    match item {
                        Yaml::Map(entries) if !(entries.is_empty() || self.flow && random.chance(1, 3)) => {
                            let mut inner = String::new();
                            self.block(&mut inner, item, indent + 2, random);
                            // A comment may come first: then the item starts on the next line.
                            if inner.trim_start().starts_with('#') {
                                out.push('\n');
                                out.push_str(&inner);
                            } else {
                                out.push(' ');
                                out.push_str(inner.trim_start());
                            }
                        }
                        _ => self.below(out, item, indent + 2, random),
                    }
                }
            }
            other => {
                out.push_str(&" ".repeat(indent));
                out.push_str(&flow(other, random));
                out.push('\n');
            }
        }
    }

    /// A value behind a key or a dash.
    fn below(&self, out: &mut String, value: &Yaml, deeper: usize, random: &mut Random) {
        let inline = match value {
            Yaml::Map(entries) => entries.is_empty() || (self.flow && random.chance(1, 3)),
            Yaml::List(items) => items.is_empty() || (self.flow && random.chance(1, 2)),
            Yaml::Plain(_) => true,
            Yaml::Str(text) => !text.contains('\n') || text.starts_with([' ', '\n']) || random.chance(1, 3),
        };
        if inline {
            let text = flow(value, random);
            if !text.is_empty() {
                out.push(' ');
                out.push_str(&text);
            }
            self.comment(out, random);
            out.push('\n');
        } else if let Yaml::Str(text) = value {
            out.push_str(if text.ends_with('\n') { " |" } else { " |-" });
            out.push('\n');
            for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
                if !line.is_empty() {
                    out.push_str(&" ".repeat(deeper));
                    out.push_str(line);
                }
                out.push('\n');
            }
        } else {
            self.comment(out, random);
            out.push('\n');
            self.block(out, value, deeper, random);
        }
    }
}

fn flow(value: &Yaml, random: &mut Random) -> String {
    match value {
        Yaml::List(items) => {
            let items: Vec<String> = items.iter().map(|item| flow(item, random)).collect();
            format!("[{}]", items.join(", "))
        }
        Yaml::Map(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", quote(key, random), flow(value, random)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        Yaml::Plain(text) => text.clone(),
        Yaml::Str(text) => quote(text, random),
    }
}

fn quote(text: &str, random: &mut Random) -> String {
    let simple = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
        && text.starts_with(|c: char| c.is_ascii_alphabetic());
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    if text.starts_with('$')
        || (simple && !words.contains(&text.to_lowercase().as_str()) && !random.chance(1, 12))
    {
        return text.to_owned();
    }
    if text.contains('\n') || random.chance(1, 2) {
        return format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"));
    }
    format!("'{}'", text.replace('\'', "''"))
}
