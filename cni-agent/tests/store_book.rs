//! The book on a real file and in memory: what callers see, what restarts bring back.
#![expect(clippy::unwrap_used, reason = "a test's helper may panic")]

use cni_agent::{
    clock::ManualClock,
    ipam::IpamError,
    model::{AttachmentId, Endpoint, Mac},
    store::{Book, Reservation, Store, StoreError},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

fn id(name: impl std::fmt::Display) -> AttachmentId {
    AttachmentId::new(&format!("c{name}"), "eth0").unwrap()
}

fn endpoint(reservation: &Reservation) -> Endpoint {
    Endpoint {
        attachment: reservation.attachment().clone(),
        id: reservation.id(),
        network: "fairlead".to_owned(),
        pod: None,
        addresses: reservation.addresses(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        host_mac: Mac([2, 0, 0, 0, 0, 2]),
        host_ifname: "fl".to_owned(),
        mtu: 1500,
        sandbox: "/run/netns/x".to_owned(),
        created_at: 0,
        wired: false,
    }
}

fn open(store: Store, clock: &Arc<ManualClock>) -> Book {
    let book = Book::open(store, clock.clone()).unwrap();
    book.set_prefixes(&["10.0.0.0/29".parse().unwrap(), "fd00::/64".parse().unwrap()])
        .unwrap();
    book
}

fn in_memory() -> (Book, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(1000));
    (open(Store::in_memory().unwrap(), &clock), clock)
}

async fn add(book: &Book, name: impl std::fmt::Display) -> Result<Endpoint, IpamError> {
    let reservation = book.reserve(&id(name), &[])?;
    let endpoint = endpoint(&reservation);
    book.commit_endpoint(reservation, endpoint.clone())
        .await
        .unwrap();
    Ok(endpoint)
}

fn used(book: &Book) -> Vec<u128> {
    book.usage().iter().map(|u| u.used).collect()
}

#[tokio::test]
async fn an_added_endpoint_is_there_until_removed() {
    let (book, _) = in_memory();
    let one = add(&book, 1).await.unwrap();
    assert_eq!(one.id, 1);
    assert_eq!(
        one.addresses
            .iter()
            .map(|a| a.to_string())
            .collect::<Vec<_>>(),
        ["10.0.0.1", "fd00::1"]
    );
    assert_eq!(book.get(&id(1)), Some(one.clone()));
    assert!(matches!(
        book.reserve(&id(1), &[]),
        Err(IpamError::AlreadyHeld(_))
    ));
    assert_eq!(book.remove(&id(1)).await.unwrap(), Some(one));
    assert_eq!(book.remove(&id(1)).await.unwrap(), None);
    assert_eq!((book.list().len(), used(&book)), (0, vec![0, 0]));
    let two = add(&book, 2).await.unwrap();
    assert_eq!(
        (two.id, two.addresses.v4.unwrap().octets()[3]),
        (2, 2),
        "not used again at once"
    );
}

#[tokio::test]
async fn a_dropped_reservation_gives_everything_back() {
    let (book, _) = in_memory();
    let reservation = book.reserve(&id(1), &[]).unwrap();
    assert_eq!(used(&book), [1, 1]);
    assert!(matches!(
        book.reserve(&id(1), &[]),
        Err(IpamError::AlreadyHeld(_))
    ));
    drop(reservation);
    assert_eq!(used(&book), [0, 0]);
    assert_eq!(book.get(&id(1)), None);
    for n in 2..=6 {
        add(&book, n).await.unwrap();
    }
    let last = add(&book, 7).await.unwrap();
    assert_eq!(
        last.addresses.v4.unwrap().octets()[3],
        1,
        "after all others"
    );
    let error = add(&book, 8).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("6 of 6 addresses of podCIDR 10.0.0.0/29"),
        "{error}"
    );
}

#[tokio::test]
async fn an_endpoint_that_was_not_reserved_so_is_refused() {
    let (book, _) = in_memory();
    let reservation = book.reserve(&id(1), &[]).unwrap();
    let other = Endpoint {
        id: 9,
        ..endpoint(&reservation)
    };
    let error = book.commit_endpoint(reservation, other).await.unwrap_err();
    assert!(matches!(error.error, StoreError::Refused(_)));
    assert_eq!(used(&book), [1, 1], "the kernel may use them yet");
    drop(error);
    assert_eq!(used(&book), [0, 0]);
}

#[tokio::test]
async fn what_a_failed_add_holds_is_given_to_nobody_until_it_is_removed() {
    let (book, _) = in_memory();
    let reservation = book.reserve(&id(1), &[]).unwrap();
    let held = endpoint(&reservation);
    let other = Endpoint {
        id: 9,
        ..held.clone()
    };
    let failed = book.commit_endpoint(reservation, other).await.unwrap_err();
    book.hold(failed, held.clone());
    assert_eq!(used(&book), [1, 1]);
    assert_eq!((book.held(&id(1)), book.get(&id(1))), (Some(held), None));
    assert!(matches!(
        book.reserve(&id(1), &[]),
        Err(IpamError::AlreadyHeld(_))
    ));
    assert_eq!(book.remove(&id(1)).await.unwrap(), None);
    assert_eq!((used(&book), book.all_held()), (vec![0, 0], vec![]));
    book.reserve(&id(1), &[]).unwrap();
}

#[tokio::test]
async fn a_finished_add_is_known_after_a_restart_and_never_brings_a_removed_one_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let clock = Arc::new(ManualClock::new(1000));
    let book = open(Store::open(&path).unwrap(), &clock);
    for n in [1, 2] {
        assert!(!add(&book, n).await.unwrap().wired);
        assert!(book.mark_wired(&id(n)).unwrap().wired);
    }
    book.remove(&id(2)).await.unwrap();
    assert_eq!(book.mark_wired(&id(2)), None);
    book.flush().await.unwrap();
    drop(book);
    let book = open(Store::open(&path).unwrap(), &clock);
    let wired: Vec<_> = book.list().iter().map(|e| (e.id, e.wired)).collect();
    assert_eq!(wired, [(1, true)]);
}

#[tokio::test]
async fn an_adopted_endpoint_keeps_its_number_and_addresses() {
    let clock = Arc::new(ManualClock::new(1000));
    let book = Book::open(Store::in_memory().unwrap(), clock).unwrap();
    assert!(book.is_new());
    let (other, _) = in_memory();
    let lost = add(&other, 7).await.unwrap();
    book.adopt(lost.clone()).await.unwrap();
    assert!(!book.is_new());
    book.set_prefixes(&["10.0.0.0/29".parse().unwrap(), "fd00::/64".parse().unwrap()])
        .unwrap();
    assert_eq!(book.list(), std::slice::from_ref(&lost));
    let next = add(&book, 1).await.unwrap();
    assert!(next.id != lost.id && next.addresses != lost.addresses);
}

/// The caller's deadline passes while the write is under way: polled once, then dropped, whether the
/// writer was done by then or not.
#[tokio::test]
async fn an_abandoned_commit_is_removed_by_remove() {
    for _ in 0..50 {
        let (book, _) = in_memory();
        let reservation = book.reserve(&id(1), &[]).unwrap();
        let endpoint = endpoint(&reservation);
        {
            let mut commit = pin!(book.commit_endpoint(reservation, endpoint));
            let _early = commit
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
        }
        assert!(book.remove(&id(1)).await.unwrap().is_some());
        assert_eq!((book.list().len(), used(&book)), (0, vec![0, 0]));
    }
}

#[tokio::test]
async fn a_restart_keeps_endpoints_numbers_and_the_order_of_reuse() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let clock = Arc::new(ManualClock::new(1000));
    let book = open(Store::open(&path).unwrap(), &clock);
    for n in 1..=6 {
        add(&book, n).await.unwrap();
    }
    for n in [4, 2, 6] {
        clock.advance(10);
        book.remove(&id(n)).await.unwrap();
    }
    let before = (book.list(), book.usage());
    drop(book);
    let book = open(Store::open(&path).unwrap(), &clock);
    assert_eq!((book.list(), book.usage()), before);
    let mut again = Vec::new();
    for n in 7..=9 {
        let endpoint = add(&book, n).await.unwrap();
        again.push((endpoint.id, endpoint.addresses.v4.unwrap().octets()[3]));
    }
    assert_eq!(again, [(7, 4), (8, 2), (9, 6)]);
}

#[tokio::test]
async fn another_podcidr_keeps_living_pods_and_forgets_old_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let clock = Arc::new(ManualClock::new(1000));
    let book = open(Store::open(&path).unwrap(), &clock);
    for n in 1..=3 {
        add(&book, n).await.unwrap();
    }
    book.remove(&id(1)).await.unwrap();
    book.set_prefixes(&["10.0.1.0/29".parse().unwrap()])
        .unwrap();
    let moved = add(&book, 4).await.unwrap();
    assert_eq!(
        moved
            .addresses
            .iter()
            .map(|a| a.to_string())
            .collect::<Vec<_>>(),
        ["10.0.1.1"]
    );
    let wanted: IpAddr = "10.0.0.2".parse().unwrap();
    let error = book.reserve(&id(5), &[wanted]).unwrap_err();
    assert!(error.to_string().contains("(10.0.1.0/29)"), "{error}");
    assert_eq!(book.list().len(), 3);
    book.remove(&id(2)).await.unwrap();
    drop(book);
    let store = Store::open(&path).unwrap();
    let rows: Vec<_> = store
        .loaded()
        .released
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        rows,
        ["fd00::1", "fd00::2"],
        "no row of the old IPv4 prefix; IPv6 may come back"
    );
}

#[tokio::test]
async fn a_book_of_another_node_is_refused() {
    let (book, _) = in_memory();
    book.bind_node("n1").await.unwrap();
    book.bind_node("n1").await.unwrap();
    let error = book.bind_node("n2").await.unwrap_err().to_string();
    assert!(
        error.contains("\"n1\"") && error.contains("--node-name"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_adds_and_removes_never_share_an_address_or_number() {
    let clock = Arc::new(ManualClock::new(0));
    let book = Arc::new(Book::with_cool_down(
        Store::in_memory().unwrap(),
        clock,
        Duration::ZERO,
    ));
    book.set_prefixes(&["10.0.0.0/26".parse().unwrap(), "fd00::/64".parse().unwrap()])
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let book = book.clone();
        tasks.spawn(async move {
            for round in 0..60 {
                let name = format!("{worker}-{round}");
                let Ok(_) = add(&book, &name).await else {
                    continue;
                };
                let list = book.list();
                let addresses: BTreeSet<_> = list
                    .iter()
                    .flat_map(|e| e.addresses.iter().collect::<Vec<_>>())
                    .collect();
                let ids: BTreeSet<_> = list.iter().map(|e| e.id).collect();
                assert_eq!((addresses.len(), ids.len()), (2 * list.len(), list.len()));
                if round % 3 > 0 {
                    assert!(book.remove(&id(&name)).await.unwrap().is_some());
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(used(&book), [book.list().len() as u128; 2]);
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8),
    Abandon(u8),
    Remove(u8),
    Restart,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happened before, a restart shows the same book.
    #[test]
    fn memory_and_disk_agree_after_any_history(steps in prop::collection::vec(prop_oneof![
        4 => (0..10u8).prop_map(Step::Add),
        1 => (0..10u8).prop_map(Step::Abandon),
        3 => (0..10u8).prop_map(Step::Remove),
        1 => Just(Step::Restart),
    ], 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let clock = Arc::new(ManualClock::new(1000));
        let mut book = open(Store::open(&path).unwrap(), &clock);
        let mut model: BTreeMap<AttachmentId, Endpoint> = BTreeMap::new();
        for step in steps.into_iter().chain([Step::Restart]) {
            clock.advance(1);
            match step {
                Step::Add(n) => match runtime.block_on(add(&book, n)) {
                    Ok(endpoint) => {
                        prop_assert!(model.values().all(|e| e.id != endpoint.id
                            && e.addresses.v4 != endpoint.addresses.v4
                            && e.addresses.v6 != endpoint.addresses.v6));
                        prop_assert_eq!(model.insert(id(n), endpoint), None);
                    }
                    Err(IpamError::AlreadyHeld(_)) => prop_assert!(model.contains_key(&id(n))),
                    Err(IpamError::Exhausted { .. }) => prop_assert_eq!(model.len(), 6),
                    Err(other) => panic!("{other}"),
                },
                Step::Abandon(n) => drop(book.reserve(&id(n), &[])),
                Step::Remove(n) => {
                    prop_assert_eq!(runtime.block_on(book.remove(&id(n))).unwrap(), model.remove(&id(n)));
                }
                Step::Restart => {
                    drop(book);
                    book = open(Store::open(&path).unwrap(), &clock);
                }
            }
            prop_assert_eq!(book.list(), model.values().cloned().collect::<Vec<_>>());
            prop_assert_eq!(used(&book), vec![model.len() as u128; 2]);
        }
    }
}
