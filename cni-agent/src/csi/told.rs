//! PURE: a call's messages as the log has them. One rule for every message, by its description: a field that is marked as
//! a secret is never shown, of a map's values only those of keys that are known to be harmless, and nothing at length. What
//! nobody described is not shown at all.

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MapKey, MethodDescriptor, ServiceDescriptor,
    Value,
};
use std::{
    collections::HashMap,
    fmt::{self, Write},
    sync::LazyLock,
};

/// Of one string.
const LONGEST_WORD: usize = 160;
/// Of a list or a map.
const MOST_ENTRIES: usize = 32;
/// Of a whole message.
const LONGEST: usize = 4096;
const REDACTED: &str = "<redacted>";

/// Keys of contexts, parameters and topologies whose values are no secrets: our own, and those of the kubelet and the
/// sidecars. `csi.storage.k8s.io/serviceAccount.tokens` is none of them, and so is whatever comes next.
const HARMLESS: [&str; 28] = [
    "allowUnenforced",
    "backend",
    "csi.storage.k8s.io/ephemeral",
    "csi.storage.k8s.io/fstype",
    "csi.storage.k8s.io/pod.name",
    "csi.storage.k8s.io/pod.namespace",
    "csi.storage.k8s.io/pod.uid",
    "csi.storage.k8s.io/pv/name",
    "csi.storage.k8s.io/pvc/name",
    "csi.storage.k8s.io/pvc/namespace",
    "csi.storage.k8s.io/serviceAccount.name",
    "csi.storage.k8s.io/volumegroupsnapshot/name",
    "csi.storage.k8s.io/volumegroupsnapshot/namespace",
    "csi.storage.k8s.io/volumegroupsnapshotcontent/name",
    "csi.storage.k8s.io/volumesnapshot/name",
    "csi.storage.k8s.io/volumesnapshot/namespace",
    "csi.storage.k8s.io/volumesnapshotcontent/name",
    "fsType",
    "maxFiles",
    "overcommit",
    "readBytesPerSecond",
    "readOperationsPerSecond",
    "size",
    "storage.kubernetes.io/csiProvisionerIdentity",
    "thin",
    "writeBytesPerSecond",
    "writeOperationsPerSecond",
    super::TOPOLOGY,
];

struct Interfaces {
    /// By their paths in HTTP.
    methods: HashMap<String, MethodDescriptor>,
    /// The option that marks secrets.
    secret: Option<prost_reflect::ExtensionDescriptor>,
}

/// The Container Storage Interface.
const PACKAGE: &str = "csi.v1";

/// Read once. What can't be read describes nothing, so that nothing is shown: a test has it read.
static INTERFACES: LazyLock<Interfaces> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(node_api::DESCRIPTORS).unwrap_or_default();
    // Of this driver's interface: the others have no secrets to mark.
    let is_csi = |service: &ServiceDescriptor| service.package_name() == PACKAGE;
    let services: Vec<_> = pool.services().filter(is_csi).collect();
    let methods = services.iter().flat_map(|service| {
        let path =
            move |method: &MethodDescriptor| format!("/{}/{}", service.full_name(), method.name());
        service.methods().map(move |method| (path(&method), method))
    });
    Interfaces {
        methods: methods.collect(),
        secret: pool.get_extension_by_name("csi.v1.csi_secret"),
    }
});

/// The method that a path of HTTP names.
pub(super) fn method(path: &str) -> Option<MethodDescriptor> {
    INTERFACES.methods.get(path).cloned()
}

/// A message that may be printed.
#[derive(Clone, Debug)]
pub(super) struct Told(String);

impl Told {
    /// Of a message as it came, with gRPC's five bytes before it.
    pub(super) fn framed(description: prost_reflect::MessageDescriptor, bytes: &[u8]) -> Self {
        const HEAD: usize = 5;
        let message = bytes.get(HEAD..).and_then(|rest| {
            let length = u32::from_be_bytes(bytes.get(1..HEAD)?.try_into().ok()?);
            rest.get(..usize::try_from(length).ok()?)
        });
        let Some(message) = message else {
            return Self(format!("<the first {} bytes of a message>", bytes.len()));
        };
        Self::read(description, message)
    }

    /// Of a message alone.
    pub(super) fn read(description: prost_reflect::MessageDescriptor, message: &[u8]) -> Self {
        match DynamicMessage::decode(description, message) {
            Ok(message) => Self::of(&message),
            // What the decoder says might quote it.
            Err(_) => Self("<no such message>".to_owned()),
        }
    }

    fn of(message: &DynamicMessage) -> Self {
        let mut line = Line(String::new());
        // It only ever stops at its end.
        let _cut = tell(&mut line, message);
        Self(line.0)
    }

    /// Of words that somebody else chose.
    pub(super) fn words(words: &str) -> Self {
        Self(word(words))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line that ends at its limit.
struct Line(String);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LONGEST {
            self.0.push('…');
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// One word in quotes, without what a terminal would take as a command, and not at length.
fn word(text: &str) -> String {
    match text.char_indices().nth(LONGEST_WORD) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
    }
}

fn is_secret(field: &FieldDescriptor) -> bool {
    INTERFACES
        .secret
        .as_ref()
        .is_none_or(|mark| field.options().get_extension(mark).as_bool() == Some(true))
}

fn tell(line: &mut Line, message: &DynamicMessage) -> fmt::Result {
    line.write_char('{')?;
    for (number, (field, value)) in message.fields().enumerate() {
        if number > 0 {
            line.write_str(", ")?;
        }
        write!(line, "{}: ", field.name())?;
        match is_secret(&field) {
            true => line.write_str(REDACTED)?,
            false => tell_value(line, &field, value)?,
        }
    }
    line.write_char('}')
}

fn tell_value(line: &mut Line, field: &FieldDescriptor, value: &Value) -> fmt::Result {
    match value {
        Value::Message(message) => tell(line, message),
        Value::String(text) => line.write_str(&word(text)),
        Value::Bytes(bytes) => write!(line, "<{} bytes>", bytes.len()),
        Value::EnumNumber(number) => {
            let kind = field.kind();
            let name = kind.as_enum().and_then(|of| of.get_value(*number));
            match name {
                Some(name) => line.write_str(name.name()),
                None => write!(line, "{number}"),
            }
        }
        Value::List(values) => {
            line.write_char('[')?;
            for (number, value) in values.iter().take(MOST_ENTRIES).enumerate() {
                if number > 0 {
                    line.write_str(", ")?;
                }
                tell_value(line, field, value)?;
            }
            tell_rest(line, values.len())?;
            line.write_char(']')
        }
        Value::Map(entries) => tell_map(line, entries),
        Value::Bool(value) => write!(line, "{value}"),
        Value::I32(value) => write!(line, "{value}"),
        Value::I64(value) => write!(line, "{value}"),
        Value::U32(value) => write!(line, "{value}"),
        Value::U64(value) => write!(line, "{value}"),
        Value::F32(value) => write!(line, "{value}"),
        Value::F64(value) => write!(line, "{value}"),
    }
}

fn tell_map(line: &mut Line, entries: &HashMap<MapKey, Value>) -> fmt::Result {
    let mut sorted: Vec<(&str, &Value)> = entries
        .iter()
        .map(|(key, value)| (key.as_str().unwrap_or_default(), value))
        .collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    line.write_char('{')?;
    for (number, (key, value)) in sorted.into_iter().take(MOST_ENTRIES).enumerate() {
        if number > 0 {
            line.write_str(", ")?;
        }
        match (HARMLESS.contains(&key), value.as_str()) {
            (true, Some(value)) => write!(line, "{}: {}", word(key), word(value))?,
            _ => write!(line, "{}: {REDACTED}", word(key))?,
        }
    }
    tell_rest(line, entries.len())?;
    line.write_char('}')
}

fn tell_rest(line: &mut Line, count: usize) -> fmt::Result {
    match count.saturating_sub(MOST_ENTRIES) {
        0 => Ok(()),
        more => write!(line, ", … {more} more"),
    }
}

#[cfg(test)]
mod tests;
