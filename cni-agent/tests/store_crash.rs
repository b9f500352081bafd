//! kill -9 at any instant: what was acknowledged is there, nothing is there by half.
#![expect(clippy::unwrap_used, reason = "a test's helper may panic")]

use cni_agent::{
    clock::SystemClock,
    model::{AttachmentId, Endpoint, Mac},
    store::{Book, Store},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

const CHILD: &str = "FAIRLEAD_TEST_STORE_CHILD";
const ROUNDS: u64 = 60;

fn open(path: &Path) -> Book {
    let book = Book::open(Store::open(path).unwrap(), Arc::new(SystemClock)).unwrap();
    book.set_prefixes(&["10.0.0.0/25".parse().unwrap(), "fd00::/64".parse().unwrap()])
        .unwrap();
    book
}

/// One line in one write, so that a kill never leaves part of it in the pipe.
fn say(line: String) {
    std::io::stdout()
        .write_all(format!("\n{line}\n").as_bytes())
        .unwrap();
}

/// The victim. Does nothing unless the other test started it.
#[test]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let book = Arc::new(open(Path::new(&path)));
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..4 {
            let book = book.clone();
            workers.spawn(async move {
                for round in 0.. {
                    let name = format!("{}-{worker}-{round}", std::process::id());
                    let attachment = AttachmentId::new(&name, "eth0").unwrap();
                    let reservation = book.reserve(&attachment, &[]).unwrap();
                    let endpoint = endpoint(&attachment, reservation.id(), reservation.addresses());
                    say(format!("FL try add {attachment}"));
                    book.commit_endpoint(reservation, endpoint).await.unwrap();
                    say(format!("FL did add {attachment}"));
                    // The oldest of a worker's share go, so that the book stays half full.
                    loop {
                        let mut share = book.list();
                        share.retain(|e| e.id % 4 == worker);
                        let oldest = share
                            .iter()
                            .min_by_key(|e| e.id)
                            .filter(|_| share.len() > 8);
                        let Some(Endpoint { attachment, .. }) = oldest else {
                            break;
                        };
                        say(format!("FL try remove {attachment}"));
                        let removed = book.remove(attachment).await.unwrap().is_some();
                        say(format!("FL did remove {attachment} {removed}"));
                    }
                }
            });
        }
        workers.join_all().await;
    });
}

fn endpoint(
    attachment: &AttachmentId,
    id: u32,
    addresses: cni_agent::model::Addresses,
) -> Endpoint {
    Endpoint {
        attachment: attachment.clone(),
        id,
        network: "fairlead".to_owned(),
        pod: None,
        addresses,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        host_mac: Mac([2, 0, 0, 0, 0, 2]),
        host_ifname: "fl".to_owned(),
        mtu: 1500,
        sandbox: "/run/netns/x".to_owned(),
        created_at: 0,
        wired: false,
    }
}

/// What the victim said: state of each attachment that it named; `None` while it was trying.
fn follow(line: &str, said: &mut BTreeMap<String, Option<bool>>) {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["FL", "try", _, attachment] => drop(said.insert((*attachment).to_owned(), None)),
        ["FL", "did", "add", attachment] => drop(said.insert((*attachment).to_owned(), Some(true))),
        ["FL", "did", "remove", attachment, "true"] => {
            said.insert((*attachment).to_owned(), Some(false));
        }
        _ => {}
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    println!("seed {seed}");
    let mut random = seed;
    let mut before: BTreeSet<String> = BTreeSet::new();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let mut said = BTreeMap::new();
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        // Some rounds die while the file is being opened, most amid commits.
        let heard = (random >> 33) % 40;
        for line in lines
            .by_ref()
            .filter(|l| l.starts_with("FL "))
            .take(heard as usize)
        {
            follow(&line, &mut said);
        }
        std::thread::sleep(Duration::from_micros((random >> 40) % 8000));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(|line| follow(&line, &mut said));
        acknowledged += said.values().flatten().count();
        before = check(&path, before, &said, round);
    }
    println!("{acknowledged} acknowledged changes in {ROUNDS} rounds");
    assert!(
        acknowledged > 200,
        "the victim did too little: {acknowledged}"
    );
}

fn check(
    path: &Path,
    before: BTreeSet<String>,
    said: &BTreeMap<String, Option<bool>>,
    round: u64,
) -> BTreeSet<String> {
    let store = Store::open(path).unwrap();
    let contents = store.loaded();
    let there: BTreeSet<String> = contents.endpoints.keys().map(ToString::to_string).collect();
    for name in before.iter().filter(|name| !said.contains_key(*name)) {
        assert!(there.contains(name), "round {round}: {name} was lost");
    }
    for name in &there {
        assert!(
            before.contains(name) || said.contains_key(name),
            "round {round}: {name}?"
        );
    }
    for (name, state) in said {
        if let Some(state) = state {
            assert_eq!(there.contains(name), *state, "round {round}: {name}");
        }
    }
    let mut addresses = BTreeSet::new();
    for endpoint in contents.endpoints.values() {
        assert_eq!(endpoint.addresses.iter().count(), 2);
        for address in endpoint.addresses.iter() {
            assert!(addresses.insert(address), "round {round}: {address} twice");
            assert!(
                !contents.released.contains_key(&address),
                "round {round}: {address} half"
            );
        }
        assert!(
            endpoint.id < contents.next_endpoint_id,
            "round {round}: number would come again"
        );
    }
    there
}
