//! The configuration as files on a disk: what comes, changes, breaks and goes.

use super::super::watched::{Configuration, Configured};
use super::name;
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// Longer than any event takes; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

fn resource(name: &str) -> String {
    format!("resources:\n- name: a.io/{name}\n  find: [{{path: /dev/{name}}}]\n")
}

fn open(place: &Path, state: &Path) -> (Configuration, watch::Receiver<Arc<Configured>>) {
    let watched = Configuration::watch(place, &[], state);
    let receiver = watched.subscribe();
    (watched, receiver)
}

/// Waits until the plan has these resources.
async fn until(
    receiver: &mut watch::Receiver<Arc<Configured>>,
    names: &[&str],
    faulty: bool,
) -> Arc<Configured> {
    let wanted: Vec<_> = names
        .iter()
        .map(|short| name(&format!("a.io/{short}")))
        .collect();
    let is_it = |now: &Arc<Configured>| {
        now.plan.resources.keys().eq(&wanted) && now.problems.is_empty() != faulty
    };
    let seen = timeout(PATIENCE, receiver.wait_for(is_it)).await;
    let seen = seen.map(|seen| seen.unwrap().clone());
    seen.unwrap_or_else(|_| panic!("not {names:?}: {:?}", receiver.borrow()))
}

#[tokio::test]
async fn a_folder_that_comes_changes_breaks_and_goes_is_followed() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("etc/devices");
    let (_watched, mut now) = open(&folder, root.path());
    until(&mut now, &[], false).await;
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("a.yaml"), resource("a")).unwrap();
    until(&mut now, &["a"], false).await;
    fs::write(folder.join("b.yml"), resource("b")).unwrap();
    fs::write(folder.join("c.txt"), "no configuration").unwrap();
    fs::write(folder.join(".d.yaml"), "an editor's").unwrap();
    until(&mut now, &["a", "b"], false).await;
    fs::write(folder.join("b.yml"), "resources: [{name: b}]").unwrap();
    let faulty = until(&mut now, &["a", "b"], true).await;
    let last = faulty.problems.last().unwrap();
    assert!(
        last.message
            .contains("what was before stays in force, with 2 resources"),
        "{last}"
    );
    fs::remove_file(folder.join("b.yml")).unwrap();
    until(&mut now, &["a"], false).await;
    fs::remove_dir_all(&folder).unwrap();
    until(&mut now, &[], false).await;
}

#[tokio::test]
async fn one_file_is_followed_over_its_replacement_too() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("devices.yaml");
    fs::write(&place, resource("a")).unwrap();
    let (_watched, mut now) = open(&place, root.path());
    until(&mut now, &["a"], false).await;
    fs::write(root.path().join("new"), resource("b")).unwrap();
    fs::rename(root.path().join("new"), &place).unwrap();
    until(&mut now, &["b"], false).await;
    fs::write(&place, resource("c")).unwrap();
    until(&mut now, &["c"], false).await;
}

#[tokio::test]
async fn a_configmap_volume_is_read_as_one_and_seen_when_it_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("volume");
    let version = |name: &str, resources: &[&str]| {
        let version = folder.join(name);
        fs::create_dir_all(&version).unwrap();
        for one in resources {
            fs::write(version.join(format!("{one}.yaml")), resource(one)).unwrap();
        }
    };
    version("..1", &["a", "b"]);
    symlink("..1", folder.join("..data")).unwrap();
    for one in ["a", "b"] {
        symlink(
            format!("..data/{one}.yaml"),
            folder.join(format!("{one}.yaml")),
        )
        .unwrap();
    }
    let (_watched, mut now) = open(&folder, root.path());
    let first = until(&mut now, &["a", "b"], false).await;
    let origin = &first.plan.resources[&name("a.io/a")].origin;
    assert_eq!(
        *origin,
        format!("{}:2", folder.join("a.yaml").display()),
        "as people know the file"
    );
    version("..2", &["b"]);
    symlink("..2", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    fs::remove_dir_all(folder.join("..1")).unwrap();
    until(&mut now, &["b"], false).await;
}

#[tokio::test]
async fn an_agent_that_starts_beside_a_faulty_configuration_goes_on_with_the_last_good_one() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("devices");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), resource("a")).unwrap();
    let copy = root.path().join("device-config.json");
    {
        let (_watched, mut now) = open(&folder, root.path());
        until(&mut now, &["a"], false).await;
    }
    assert_eq!(
        fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
        0o600
    );
    fs::write(folder.join("a.yaml"), "resources: [{name: b}]").unwrap();
    {
        let (_watched, mut now) = open(&folder, root.path());
        let kept = until(&mut now, &["a"], true).await;
        let last = kept.problems.last().unwrap();
        assert!(last.message.contains("the last good one, of"), "{last}");
        // Once mended, it is as if nothing had been.
        fs::write(folder.join("a.yaml"), resource("c")).unwrap();
        until(&mut now, &["c"], false).await;
    }
    // Without a copy, there is nothing to go on with.
    fs::remove_file(&copy).unwrap();
    fs::write(folder.join("a.yaml"), "resources: [{name: b}]").unwrap();
    let (_watched, mut now) = open(&folder, root.path());
    let none = until(&mut now, &[], true).await;
    assert!(
        none.problems
            .last()
            .unwrap()
            .message
            .contains("there is no earlier one"),
        "{none:?}"
    );
}

#[tokio::test]
async fn what_could_not_be_kept_is_kept_as_soon_as_it_can_be() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("devices.yaml");
    fs::write(&place, resource("a")).unwrap();
    let state = root.path().join("state");
    fs::write(&state, "in the way").unwrap();
    let (_watched, mut now) = open(&place, &state);
    until(&mut now, &["a"], false).await;
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    // The same again is no news of the configuration.
    fs::write(root.path().join("new"), resource("a")).unwrap();
    fs::rename(root.path().join("new"), &place).unwrap();
    let kept = async {
        while !state.join("device-config.json").exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, kept).await.expect("it is kept");
}

#[tokio::test]
async fn a_copy_that_is_a_link_or_no_copy_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("devices");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), "resources: 1").unwrap();
    let elsewhere = root.path().join("elsewhere.json");
    let input = serde_json::json!({"files": [{"name": "a.yaml", "text": resource("a")}]});
    fs::write(&elsewhere, input.to_string()).unwrap();
    let copy = root.path().join("device-config.json");
    symlink(&elsewhere, &copy).unwrap();
    let (watched, mut now) = open(&folder, root.path());
    until(&mut now, &[], true).await;
    drop(watched);
    fs::remove_file(&copy).unwrap();
    fs::write(&copy, "{").unwrap();
    let (_watched, mut now) = open(&folder, root.path());
    let none = until(&mut now, &[], true).await;
    let told = none
        .problems
        .iter()
        .any(|problem| problem.file == copy.display().to_string());
    assert!(told, "{none:?}");
}

#[tokio::test]
async fn what_can_not_be_read_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("devices");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), resource("a")).unwrap();
    let (_watched, mut now) = open(&folder, root.path());
    until(&mut now, &["a"], false).await;
    for make in [
        |path: &Path| symlink("nowhere", path).unwrap(),
        |path: &Path| fs::create_dir(path).unwrap(),
        |path: &Path| fs::write(path, [0xff]).unwrap(),
        |path: &Path| fs::write(path, vec![b' '; 1 << 21]).unwrap(),
        |path: &Path| fs::write(path, "").unwrap(),
    ] {
        let bad = folder.join("b.yaml");
        make(&bad);
        let faulty = until(&mut now, &["a"], true).await;
        assert_eq!(faulty.problems[0].file, bad.display().to_string());
        fs::remove_file(&bad)
            .or_else(|_| fs::remove_dir(&bad))
            .unwrap();
        until(&mut now, &["a"], false).await;
    }
}

#[tokio::test]
async fn presets_of_the_command_line_need_no_file() {
    let root = tempfile::tempdir().unwrap();
    let nowhere = root.path().join("devices");
    let watched = Configuration::watch(&nowhere, &["kvm".to_owned()], root.path());
    let now = watched.subscribe().borrow().clone();
    assert!(
        now.plan
            .resources
            .contains_key(&name("devices.kubevirt.io/kvm"))
    );
    // One that is mistyped later refuses the whole, and the last good one stays.
    let mistyped = Configuration::watch(&nowhere, &["kwm".to_owned()], root.path());
    let now = mistyped.subscribe().borrow().clone();
    assert!(
        now.plan
            .resources
            .contains_key(&name("devices.kubevirt.io/kvm"))
    );
    assert!(
        now.problems[0].message.contains("write kvm"),
        "{:?}",
        now.problems
    );
}
