//! The types that a Talos line decodes its configs into, read from the table that the oracle dumps.
//!
//! Decoding, merging, deleting and encoding all walk these types: what Talos does to a value is decided by the
//! Go type that holds it, not by how the value was written.

use std::collections::{BTreeMap, HashMap};

use super::codec::Codec;

/// Index of a type in its [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(usize);

/// The kind of a Go type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// `any`: whatever the text says.
    Any,
    /// `bool`
    Bool,
    /// `[]byte`
    Bytes,
    /// `float32`, `float64`
    Float,
    /// Signed, with its bits.
    Int(u32),
    /// Something that is neither read nor written by field.
    Opaque,
    /// `*T`
    Pointer(TypeId),
    /// `[]T`
    List(TypeId),
    /// `map[K]T`; keys are text.
    Map(TypeId),
    /// `string`
    Str,
    /// Fields in order.
    Struct(Vec<Field>),
    /// Unsigned, with its bits.
    Uint(u32),
}

/// A Go type.
#[derive(Debug, Clone)]
pub struct Type {
    /// As Go prints it.
    pub name: String,
    /// Its kind.
    pub shape: Shape,
    /// How it is read and written, where that is not by its kind.
    pub codec: Codec,
    /// Has its own way to merge.
    pub merges: bool,
    /// Says itself when it is zero.
    pub says_zero: bool,
    /// Prints itself in its own way where a list item is looked for by its text.
    pub prints: bool,
}

/// A field of a struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in Go.
    pub name: String,
    /// Its key in YAML; empty when it has none.
    pub key: String,
    /// Its type.
    pub typ: TypeId,
    /// Left out when zero.
    pub omit_empty: bool,
    /// Replaced as a whole by a patch.
    pub replace: bool,
    /// Its fields or entries count as those of the struct around it.
    pub inline: bool,
    /// Not exported: neither read nor written, and a merge that reaches it fails.
    pub hidden: bool,
    /// Has a `yaml` tag; deletes look for tags only.
    pub tagged: bool,
}

/// A kind of document.
#[derive(Debug, Clone)]
pub struct KindInfo {
    /// What it is decoded into.
    pub typ: TypeId,
    /// Told apart by `name`.
    pub named: bool,
    /// Refused on workers by validation.
    pub control_plane: bool,
    /// Configures the link of its name.
    pub link: bool,
    /// Kinds that may not occur with the same name.
    pub conflicts: Vec<String>,
}

/// What validation refuses beside a document of a kind.
#[derive(Debug, Clone)]
pub struct Conflict {
    /// Kind of the document.
    pub kind: String,
    /// Key path in the legacy document.
    pub path: Vec<String>,
    /// Refused only when the setting is not zero; else when it is there at all.
    pub nonzero: bool,
    /// Only when the document has this field set.
    pub only_with: Option<String>,
    /// The official text.
    pub text: String,
}

/// Everything known about one Talos line.
#[derive(Debug)]
pub struct Schema {
    types: Vec<Type>,
    /// By kind; the legacy document is `v1alpha1`.
    pub kinds: BTreeMap<String, KindInfo>,
    /// What validation refuses side by side.
    pub conflicts: Vec<Conflict>,
    /// Key paths of free-form values that a copy of a document shares with it.
    pub shared: Vec<(String, Vec<String>)>,
    /// Key paths that hold secrets, per kind, with `*` for any key and `[]` for any item.
    pub secrets: Vec<(String, Vec<String>)>,
}

impl Schema {
    /// The type of this id.
    pub fn typ(&self, id: TypeId) -> &Type {
        &self.types[id.0]
    }

    /// Reads a table. The tables are part of the program and tested; a line that is not understood is skipped.
    pub(super) fn parse(table: &str) -> Self {
        let mut reader = TableReader::default();
        for line in table.lines() {
            reader.line(line);
        }
        reader.finish()
    }
}

#[derive(Default)]
struct TableReader {
    types: Vec<Type>,
    ids: HashMap<String, TypeId>,
    defined: Vec<(TypeId, Vec<Field>)>,
    kinds: BTreeMap<String, KindInfo>,
    conflicts: Vec<Conflict>,
    shared: Vec<(String, Vec<String>)>,
    secrets: Vec<(String, Vec<String>)>,
}

impl TableReader {
    fn line(&mut self, line: &str) {
        if let Some(field) = line.strip_prefix("  ") {
            let words: Vec<&str> = field.split(' ').collect();
            if let [name, key, typ, flags @ ..] = words.as_slice() {
                let has = |flag| flags.contains(&flag);
                let field = Field {
                    name: (*name).to_owned(),
                    key: if *key == "-" { String::new() } else { (*key).to_owned() },
                    typ: self.id(typ),
                    omit_empty: has("omitempty"),
                    replace: has("replace"),
                    inline: has("inline"),
                    hidden: has("hidden"),
                    tagged: !has("untagged"),
                };
                if let Some((_, fields)) = self.defined.last_mut() {
                    fields.push(field);
                }
            }
            return;
        }
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["kind", kind, typ, flags @ ..] => {
                let kind = if *kind == "-" { "v1alpha1" } else { kind };
                let conflicts = flags.iter().find_map(|flag| flag.strip_prefix("conflicts="));
                let info = KindInfo {
                    typ: self.id(typ),
                    named: flags.contains(&"named"),
                    control_plane: flags.contains(&"controlplane"),
                    link: flags.contains(&"link"),
                    conflicts: conflicts
                        .map(|list| list.split(',').map(str::to_owned).collect())
                        .unwrap_or_default(),
                };
                self.kinds.insert(kind.to_owned(), info);
            }
            ["type", name, underlying, flags @ ..] => {
                let id = self.id(name);
                let shape =
                    if *underlying == "struct" { Shape::Struct(Vec::new()) } else { self.shape(underlying) };
                let typ = &mut self.types[id.0];
                typ.shape = shape;
                typ.codec = Codec::of(name, flags);
                typ.merges = flags.contains(&"merge");
                typ.says_zero = flags.contains(&"iszero");
                typ.prints = flags.contains(&"string");
                self.defined.push((id, Vec::new()));
            }
            ["enum", name, values @ ..] => {
                let id = self.id(name);
                self.types[id.0].codec = Codec::enumeration(name, values);
            }
            ["conflict", kind, path, condition, text @ ..] => {
                let (only_with, text) = match text.split_first() {
                    Some((first, rest)) if first.starts_with("if=") => (first.strip_prefix("if="), rest),
                    _ => (None, text),
                };
                self.conflicts.push(Conflict {
                    kind: (*kind).to_owned(),
                    path: path.split('.').map(str::to_owned).collect(),
                    nonzero: *condition == "nonzero",
                    only_with: only_with.map(str::to_owned),
                    text: text.join(" "),
                });
            }
            [list @ ("secret" | "shared"), kind, path] => {
                let kind = if *kind == "-" { "v1alpha1" } else { kind };
                let path =
                    path.split('.').map(|key| if key.starts_with('[') { "[]" } else { key }.to_owned());
                let entry = (kind.to_owned(), path.collect());
                if *list == "secret" { self.secrets.push(entry) } else { self.shared.push(entry) }
            }
            _ => {}
        }
    }

    /// The id of a type expression; what is not defined yet gets its definition later.
    fn id(&mut self, name: &str) -> TypeId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = TypeId(self.types.len());
        self.ids.insert(name.to_owned(), id);
        let opaque = Type {
            name: name.to_owned(),
            shape: Shape::Opaque,
            codec: Codec::Kind,
            merges: false,
            says_zero: false,
            prints: false,
        };
        self.types.push(opaque);
        let shape = self.shape(name);
        self.types[id.0].shape = shape;
        id
    }

    fn shape(&mut self, name: &str) -> Shape {
        match name {
            "any" => Shape::Any,
            "bool" => Shape::Bool,
            "string" => Shape::Str,
            "[]uint8" => Shape::Bytes,
            "float32" | "float64" => Shape::Float,
            "int" | "int64" => Shape::Int(64),
            "int8" => Shape::Int(8),
            "int16" => Shape::Int(16),
            "int32" => Shape::Int(32),
            "uint" | "uint64" => Shape::Uint(64),
            "uint8" => Shape::Uint(8),
            "uint16" => Shape::Uint(16),
            "uint32" => Shape::Uint(32),
            _ => {
                if let Some(target) = name.strip_prefix('*') {
                    Shape::Pointer(self.id(target))
                } else if let Some(item) = name.strip_prefix("[]") {
                    Shape::List(self.id(item))
                } else if let Some((_, value)) =
                    name.strip_prefix("map[").and_then(|rest| rest.split_once(']'))
                {
                    Shape::Map(self.id(value))
                } else {
                    Shape::Opaque
                }
            }
        }
    }

    fn finish(mut self) -> Schema {
        for (id, fields) in self.defined {
            if let Shape::Struct(empty) = &mut self.types[id.0].shape {
                *empty = fields;
            }
        }
        Schema {
            types: self.types,
            kinds: self.kinds,
            conflicts: self.conflicts,
            shared: self.shared,
            secrets: self.secrets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TalosLine;
    use super::*;

    #[test]
    fn every_type_that_a_document_holds_is_defined() {
        for line in TalosLine::ALL {
            let schema = line.schema();
            assert!(schema.kinds.contains_key("v1alpha1"), "{line}");
            for (kind, info) in &schema.kinds {
                let mut seen = std::collections::HashSet::new();
                let mut open = vec![info.typ];
                while let Some(id) = open.pop() {
                    if !seen.insert(id) {
                        continue;
                    }
                    let typ = schema.typ(id);
                    match &typ.shape {
                        Shape::Pointer(inner) | Shape::List(inner) | Shape::Map(inner) => open.push(*inner),
                        Shape::Struct(fields) if typ.codec == Codec::Kind => {
                            open.extend(fields.iter().filter(|field| !field.hidden).map(|field| field.typ));
                        }
                        Shape::Opaque => assert_ne!(typ.codec, Codec::Kind, "{line} {kind}: {}", typ.name),
                        _ => {}
                    }
                }
            }
        }
    }
}
