//! Limits on connections. Endpoint B, 10.0.0.2, is open, and may receive so many.

use super::policy::Node;
use super::*;
use crate::policy::tests::Sketch;

const UPLINK: PortId = PortId(0);
const B: PortId = PortId(2);
const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;
const POD_B: &str = "10.0.0.2:80";
const REFUSED: Verdict = Verdict::Drop(crate::drop_reason::DropReason::LimitConnections);

fn limited(most: u32) -> Node {
    Node::plain(Sketch { most: Some(most), ..Sketch::of("allow", "allow") })
}

fn far(at: u32) -> String {
    format!("198.51.100.1:{}", 5000 + at)
}

fn open(node: &mut Node, at: u32) -> Verdict {
    let verdict = node.tcp(UPLINK, (&far(at), POD_B), SYN);
    if verdict == Verdict::Go {
        assert_eq!(node.tcp(B, (POD_B, &far(at)), SYN | ACK), Verdict::Go);
        assert_eq!(node.tcp(UPLINK, (&far(at), POD_B), ACK), Verdict::Go);
    }
    verdict
}

fn close(node: &mut Node, at: u32) {
    let (to, from) = ((far(at), POD_B.to_owned()), (POD_B.to_owned(), far(at)));
    node.tcp(UPLINK, (&to.0, &to.1), FIN | ACK);
    node.tcp(B, (&from.0, &from.1), FIN | ACK);
    node.tcp(UPLINK, (&to.0, &to.1), ACK);
}

#[test]
fn as_many_connections_as_may_be_and_not_one_more() {
    let mut node = limited(2);
    assert_eq!([0, 1, 2].map(|at| open(&mut node, at)), [Verdict::Go, Verdict::Go, REFUSED]);
    assert_eq!(open(&mut node, 0), Verdict::Go, "a SYN that is sent again counts once");
    // What the endpoint begins itself, and what is no connection, is another matter.
    assert_eq!(node.tcp(B, ("10.0.0.2:4000", &far(9)), SYN), Verdict::Go);
    assert_eq!(node.bench.sessions(), 3);
}

#[test]
fn a_connection_counts_until_it_is_over() {
    let mut node = limited(1);
    assert_eq!((open(&mut node, 0), open(&mut node, 1)), (Verdict::Go, REFUSED));
    close(&mut node, 0);
    assert_eq!((open(&mut node, 1), open(&mut node, 2)), (Verdict::Go, REFUSED));
    node.tcp(B, (POD_B, &far(1)), RST);
    assert_eq!((open(&mut node, 2), open(&mut node, 3)), (Verdict::Go, REFUSED));
    // Nobody says that it is over; the table forgets it.
    node.bench.now_ns += 6 * 86_400 * SECOND;
    let now_ns = node.bench.now_ns;
    node.bench.workers.iter_mut().for_each(|worker| while !worker.tick(now_ns) {});
    assert_eq!((open(&mut node, 3), open(&mut node, 4)), (Verdict::Go, REFUSED));
}

#[test]
fn a_connection_that_begins_anew_in_the_same_place_counts_again() {
    let mut node = limited(1);
    assert_eq!(open(&mut node, 0), Verdict::Go);
    close(&mut node, 0);
    assert_eq!((open(&mut node, 0), open(&mut node, 1)), (Verdict::Go, REFUSED));
    close(&mut node, 0);
    assert_eq!((open(&mut node, 1), open(&mut node, 0)), (Verdict::Go, REFUSED));
}

/// A limit that comes later ends nothing: what there is counts, and stays.
#[test]
fn connections_from_before_the_limit_stay() {
    let mut node = Node::plain(Sketch::of("allow", "allow"));
    assert_eq!((open(&mut node, 0), open(&mut node, 1)), (Verdict::Go, Verdict::Go));
    node.follow(Some(Sketch { generation: 2, most: Some(1), ..Sketch::of("allow", "allow") }));
    for at in [0, 1] {
        assert_eq!(node.tcp(UPLINK, (&far(at), POD_B), ACK), Verdict::Go);
    }
    assert_eq!(open(&mut node, 2), REFUSED);
    close(&mut node, 0);
    assert_eq!(open(&mut node, 2), REFUSED);
    close(&mut node, 1);
    assert_eq!(open(&mut node, 2), Verdict::Go);
}
