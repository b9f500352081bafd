//! Callers who mean no good: ids of others and of nobody, names as long as they may be, links where volumes go, tokens in
//! every context. They are refused, nothing of theirs is made, and the agent's log has the calls without the tokens.

use super::{
    client::{Client, Form, Of, Refused},
    node::Node,
};
use node_api::csi;
use std::{collections::HashMap, fs, os::unix::fs::symlink, path::Path};
use tonic::Code;

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.of-a-service-account";

/// Codes that a caller who means no good may see. Never one of a machine that fails.
const REFUSED: [Code; 3] = [
    Code::InvalidArgument,
    Code::NotFound,
    Code::FailedPrecondition,
];

fn words(key: &str) -> HashMap<String, String> {
    [(key.to_owned(), TOKEN.to_owned())].into()
}

fn context() -> HashMap<String, String> {
    let mut context = words("csi.storage.k8s.io/serviceAccount.tokens");
    context.insert("csi.storage.k8s.io/pod.name".to_owned(), "web-0".to_owned());
    context
}

/// Ids that are nobody's.
fn ids() -> Vec<String> {
    let mut ids = [
        "../../../../etc/passwd",
        "vol-../../../../../../../../etc/",
        "vol-0123456789abcdef0123456789abcde\0",
        "vol-00000000000000000000000000000000",
        "snap-00000000000000000000000000000000",
        "VOL-0123456789abcdef0123456789abcdef",
        "/etc/passwd",
        ".",
        " ",
        "\u{202e}lov-\u{2603}\n",
        "%2e%2e%2f",
    ]
    .map(str::to_owned)
    .to_vec();
    ids.extend(["a".repeat(128), "a".repeat(129), "é".repeat(2048)]);
    ids
}

/// What each call that names a volume, a snapshot or a group answers.
fn ask_all(client: &Client, id: &str, at: &Path) -> Vec<(&'static str, Result<(), Refused>)> {
    let form = Form::Ext4;
    let members = [id.to_owned()];
    vec![
        ("delete", client.delete(id)),
        ("attach", client.attach(id, form)),
        ("detach", client.detach(id)),
        ("expand", client.expand(id, 1 << 30)),
        ("grow", client.grow(id, at, 1 << 30)),
        ("snapshot", client.snapshot("s", id).map(drop)),
        ("delete snapshot", client.delete_snapshot(id)),
        ("group", client.snapshots("g", &members).map(drop)),
        ("delete group", client.delete_group(id, &members.into())),
        (
            "clone",
            client
                .create(form.volume("c", &Of::Volume(id.to_owned())))
                .map(drop),
        ),
        (
            "restore",
            client
                .create(form.volume("r", &Of::Snapshot(id.to_owned())))
                .map(drop),
        ),
        ("stage", client.stage(id, at, form)),
        ("publish", client.publish(id, at, at, form)),
        ("unpublish", client.unpublish(id, at)),
        ("unstage", client.unstage(id, at)),
    ]
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn ids_of_nobody_are_refused_and_make_nothing() {
    let node = Node::new();
    let client = Client::lazy(&node.socket()).unwrap();
    let at = node.place("at");
    for id in ids() {
        for (what, answer) in ask_all(&client, &id, &at) {
            // Of what isn't there nothing has to be taken away.
            let is_end = ["de", "un"].iter().any(|word| what.starts_with(word));
            match answer {
                Ok(()) => assert!(is_end, "{what} of {id:?}"),
                Err(status) => {
                    assert!(
                        REFUSED.contains(&status.code()),
                        "{what} of {id:?}: {status}"
                    );
                    let folder = node.place("").display().to_string();
                    assert!(
                        !status.message().contains(&folder),
                        "{what} of {id:?}: {status}"
                    );
                }
            }
        }
    }
    assert!(!at.exists());
    assert_eq!(node.left(), Default::default());
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn names_are_the_callers_and_never_those_of_files() {
    let node = Node::new();
    let client = Client::lazy(&node.socket()).unwrap();
    for name in [
        "../../../../../../tmp/x".to_owned(),
        "é".repeat(64),
        "a".repeat(128),
        "{}$(id)`id`;'\"*?\u{202e}".to_owned(),
    ] {
        let id = client
            .create(Form::Block.volume(&name, &Of::Nothing))
            .unwrap();
        let snapshot = client.snapshot(&name, &id).unwrap();
        let files = node.files();
        assert_eq!(files.len(), 2, "{files:?}");
        for file in files {
            let is_ours = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            assert!(file.bytes().all(is_ours), "{file}");
        }
        client.delete_snapshot(&snapshot).unwrap();
        client.delete(&id).unwrap();
    }
    for name in [
        "a".repeat(129),
        "a\0b".to_owned(),
        "a\nb".to_owned(),
        String::new(),
    ] {
        let status = client
            .create(Form::Block.volume(&name, &Of::Nothing))
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}");
    }
    assert_eq!(node.left(), Default::default());
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn links_where_a_volume_goes_lead_nowhere() {
    let node = Node::new();
    let client = Client::lazy(&node.socket()).unwrap();
    let form = Form::Ext4;
    let (victim, kept) = (node.place("victim"), node.place("victim/kept"));
    fs::create_dir(&victim).unwrap();
    fs::write(&kept, "kept").unwrap();
    let link = node.place("link");
    symlink(&victim, &link).unwrap();
    let id = client.create(form.volume("v", &Of::Nothing)).unwrap();
    let refused = |answer: Result<(), Refused>| {
        let status = answer.unwrap_err();
        assert!(REFUSED.contains(&status.code()), "{status}");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
    };
    refused(client.stage(&id, &link, form));
    let (stage, at) = (node.place("stage"), node.place("at"));
    client.stage(&id, &stage, form).unwrap();
    refused(client.publish(&id, &stage, &link, form));
    refused(client.publish(&id, &link, &at, form));
    client.unpublish(&id, &link).unwrap();
    client.unpublish(&id, &at).unwrap();
    client.unstage(&id, &link).unwrap();
    client.unstage(&id, &stage).unwrap();
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");

    // In place of its file: somebody else's is neither read nor written nor removed.
    let secret = node.place("secret");
    fs::write(&secret, vec![7; 1 << 20]).unwrap();
    let roots = [node.place("pool/pool/volumes"), node.place("pool/volumes")];
    let folder = roots.iter().find(|root| root.exists()).unwrap();
    let file = folder.join(node.files().pop().unwrap());
    fs::remove_file(&file).unwrap();
    symlink(&secret, &file).unwrap();
    for answer in [
        client.stage(&id, &stage, form),
        client.snapshot("s", &id).map(drop),
        client
            .create(form.volume("c", &Of::Volume(id.clone())))
            .map(drop),
        client.expand(&id, 1 << 30),
    ] {
        let status = answer.unwrap_err();
        let secret = secret.display().to_string();
        assert!(!status.message().contains(&secret), "{status}");
    }
    assert_eq!(fs::read(&secret).unwrap(), vec![7; 1 << 20]);
    client.unstage(&id, &stage).ok();
    client.delete(&id).unwrap();
    assert_eq!(fs::read(&secret).unwrap(), vec![7; 1 << 20]);
    assert_eq!(node.left(), Default::default());
}

/// Each call that has a place for secrets or contexts, with a token in each of these.
fn ask_with_tokens(client: &Client, node: &Node) {
    let form = Form::Ext4;
    let capability = Some(form.into());
    let (stage, at) = (node.place("stage"), node.place("at"));
    let create = csi::CreateVolumeRequest {
        name: "pvc-1".to_owned(),
        volume_capabilities: vec![form.into()],
        secrets: words("key"),
        ..Default::default()
    };
    // Refused, and as silent.
    let unknown = csi::CreateVolumeRequest {
        parameters: words("password"),
        mutable_parameters: words("password"),
        ..create.clone()
    };
    client
        .controller(|mut it| async move { it.create_volume(unknown).await.map(drop) })
        .unwrap_err();
    let made = client.controller(|mut it| async move { it.create_volume(create).await });
    let volume_id = made.unwrap().into_inner().volume.unwrap().volume_id;
    let attach = csi::ControllerPublishVolumeRequest {
        volume_id: volume_id.clone(),
        node_id: "n1".to_owned(),
        volume_capability: capability.clone(),
        secrets: words("key"),
        volume_context: context(),
        ..Default::default()
    };
    client
        .controller(|mut it| async move { it.controller_publish_volume(attach).await })
        .unwrap();
    let validate = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: volume_id.clone(),
        volume_capabilities: vec![form.into()],
        volume_context: context(),
        parameters: words("password"),
        secrets: words("key"),
        ..Default::default()
    };
    client
        .controller(|mut it| async move { it.validate_volume_capabilities(validate).await })
        .unwrap();
    let stage_it = csi::NodeStageVolumeRequest {
        volume_id: volume_id.clone(),
        staging_target_path: stage.display().to_string(),
        volume_capability: capability.clone(),
        publish_context: words("key"),
        secrets: words("key"),
        volume_context: context(),
    };
    client
        .kubelet(|mut it| async move { it.node_stage_volume(stage_it).await })
        .unwrap();
    let publish = csi::NodePublishVolumeRequest {
        volume_id: volume_id.clone(),
        staging_target_path: stage.display().to_string(),
        target_path: at.display().to_string(),
        volume_capability: capability.clone(),
        publish_context: words("key"),
        secrets: words("key"),
        volume_context: context(),
        ..Default::default()
    };
    // Once as it should be, once in a way that is refused.
    let inline = csi::NodePublishVolumeRequest {
        volume_id: "csi-1".to_owned(),
        volume_context: [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("password", TOKEN),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        ..publish.clone()
    };
    client
        .kubelet(|mut it| async move { it.node_publish_volume(inline).await.map(drop) })
        .unwrap_err();
    client
        .kubelet(|mut it| async move { it.node_publish_volume(publish).await })
        .unwrap();
    let grow = csi::NodeExpandVolumeRequest {
        volume_id: volume_id.clone(),
        volume_path: at.display().to_string(),
        secrets: words("key"),
        ..Default::default()
    };
    client
        .kubelet(|mut it| async move { it.node_expand_volume(grow).await })
        .unwrap();
    let expand = csi::ControllerExpandVolumeRequest {
        volume_id: volume_id.clone(),
        capacity_range: Some(csi::CapacityRange {
            required_bytes: 2 << 30,
            limit_bytes: 0,
        }),
        secrets: words("key"),
        ..Default::default()
    };
    client
        .controller(|mut it| async move { it.controller_expand_volume(expand).await })
        .unwrap();
    let modify = csi::ControllerModifyVolumeRequest {
        volume_id: volume_id.clone(),
        secrets: words("key"),
        mutable_parameters: words("password"),
    };
    client
        .controller(|mut it| async move { it.controller_modify_volume(modify).await.map(drop) })
        .unwrap_err();
    let snapshot = csi::CreateSnapshotRequest {
        name: "s".to_owned(),
        source_volume_id: volume_id.clone(),
        secrets: words("key"),
        ..Default::default()
    };
    let taken = client.controller(|mut it| async move { it.create_snapshot(snapshot).await });
    let list = csi::ListSnapshotsRequest {
        secrets: words("key"),
        ..Default::default()
    };
    client
        .controller(|mut it| async move { it.list_snapshots(list).await })
        .unwrap();
    let remove = csi::DeleteSnapshotRequest {
        snapshot_id: taken.unwrap().into_inner().snapshot.unwrap().snapshot_id,
        secrets: words("key"),
    };
    client
        .controller(|mut it| async move { it.delete_snapshot(remove).await })
        .unwrap();
    let group = csi::CreateVolumeGroupSnapshotRequest {
        name: "g".to_owned(),
        source_volume_ids: vec![volume_id.clone()],
        secrets: words("key"),
        ..Default::default()
    };
    let taken = client.group(|mut it| async move { it.create_volume_group_snapshot(group).await });
    let remove = csi::DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: taken
            .unwrap()
            .into_inner()
            .group_snapshot
            .unwrap()
            .group_snapshot_id,
        secrets: words("key"),
        ..Default::default()
    };
    client
        .group(|mut it| async move { it.delete_volume_group_snapshot(remove).await })
        .unwrap();
    client.unpublish(&volume_id, &at).unwrap();
    client.unstage(&volume_id, &stage).unwrap();
    let detach = csi::ControllerUnpublishVolumeRequest {
        volume_id: volume_id.clone(),
        node_id: "n1".to_owned(),
        secrets: words("key"),
    };
    client
        .controller(|mut it| async move { it.controller_unpublish_volume(detach).await })
        .unwrap();
    let delete = csi::DeleteVolumeRequest {
        volume_id,
        secrets: words("key"),
    };
    client
        .controller(|mut it| async move { it.delete_volume(delete).await })
        .unwrap();
}

#[test]
#[ignore = "needs root, loop devices and the built binaries"]
fn the_log_has_every_call_and_no_token() {
    // With all that the libraries below it say, too.
    let mut node = Node::that_logs("trace");
    ask_with_tokens(&Client::lazy(&node.socket()).unwrap(), &node);
    assert_eq!(node.left(), Default::default());
    node.kill();
    let log = node.log();
    let calls = [
        "CreateVolume",
        "ControllerPublishVolume",
        "ValidateVolumeCapabilities",
        "NodeStageVolume",
        "NodePublishVolume",
        "NodeExpandVolume",
        "ControllerExpandVolume",
        "ControllerModifyVolume",
        "CreateSnapshot",
        "ListSnapshots",
        "DeleteSnapshot",
        "CreateVolumeGroupSnapshot",
        "DeleteVolumeGroupSnapshot",
        "NodeUnpublishVolume",
        "NodeUnstageVolume",
        "ControllerUnpublishVolume",
        "DeleteVolume",
    ];
    for call in calls {
        assert!(log.contains(&format!("call=\"{call}\"")), "{call}: {log}");
    }
    assert!(log.contains("web-0") && log.contains("<redacted>"), "{log}");
    for (number, line) in log.lines().enumerate() {
        assert!(!line.contains(TOKEN), "line {number}: {line}");
        assert!(
            line.len() < 10_000,
            "line {number} has {} bytes",
            line.len()
        );
    }
}
