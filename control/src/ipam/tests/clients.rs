//! Clients that work at the same time, their steps interleaved as a schedule says: each operation
//! of the store is one step, any write may lose a race or its answer, and what must hold is checked
//! after every step.

use super::*;
use crate::store::tests::memory::Fault;
use proptest::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

/// What a client does.
#[derive(Debug, Clone)]
enum Task {
    Assign(usize),
    AssignThis(u8),
    ReleaseOne,
    ReleaseAll,
    GiveBack,
}

/// Addresses that somebody was given and has not begun to release.
type Held = Mutex<BTreeMap<IpAddr, String>>;

async fn client(store: &Memory, held: &Held, index: usize, tasks: Vec<Task>) {
    let (host, handle) = (["a", "b", "c"][index % 3], format!("h{index}"));
    let ipam = ipam(store);
    let take = |addresses: Vec<IpAddr>| {
        for address in addresses {
            let before = held.lock().unwrap().insert(address, handle.clone());
            assert_eq!(before, None, "{address} is given out twice");
        }
    };
    let own = || -> Vec<IpAddr> {
        let held = held.lock().unwrap();
        held.iter().filter(|(_, owner)| **owner == handle).map(|(address, _)| *address).collect()
    };
    for task in tasks {
        let failed = match task {
            Task::Assign(count) => match ipam.assign(&request(host, &handle, count)).await {
                Ok(given) => {
                    take(given.addresses.iter().map(|net| net.addr()).collect());
                    false
                }
                Err(error) => expected(&error),
            },
            Task::AssignThis(last) => {
                let address = IpAddr::from([10, 0, 0, last % 24]);
                match ipam.assign_this(&request(host, &handle, 1), address).await {
                    Ok(()) => {
                        take(vec![address]);
                        false
                    }
                    Err(IpamError::Taken(_) | IpamError::NoPool) => false,
                    Err(error) => expected(&error),
                }
            }
            Task::ReleaseOne => {
                let Some(address) = own().first().copied() else { continue };
                held.lock().unwrap().remove(&address);
                let release = Release { address, handle: Some(handle.clone()), sequence: None };
                ipam.release(&[release]).await.is_err_and(|error| expected(&error))
            }
            Task::ReleaseAll => true,
            Task::GiveBack => {
                let affinities = ipam.affinities(host).await.unwrap();
                let Some((cidr, _)) = affinities.first() else { continue };
                let _ = ipam.give_back(host, *cidr, true).await;
                false
            }
        };
        if failed {
            held.lock().unwrap().retain(|_, owner| *owner != handle);
            while let Err(error) = ipam.release_handle(&handle).await {
                expected(&error);
            }
        }
    }
}

/// Only lost answers are errors: all races are run again.
fn expected(error: &IpamError) -> bool {
    assert!(matches!(error, IpamError::Store(StoreError::Unavailable(_))), "{error}");
    true
}

/// What must hold after each step.
fn check(store: &Memory, held: &Held) {
    let mut given = BTreeMap::new();
    let mut in_handles: BTreeMap<(String, IpNet), usize> = BTreeMap::new();
    let mut owners = BTreeMap::new();
    for document in store.all("IPAMBlock") {
        let block = Stored::of(document).unwrap().block;
        owners.insert(block.cidr, block.host().map(str::to_owned));
        for (address, attribute) in block.addresses() {
            let handle = attribute.handle().unwrap().to_owned();
            *in_handles.entry((handle.clone(), block.cidr)).or_default() += 1;
            given.insert(address, handle);
        }
    }
    for (address, handle) in held.lock().unwrap().iter() {
        assert_eq!(given.get(address), Some(handle), "{address} is {handle}'s");
    }
    let handles = store.all("IPAMHandle");
    for ((handle, cidr), count) in in_handles {
        let counted = handles.iter().find(|one| one.key.name == handle);
        let counted: usize = counted
            .into_iter()
            .flat_map(handle::counts)
            .filter(|(counted, _)| *counted == cidr)
            .map(|(_, count)| count)
            .sum();
        assert!(counted >= count, "{handle} counts {counted} of {count} in {cidr}");
    }
    for affinity in store.all("BlockAffinity") {
        let spec = affinity.spec();
        if claim::state(&affinity) == "confirmed" {
            let cidr: IpNet = spec["cidr"].as_str().unwrap().parse().unwrap();
            let host = spec["node"].as_str().unwrap().to_owned();
            assert_eq!(owners.get(&cidr), Some(&Some(host)), "{affinity:?}");
        }
    }
}

fn run(tasks: Vec<Vec<Task>>, schedule: &[u8], faults: Vec<Fault>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = runtime.block_on(cluster(vec![
        node("a", "1"),
        node("b", "1"),
        node("c", "1"),
        pool("p", "10.0.0.0/28", json!({})),
        pool("q", "10.0.0.16/29", json!({})),
    ]));
    let held = Held::default();
    store.fault(faults);
    let mut clients: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for (index, tasks) in tasks.into_iter().enumerate() {
        clients.push(Box::pin(client(&store, &held, index, tasks)));
    }
    let mut context = Context::from_waker(Waker::noop());
    let mut turns = schedule.iter().cycle();
    for step in 0.. {
        assert!(step < 100_000, "no client comes to its end");
        let at = usize::from(*turns.next().unwrap_or(&0)) % clients.len();
        // A schedule that favours one client for ever would never end.
        let at = if step % 50 == 49 { step / 50 % clients.len() } else { at };
        if clients[at].as_mut().poll(&mut context) == Poll::Ready(()) {
            drop(clients.remove(at));
        }
        check(&store, &held);
        if clients.is_empty() {
            break;
        }
    }
    store.fault(Vec::new());
    runtime.block_on(async {
        let handles: Vec<String> = held.lock().unwrap().values().cloned().collect();
        held.lock().unwrap().clear();
        for handle in handles {
            ipam(&store).release_handle(&handle).await.unwrap();
        }
        let check = ipam(&store).check().await.unwrap();
        assert_eq!((check.allocated(), check.problems()), (0, 0), "{check:?}");
        assert_eq!(store.all("IPAMHandle"), []);
    });
}

fn tasks() -> impl Strategy<Value = Vec<Task>> {
    let task = prop_oneof![
        4 => (1..6usize).prop_map(Task::Assign),
        2 => any::<u8>().prop_map(Task::AssignThis),
        2 => Just(Task::ReleaseOne),
        1 => Just(Task::ReleaseAll),
        1 => Just(Task::GiveBack),
    ];
    proptest::collection::vec(task, 1..8)
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![6 => Just(Fault::None), 2 => Just(Fault::Conflict), 1 => Just(Fault::Lost)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn clients_at_the_same_time_get_each_address_once_and_leak_none(
        tasks in proptest::collection::vec(tasks(), 1..6),
        schedule in proptest::collection::vec(any::<u8>(), 1..200),
        faults in proptest::collection::vec(fault(), 0..60),
    ) {
        run(tasks, &schedule, faults);
    }
}

proptest! {
    /// A block against a list of who has which address and in which order they were freed.
    #[test]
    fn a_block_gives_out_what_has_been_free_longest(steps in proptest::collection::vec(
        (any::<bool>(), 0..4usize, 1..5usize), 1..60,
    )) {
        let cidr: IpNet = "10.0.0.0/28".parse().unwrap();
        let mut block = Block::new(cidr, Some("host:a"), "", 1);
        let mut free: std::collections::VecDeque<IpAddr> =
            (0..16).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let mut held: BTreeMap<IpAddr, String> = BTreeMap::new();
        for (gives, who, count) in steps {
            let handle = format!("h{who}");
            if gives {
                let attribute = Attribute::new(&handle, BTreeMap::new());
                let given = block.assign(count, &attribute, &Reservations::default());
                let expected: Vec<IpAddr> = free.drain(..count.min(free.len())).collect();
                prop_assert_eq!(&given, &expected);
                held.extend(expected.into_iter().map(|address| (address, handle.clone())));
            } else {
                let own: Vec<IpAddr> =
                    held.iter().filter(|(_, by)| **by == handle).map(|(one, _)| *one).collect();
                prop_assert_eq!(block.release_handle(&handle, AT_ONCE), own.len());
                held.retain(|_, by| *by != handle);
                free.extend(own);
            }
            block.count_write();
            prop_assert_eq!(block.check(), Ok(()));
            let now: BTreeMap<IpAddr, String> = block
                .addresses()
                .map(|(address, one)| (address, one.handle().unwrap_or_default().to_owned()))
                .collect();
            prop_assert_eq!(&now, &held);
        }
    }
}
