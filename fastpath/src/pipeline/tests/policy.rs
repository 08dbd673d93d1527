//! Policy and the sources of pods, as stages of the pipeline.

use super::*;
use crate::flow::{Limits, Timeouts};
use crate::nat::Rules;
use crate::policy::tests::Sketch;
use crate::sources::Sources;

#[test]
fn a_pod_speaks_for_itself_only() {
    let mut router = Router::new();
    let own = ["10.1.0.5/32", "fd00::5/128"].map(|net| net.parse().unwrap());
    let entry = router.tables.ports[usize::from(PODS.0)].as_mut().unwrap();
    (entry.workload, entry.sources) = (true, Some(Sources::new(own)));
    let sent = router.feed(
        PODS,
        &[
            v4("10.1.0.5", "172.16.0.9", 64, b"own"),
            v4("10.1.0.6", "172.16.0.9", 64, b"other's"),
            v6("fd00::5", "fd01::1", 64, b"own"),
            v6("fd00::6", "fd01::1", 64, b"other's"),
        ],
    );
    assert_eq!((sent.len(), router.dropped(DropReason::Spoofed)), (2, 2));
    let from_network = router.feed(UPLINK, &[v4("10.1.0.6", "172.16.0.9", 64, b"anybody's")]);
    assert_eq!(from_network.len(), 1);
    router.assert_no_frame_missing();
}

/// The endpoint of [`Sketch`] on port 1, which is [`UPLINK`] here, may send nothing.
#[test]
fn policy_is_asked_where_it_is_and_nowhere_else() {
    let mut router = Router::new();
    let limits = Limits { sessions: 1000, per_source: 0 };
    router.tables.nat = Some(Arc::new(Rules::tracking(limits, Timeouts::default(), 1)));
    router.tables.policy = Some(Arc::new(Sketch::of("web", "allow").build()));
    let denied = router.feed(UPLINK, &[v4("10.0.0.1", "172.16.0.9", 64, b"denied")]);
    assert_eq!((denied.len(), router.dropped(DropReason::PolicyEgress)), (0, 1));
    let others = v4("10.1.0.5", "172.16.0.9", 64, b"others'");
    assert_eq!(router.feed(PODS, &[others.clone(), others]).len(), 2);
    router.tables.policy = None;
    assert_eq!(router.feed(UPLINK, &[v4("10.0.0.1", "172.16.0.9", 64, b"free")]).len(), 1);
    assert_eq!(router.drops(), 1);
    router.assert_no_frame_missing();
}
