//! Flows of hostile and of honest packets, with answers and ICMP errors made from what came out:
//! a pipeline that translates, serves and polices keeps its promises whatever comes.

use crate::body::mac;
use crate::hostile::{Random, packet};
use crate::stateful::Conversation;
use margay_fastpath::replay::Fate;
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, protocol};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Packets of each seed.
const PACKETS: usize = 6_000;

/// A packet as pods and servers send them, often one of few flows, at times as two fragments.
fn honest(random: &mut Random) -> (usize, Vec<Vec<u8>>) {
    let host = random.below(3) as u8 + 8;
    let (ingress, src) = random.pick(&[
        (0, [203, 0, 113, host]),
        (1, [10, 0, 0, host]),
        (2, [10, 7, 0, host]),
        (3, [10, 8, 0, host]),
    ]);
    let dst = random.pick(&[
        [10, 5, 0, 1],
        [203, 0, 113, host],
        [192, 0, 2, 100],
        [192, 0, 2, 1],
        [10, 0, 0, 9],
        [10, 7, 0, 9],
        [10, 8, 0, 9],
    ]);
    let number = random.pick(&[protocol::TCP, protocol::UDP, protocol::ICMP, 132]);
    let ports = [61_000 + random.below(8) as u16, random.pick(&[80, 8080, 53, 61_002])];
    let mut body: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
    match number {
        protocol::TCP => {
            let flags = random.pick(&[2, 2, 18, 16, 17, 4]);
            body.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        }
        protocol::ICMP => body = vec![random.pick(&[8, 8, 0, 3]), 0, 0, 0, 0, 7, 0, 1],
        _ => body.extend([0, 24, 0, 0]),
    }
    body.resize(24, 7);
    let link = ethernet::header(mac(ingress), Mac([2, 0, 0, 0, 0, 9]), ethernet::IPV4);
    let id = random.below(4) as u8;
    let piece = |body: &[u8], word: u16| {
        let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
        let mut ip = ipv4::header(src, dst, number, 64, body.len() as u16);
        ip[5] = id;
        ip[6..8].copy_from_slice(&word.to_be_bytes());
        ipv4::fill_checksum(&mut ip);
        [&link[..], &ip, body].concat()
    };
    let pieces = match random.below(4) {
        0 => vec![piece(&body[16..], 2), piece(&body[..16], 0x2000)],
        1 => vec![piece(&body[16..], 2)],
        _ => vec![piece(&body, 0)],
    };
    (ingress, pieces)
}

fn run(seed: u64) {
    println!("MARGAY_SEED={seed}");
    let (mut random, mut conversation) = (Random(seed), Conversation::default());
    let mut fates: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..PACKETS {
        conversation.pass(random.pick(&[0, 0, 0, 0, 1, 40, 300]));
        let (ingress, packets) = match random.below(8) {
            0..3 => honest(&mut random),
            3 => {
                let ingress = random.below(4);
                (ingress, vec![packet(&mut random, ingress)])
            }
            what => match conversation.reaction(random.below(16), what == 7) {
                Some((ingress, mut bytes)) => {
                    if random.one_in(8) && !bytes.is_empty() {
                        let at = random.below(bytes.len());
                        bytes[at] = random.below(256) as u8;
                    }
                    crate::body::mend(&mut bytes);
                    (ingress, vec![bytes])
                }
                None => continue,
            },
        };
        for mut bytes in packets {
            if let Some(to) = bytes.first_chunk_mut::<6>() {
                *to = mac(ingress).0;
            }
            let fate = match conversation.packet(ingress, &bytes) {
                Fate::Dropped(reason) => reason.name().to_owned(),
                Fate::Forwarded(_) => "forwarded".to_owned(),
                other => format!("{other:?}"),
            };
            *fates.entry(fate).or_default() += 1;
        }
    }
    conversation.forget();
    // The generator would prove little if it did not get everywhere.
    for fate in ["forwarded", "Punted", "Waiting", "flow-invalid", "nat-unsolicited"] {
        assert!(fates.contains_key(fate), "none is {fate}: {fates:?}");
    }
    for fate in ["policy-egress", "policy-ingress", "nat-protocol-unsupported"] {
        assert!(fates.contains_key(fate), "none is {fate}: {fates:?}");
    }
}

#[test]
fn translation_and_policy_hold_against_whoever_sends() {
    (1..=3).for_each(run);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_fuzz_body_of_sequences_holds_on_any_bytes(
        input in prop::collection::vec(any::<u8>(), 0..600)
    ) {
        Conversation::default().fuzzed(&input);
    }
}
