//! No secret in any message, and what a call is told as.

use super::*;
use node_api::csi::{
    CapacityRange, CreateVolumeRequest, NodePublishVolumeRequest, VolumeCapability,
    volume_capability::{AccessMode, AccessType, BlockVolume, access_mode::Mode},
};
use prost_reflect::{Kind, MessageDescriptor, bytes::Bytes, prost::Message};

const TOKEN: &str = "eyJhbGciOi-the-token";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &bytes].concat()
}

fn input(name: &str) -> MessageDescriptor {
    method(&format!("/csi.v1.{name}")).unwrap().input()
}

fn told(name: &str, message: &impl Message) -> String {
    Told::framed(input(name), &framed(message)).to_string()
}

/// A message in which every field is set, with the token wherever a map has words.
fn full(of: MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    for field in of.fields() {
        let one = match field.kind() {
            _ if field.is_map() => {
                let words = [TOKENS, "password", "unheard.of/key"];
                let entries = words.map(|key| {
                    (
                        MapKey::String(key.to_owned()),
                        Value::String(TOKEN.to_owned()),
                    )
                });
                message.set_field(&field, Value::Map(entries.into()));
                continue;
            }
            Kind::Message(inner) => Value::Message(full(inner)),
            Kind::Bytes => Value::Bytes(Bytes::from_static(TOKEN.as_bytes())),
            Kind::String if is_secret(&field) => Value::String(TOKEN.to_owned()),
            Kind::String => Value::String("a word".to_owned()),
            Kind::Bool => Value::Bool(true),
            Kind::Enum(_) => Value::EnumNumber(1),
            _ => Value::default_value_for_field(&field),
        };
        let value = if field.is_list() {
            Value::List(vec![one])
        } else {
            one
        };
        message.set_field(&field, value);
    }
    message
}

#[test]
fn no_message_of_any_call_shows_a_secret_or_an_unknown_keys_value() {
    let methods = &INTERFACES.methods;
    assert!(methods.len() > 35, "{}", methods.len());
    let mut maps = 0;
    for (path, method) in methods {
        for message in [method.input(), method.output()] {
            let message = full(message);
            let wire = message.encode_to_vec();
            maps += usize::from(
                wire.windows(TOKEN.len())
                    .any(|part| part == TOKEN.as_bytes()),
            );
            let told = Told::of(&message).to_string();
            assert!(!told.contains(TOKEN), "{path}: {told}");
        }
    }
    assert!(maps >= 30, "the token was in {maps} messages");
}

#[test]
fn every_field_that_is_called_like_a_secret_is_marked_as_one() {
    let messages = INTERFACES
        .methods
        .values()
        .flat_map(|method| [method.input(), method.output()]);
    let mut marked = 0;
    for field in messages.flat_map(|message| message.fields().collect::<Vec<_>>()) {
        let name = field.name();
        let paging = ["starting_token", "next_token"].contains(&name);
        let words = [
            "secret",
            "token",
            "password",
            "credential",
            "publish_context",
        ];
        let is_like = !paging && words.iter().any(|word| name.contains(word));
        assert_eq!(is_secret(&field), is_like, "{}", field.full_name());
        marked += usize::from(is_like);
    }
    assert!(marked >= 25, "{marked}");
}

#[test]
fn a_call_is_told_with_what_it_asks_for() {
    let asked = CreateVolumeRequest {
        name: "pvc-1".into(),
        capacity_range: Some(CapacityRange {
            required_bytes: 1 << 30,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![VolumeCapability {
            access_mode: Some(AccessMode {
                mode: Mode::SingleNodeWriter.into(),
            }),
            access_type: Some(AccessType::Block(BlockVolume {})),
        }],
        parameters: [("fsType", "xfs"), ("mystery", TOKEN)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        secrets: [("key".to_owned(), TOKEN.to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(
        told("Controller/CreateVolume", &asked),
        "{name: \"pvc-1\", capacity_range: {required_bytes: 1073741824}, \
         volume_capabilities: [{block: {}, access_mode: {mode: SINGLE_NODE_WRITER}}], \
         parameters: {\"fsType\": \"xfs\", \"mystery\": <redacted>}, secrets: <redacted>}"
    );
}

#[test]
fn tokens_are_redacted_where_the_kubelet_puts_them() {
    let asked = NodePublishVolumeRequest {
        volume_id: "csi-1".into(),
        publish_context: [("a".to_owned(), TOKEN.to_owned())].into(),
        secrets: [("b".to_owned(), TOKEN.to_owned())].into(),
        volume_context: [(TOKENS, TOKEN), ("csi.storage.k8s.io/pod.name", "web-0")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..Default::default()
    };
    let told = told("Node/NodePublishVolume", &asked);
    assert!(!told.contains(TOKEN), "{told}");
    assert!(
        told.contains("\"web-0\"") && told.contains("publish_context: <redacted>"),
        "{told}"
    );
    // One that a later interface adds, in a field of its own: 99, a string.
    let mut bytes = asked.encode_to_vec();
    bytes.extend([0x9a, 0x06, u8::try_from(TOKEN.len()).unwrap()]);
    bytes.extend(TOKEN.as_bytes());
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    let later = [&[0][..], &length, &bytes].concat();
    let later = Told::framed(input("Node/NodePublishVolume"), &later).to_string();
    assert_eq!(later, told);
}

#[test]
fn what_is_long_or_strange_is_one_line_of_a_bounded_length() {
    let strange = "a\n2026 INFO forged\0\u{1b}[2J\u{202e}";
    let asked = CreateVolumeRequest {
        name: strange.into(),
        ..Default::default()
    };
    let line = told("Controller/CreateVolume", &asked);
    assert!(
        line.chars().all(|c| !c.is_control() && c != '\u{202e}'),
        "{line}"
    );
    assert!(line.contains("forged"), "{line}");
    let context: HashMap<_, _> = (0..4096)
        .map(|n| (format!("{n:04}{}", "é".repeat(2000)), TOKEN.to_owned()))
        .collect();
    let asked = NodePublishVolumeRequest {
        volume_id: "x".repeat(1 << 20),
        volume_context: context,
        ..Default::default()
    };
    let line = told("Node/NodePublishVolume", &asked);
    assert!(
        line.len() <= LONGEST + 8 && !line.contains(TOKEN),
        "{}",
        line.len()
    );
    assert!(line.contains("(1048576 bytes)"), "{line}");
    // Half of it, and none.
    let half = &framed(&asked)[..9];
    assert_eq!(
        Told::framed(input("Node/NodePublishVolume"), half).to_string(),
        "<the first 9 bytes of a message>"
    );
    let none = Told::framed(input("Node/NodePublishVolume"), &[0, 0, 0, 0, 1, 0xff]);
    assert_eq!(none.to_string(), "<no such message>");
}
