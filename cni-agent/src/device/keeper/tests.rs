//! What is done before the kubelet is told, and what after.

use super::*;
use crate::device::{
    found::{DeviceFile, FileKind},
    host::fake::Tree,
    inventory::Item,
    kept::Kept,
    options::Registration,
    tests::{item, rule},
};
use std::sync::{Mutex, mpsc as blocking};
use tokio::time::timeout;

fn device(key: &str, minor: u32) -> Item {
    Item {
        files: vec![DeviceFile {
            path: format!("/dev/{key}").into(),
            kind: FileKind::Character,
            major: 188,
            minor,
            group: 20,
        }],
        ..item(key)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_is_told_once_a_runtime_can_give_and_before_the_disk_has_it() {
    let (place, tree) = (tempfile::tempdir().unwrap(), Tree::new());
    let config = DeviceConfig {
        node_name: "n1".to_owned(),
        kubelet_dir: place.path().join("kubelet"),
        state_dir: place.path().join("state"),
        devices: place.path().join("devices"),
        presets: Vec::new(),
        registration: Registration::Register,
        cdi_dir: place.path().join("cdi"),
        api: None,
    };
    let (_folder, changes) = watch::channel(0);
    let (shown, _showing) = watch::channel(Arc::default());
    let (teller, _news) = Teller::new();
    let counts = DeviceCounts::default();
    let mut keeper = Keeper::new(&config, tree.host(), counts, changes, shown, teller);
    let (go, wait) = blocking::channel::<()>();
    let (begun, begins) = blocking::channel();
    let wait = Mutex::new(wait);
    // A disk that takes its time.
    keeper.record = Record::with(Kept::default(), move |kept| {
        begun.send(kept.clone()).unwrap();
        // It answers when the test is over.
        let _over = wait.lock().unwrap().recv();
        Ok(())
    });
    let mut rule = rule("a.io/x");
    rule.give.write_cdi = true;
    let rule = Arc::new(rule);
    keeper.begin(Offer::new(rule.clone(), Vec::new()));
    let mut told = keeper.resources[&rule.name].offers.subscribe();
    let cdi = config.cdi_dir.clone();
    let seen = tokio::spawn(async move {
        told.changed().await.unwrap();
        let specs = std::fs::read_dir(cdi).into_iter().flatten().flatten();
        let texts = specs.filter_map(|spec| std::fs::read_to_string(spec.path()).ok());
        (told.borrow().items.clone(), texts.collect::<String>())
    });
    // It is busy from here on.
    assert!(begins.recv().unwrap().resources.is_empty());
    for count in 1..=3 {
        let items = (0..count).map(|minor| device(&format!("d{minor}"), minor));
        let publish = keeper.publish(vec![Offer::new(rule.clone(), items.collect())]);
        timeout(Duration::from_secs(20), publish)
            .await
            .expect("told while the disk is busy");
    }
    assert_eq!(keeper.resources[&rule.name].offers.borrow().items.len(), 3);
    let (items, specs) = seen.await.unwrap();
    for item in items {
        assert!(specs.contains(&item.key), "{specs}");
    }
    drop(go);
    for (_, resource) in std::mem::take(&mut keeper.resources) {
        resource.end(false).await;
    }
}
