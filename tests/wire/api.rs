//! The API as `proto/talos` describes it, and what can be said about any of its messages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage as _, Value,
};

/// The descriptors of all `.proto` files.
pub(crate) static API: LazyLock<Api> = LazyLock::new(Api::read);

pub(crate) struct Api {
    /// A FileDescriptorSet.
    pub(crate) encoded: Vec<u8>,
    pool: DescriptorPool,
}

impl Api {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/talos");
        let mut files = Vec::new();
        collect(&root, &root, &mut files);
        let set = protox::compile(&files, [&root]).unwrap();
        let encoded = set.encode_to_vec();
        Self { encoded, pool: DescriptorPool::from_file_descriptor_set(set).unwrap() }
    }

    /// All methods, as `/package.Service/Method`.
    pub(crate) fn methods(&self) -> BTreeSet<String> {
        let methods = self
            .pool
            .services()
            .flat_map(|service| service.methods().map(|it| path(&it)).collect::<Vec<_>>());
        methods.collect()
    }

    /// The method that generated code calls `function`.
    pub(crate) fn method(&self, service: &str, function: &str) -> MethodDescriptor {
        let squeezed = function.replace('_', "");
        let service = self.pool.get_service_by_name(service).unwrap();
        let found = service.methods().find(|method| method.name().to_lowercase() == squeezed);
        found.unwrap_or_else(|| panic!("{} has no {function}", service.full_name()))
    }

    pub(crate) fn method_at(&self, path: &str) -> MethodDescriptor {
        let (service, name) = path.trim_start_matches('/').split_once('/').unwrap();
        let service = self.pool.get_service_by_name(service).unwrap();
        service.methods().find(|method| method.name() == name).unwrap()
    }

    /// All messages of ours: without those of protobuf itself.
    pub(crate) fn messages(&self) -> impl Iterator<Item = MessageDescriptor> {
        let is_ours = |it: &MessageDescriptor| !it.is_map_entry() && it.package_name() != "google.protobuf";
        self.pool.all_messages().filter(is_ours)
    }
}

pub(crate) fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// Reads a message as the `.proto` files describe it. Every field must be known to them.
pub(crate) fn decode(descriptor: MessageDescriptor, bytes: &[u8]) -> DynamicMessage {
    let message = DynamicMessage::decode(descriptor, bytes).unwrap();
    assert_known(&message);
    message
}

fn assert_known(message: &DynamicMessage) {
    let name = message.descriptor().full_name().to_owned();
    let unknown: Vec<u32> = message.unknown_fields().map(|field| field.number()).collect();
    assert!(unknown.is_empty(), "{name} has unknown fields {unknown:?}");
    each_message(message, &mut assert_known);
}

/// Notes every field that is set somewhere in a message, as `package.Message.field`.
pub(crate) fn cover(message: &DynamicMessage, covered: &mut BTreeSet<String>) {
    covered.extend(message.fields().map(|(field, _)| field.full_name().to_owned()));
    each_message(message, &mut |inner| cover(inner, covered));
}

fn each_message(message: &DynamicMessage, visit: &mut dyn FnMut(&DynamicMessage)) {
    for (_, value) in message.fields() {
        match value {
            Value::Message(inner) => visit(inner),
            Value::List(items) => items.iter().filter_map(Value::as_message).for_each(&mut *visit),
            Value::Map(entries) => entries.values().filter_map(Value::as_message).for_each(&mut *visit),
            _ => {}
        }
    }
}

/// All fields that a message can have, the messages in it not included.
pub(crate) fn fields(message: &MessageDescriptor) -> impl Iterator<Item = String> {
    message.fields().map(|field| field.full_name().to_owned()).collect::<Vec<_>>().into_iter()
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path.strip_prefix(root).unwrap().to_owned());
        }
    }
}
