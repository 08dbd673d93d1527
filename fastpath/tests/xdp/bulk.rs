//! Long bursts, which leave past the tx ring, and short ones, which do not.

use crate::rig::{Memory, in_namespace, two_pods};
use margay_fastpath::packet::Packet;
use margay_fastpath::port::xdp::{XdpPort, XdpSpec};
use margay_fastpath::port::{Port, PortId};
use margay_fastpath::sys::memory::{FramePool, HEADROOM};
use socket2::{Protocol, Socket, Type};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// An EtherType for experiments.
const NOBODYS: u16 = 0x88b5;
/// Packets of a burst; the receiver's socket holds no more than the most of these.
const BURSTS: [usize; 5] = [40, 5, 33, 32, 1];
const LIMIT: Duration = Duration::from_secs(20);

fn packet(number: u32) -> Vec<u8> {
    let mut bytes = vec![number as u8; 60 + number as usize * 97 % 1400];
    bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    bytes[12..14].copy_from_slice(&NOBODYS.to_be_bytes());
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    bytes
}

struct Sender {
    part: XdpPort,
    pool: FramePool,
    next: u32,
    arrived: Receiver<Vec<u8>>,
}

impl Sender {
    /// Sends bursts of all sizes and sees them arrive whole and in order.
    fn round(&mut self) {
        for count in BURSTS {
            let first = self.next;
            self.next += count as u32;
            let mut burst = Vec::new();
            for number in first..self.next {
                let (bytes, mut frame) = (packet(number), self.pool.alloc().unwrap());
                frame.bytes_mut(HEADROOM, bytes.len()).copy_from_slice(&bytes);
                burst.push(Packet::new(frame, HEADROOM, bytes.len(), PortId(0)));
            }
            self.part.service(&mut self.pool);
            self.part.tx(&mut self.pool, &mut burst);
            assert!(burst.is_empty());
            for number in first..self.next {
                let bytes = self.arrived.recv_timeout(Duration::from_secs(5));
                assert_eq!(bytes, Ok(packet(number)), "packet {number}");
            }
        }
    }

    fn by_bulk(&self) -> u64 {
        let report = self.part.report();
        report.kernel.iter().find(|(name, _)| *name == "tx_bulk").map_or(0, |(_, count)| *count)
    }

    /// Sends until so many rounds in a row were, or were not, sent in bulk.
    fn rounds(&mut self, bulk: bool) {
        let (until, mut in_a_row) = (Instant::now() + LIMIT, 0);
        while in_a_row < 20 {
            assert!(Instant::now() < until, "bulk: {bulk}, after {} packets", self.next);
            let before = self.by_bulk();
            self.round();
            let sent = self.by_bulk() - before;
            in_a_row = if sent == if bulk { 40 + 33 + 32 } else { 0 } { in_a_row + 1 } else { 0 };
        }
    }
}

#[test]
fn long_and_short_bursts_arrive_in_order_while_the_device_takes_bulk_and_while_it_does_not() {
    in_namespace(|| {
        let (left, _right) = two_pods("");
        let memory = Memory::new(8192);
        let (device, mut parts) = memory.open_as(&XdpSpec::pod(PortId(0), "left"));
        let (send, arrived) = sync_channel(64);
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let receiver = left.spawn(move || {
            let protocol = Protocol::from(i32::from(NOBODYS.to_be()));
            let mut socket =
                Socket::new(libc::AF_PACKET.into(), Type::RAW, Some(protocol)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut bytes = [0; 2048];
            loop {
                match socket.read(&mut bytes) {
                    Ok(length) if send.send(bytes[..length].to_vec()).is_err() => break,
                    Ok(_) => {}
                    Err(_) if ended.load(Ordering::Relaxed) => break,
                    Err(_) => {}
                }
            }
        });
        let pool = FramePool::new(memory.arena.clone());
        let mut sender = Sender { part: parts.remove(0), pool, next: 0, arrived };
        std::thread::sleep(Duration::from_millis(50));
        sender.rounds(false);
        left.sh("ethtool -K eth0 gro on");
        sender.rounds(true);
        left.sh("ethtool -K eth0 gro off");
        sender.rounds(false);
        let Sender { part, mut pool, arrived, .. } = sender;
        Box::new(part).close(&mut pool);
        drop((pool, arrived));
        end.store(true, Ordering::Relaxed);
        receiver.join().unwrap();
        device.close();
        memory.assert_whole();
    });
}
