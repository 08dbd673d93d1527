//! Packets that leave by a device many at a time, past the socket buffers of an AF_XDP socket.
//!
//! One live frame of BPF_PROG_TEST_RUN is redirected to a map that has the device many times over:
//! the kernel makes as many copies of it, and runs the map's program on each, which writes the next
//! packet of a shared array into it. The device gets them as redirected frames, 16 at a time.

use std::io;
use std::sync::atomic::Ordering;

use super::asm::{Alu, Assembler, Helper, If, Reg, Size};
use super::generator::GeneratorError;
use super::{LiveRun, Map, MapKind, MappedArray, Program, XdpContext};

/// Most packets of one call.
pub const BULK: usize = 64;
/// Longest packet, in bytes from the Ethernet header on.
pub const LONGEST: usize = 2040;
/// Shortest packet, in bytes: an Ethernet header.
pub const SHORTEST: usize = 14;

/// Frames of one call, the frame itself and its copies: packets that are too many for one number
/// take the next one. The last frame is the one that is copied, which goes nowhere; the first ones
/// go nowhere when packets are fewer, for a device is only told to begin by the last 16 frames, one
/// of which must be a packet.
const COPIES: [usize; 5] = [10, 18, 34, 50, BULK + 2];
const NAMES: [&str; 5] = ["by_8", "by_16", "by_32", "by_48", "by_64"];
/// Bytes of the frame that is copied.
const TEMPLATE: usize = 60;
/// Words of the array: how many packets there are, how many frames come before them, how many have
/// come, and then the packets.
const COUNT: usize = 0;
const BEFORE: usize = 1;
const COME: usize = 2;
const PACKETS: usize = 3;
/// Bytes of a packet's place, as a power of two: its length in a word, and its bytes.
const PLACE_SHIFT: i32 = 11;
const PLACE_WORDS: usize = 1 << (PLACE_SHIFT - 3);
const WORDS: usize = PACKETS + BULK * PLACE_WORDS;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const BROADCAST: i32 = 1 << 3;

/// Sends by one device, for one thread at a time.
#[derive(Debug)]
pub struct BulkSender {
    packets: MappedArray,
    start: Program,
    /// Packets in the array.
    count: usize,
    _fill: Program,
    _copies: Vec<Map>,
}

impl BulkSender {
    /// For the device `ifindex`, whose driver must take redirected frames (a veth does when its
    /// peer has an XDP program or GRO), of the calling thread's network namespace.
    pub fn new(ifindex: u32) -> Result<BulkSender, GeneratorError> {
        let packets = MappedArray::new("mgy_bulk", 1, WORDS)?;
        let fill = Program::load_devmap("mgy_bulk_fill", &fill(packets.map()).finish()?)?;
        let mut copies = Vec::new();
        for count in COPIES {
            let map = Map::new(MapKind::Devmap, "mgy_bulk_dev", 4, 8, count as u32)?;
            let value = [ifindex.to_ne_bytes(), fill.raw_fd().to_ne_bytes()].concat();
            for at in 0..count as u32 {
                map.update(&at.to_ne_bytes(), &value)?;
            }
            copies.push(map);
        }
        let start = start(packets.map(), &copies).finish()?;
        let start = Program::load_xdp("mgy_bulk", &start)?;
        Ok(BulkSender { packets, start, count: 0, _fill: fill, _copies: copies })
    }

    /// Forgets what was added.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds a packet of [`SHORTEST`] to [`LONGEST`] bytes; false when there is no room.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        if self.count == BULK || !(SHORTEST..=LONGEST).contains(&packet.len()) {
            return false;
        }
        let place = PACKETS + self.count * PLACE_WORDS;
        self.packets.word(0, place).store(packet.len() as u64, Ordering::Relaxed);
        self.packets.write(0, place + 1, packet);
        self.count += 1;
        true
    }

    /// Sends what was added, and forgets it; how many of these packets, from the first on, were
    /// given to the device. What the device has no room for is lost in it.
    pub fn send(&mut self) -> io::Result<usize> {
        let count = std::mem::take(&mut self.count);
        let frames = COPIES.into_iter().find(|frames| count + 2 <= *frames).unwrap_or(BULK + 2);
        let before = frames - 1 - count;
        self.packets.word(0, COUNT).store(count as u64, Ordering::Relaxed);
        self.packets.word(0, BEFORE).store(before as u64, Ordering::Relaxed);
        self.packets.word(0, COME).store(0, Ordering::Release);
        let run = LiveRun { context: XdpContext::default(), count: 1, batch: 1 };
        self.start.run_live(&[0; TEMPLATE], run)?;
        let come = self.packets.word(0, COME).load(Ordering::Acquire) as usize;
        Ok(come.saturating_sub(before).min(count))
    }
}

/// Redirects the frame to as many copies as there are packets, and one more.
fn start(packets: &Map, copies: &[Map]) -> Assembler {
    let mut asm = Assembler::new();
    asm.load_map_value(Reg::R6, packets, "packets");
    asm.load(Size::D, Reg::R6, Reg::R6, 8 * COUNT as i16);
    for ((map, name), count) in copies.iter().zip(NAMES).zip(COPIES) {
        asm.load_map(Reg::R1, map, name);
        asm.jump_if(If::Le, Reg::R6, count as i32 - 2, "redirect");
    }
    asm.mov(Reg::R0, XDP_DROP);
    asm.exit();
    asm.label("redirect");
    asm.mov(Reg::R2, 0);
    asm.mov(Reg::R3, BROADCAST);
    asm.call(Helper::RedirectMap);
    asm.exit();
    asm
}

/// Makes the next packet of a frame, or drops it when there is none.
fn fill(packets: &Map) -> Assembler {
    let mut asm = Assembler::new();
    asm.mov(Reg::R6, Reg::R1);
    asm.load_map_value(Reg::R7, packets, "packets");
    asm.load(Size::D, Reg::R8, Reg::R7, 8 * COME as i16);
    asm.mov(Reg::R1, Reg::R8);
    asm.alu(Alu::Add, Reg::R1, 1);
    asm.store(Size::D, Reg::R7, 8 * COME as i16, Reg::R1);
    // What comes before the packets is a large number after this.
    asm.load(Size::D, Reg::R1, Reg::R7, 8 * BEFORE as i16);
    asm.alu(Alu::Sub, Reg::R8, Reg::R1);
    asm.load(Size::D, Reg::R1, Reg::R7, 8 * COUNT as i16);
    asm.jump_if(If::Ge, Reg::R8, Reg::R1, "drop");
    asm.jump_if(If::Ge, Reg::R8, BULK as i32, "drop");
    asm.alu(Alu::Lsh, Reg::R8, PLACE_SHIFT);
    asm.alu(Alu::Add, Reg::R7, Reg::R8);
    asm.load(Size::D, Reg::R9, Reg::R7, 8 * PACKETS as i16);
    asm.jump_if(If::Lt, Reg::R9, SHORTEST as i32, "drop");
    asm.jump_if(If::Gt, Reg::R9, LONGEST as i32, "drop");
    asm.mov(Reg::R1, Reg::R6);
    asm.mov(Reg::R2, Reg::R9);
    asm.alu(Alu::Sub, Reg::R2, TEMPLATE as i32);
    asm.jump_if(If::Eq, Reg::R2, 0, "write");
    asm.call(Helper::XdpAdjustTail);
    asm.jump_if(If::Ne, Reg::R0, 0, "drop");
    asm.label("write");
    asm.mov(Reg::R1, Reg::R6);
    asm.mov(Reg::R2, 0);
    asm.mov(Reg::R3, Reg::R7);
    asm.alu(Alu::Add, Reg::R3, 8 * (PACKETS as i32 + 1));
    asm.mov(Reg::R4, Reg::R9);
    asm.call(Helper::XdpStoreBytes);
    asm.jump_if(If::Ne, Reg::R0, 0, "drop");
    asm.mov(Reg::R0, XDP_PASS);
    asm.exit();
    asm.label("drop");
    asm.mov(Reg::R0, XDP_DROP);
    asm.exit();
    asm
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::tests::in_namespace;
    use crate::sys::bpf::generator::{Check, Sink};
    use socket2::{Protocol, Socket, Type};
    use std::io::Read;
    use std::process::Command;
    use std::time::{Duration, Instant};

    /// An EtherType for experiments, so that nobody joins or answers packets.
    const NOBODYS: u16 = 0x88b5;

    /// Both ends of a veth in the calling thread's namespace.
    fn veth() -> [u32; 2] {
        let script = "ip link add name a type veth peer name b && ip link set dev a up && \
                      ip link set dev b up && ip link set dev b arp off";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        ["a", "b"].map(|name| nix::net::if_::if_nametoindex(name).unwrap())
    }

    /// What the sink has counted since, once nothing more comes.
    fn arrived(sink: &Sink, wanted: u64, before: (u64, u64)) -> (u64, u64) {
        let until = Instant::now() + Duration::from_secs(2);
        loop {
            let counts = sink.counts().unwrap();
            let since = (counts.packets - before.0, counts.bytes - before.1);
            if since.0 >= wanted || Instant::now() > until {
                return since;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn packets_of_any_number_and_length_arrive() {
        in_namespace(|| {
            let [near, far] = veth();
            let sink = Sink::attach(far, Check::None).unwrap();
            // What the kernel says by itself when a device comes up.
            std::thread::sleep(Duration::from_millis(300));
            let mut sender = BulkSender::new(near).unwrap();
            for count in (1..=BULK).chain([1]) {
                let counts = sink.counts().unwrap();
                let before = (counts.packets, counts.bytes);
                let lengths = (0..count).map(|at| SHORTEST + 46 + (at * 397) % 1450);
                let mut bytes = 0;
                for length in lengths {
                    assert!(sender.push(&vec![length as u8; length]));
                    bytes += length as u64;
                }
                assert_eq!(sender.send().unwrap(), count);
                let (packets, came) = arrived(&sink, count as u64, before);
                assert!(packets >= count as u64 && came >= bytes, "{count}: {packets}, {came}");
                assert!(packets <= count as u64 + 2, "{count}: {packets}");
            }
        });
    }

    #[test]
    fn packets_arrive_as_they_are_and_in_order() {
        in_namespace(|| {
            let [near, _far] = veth();
            let script = "ethtool -K b gro on";
            assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
            let protocol = Protocol::from(i32::from(NOBODYS.to_be()));
            let mut far = Socket::new(libc::AF_PACKET.into(), Type::RAW, Some(protocol)).unwrap();
            far.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let mut sender = BulkSender::new(near).unwrap();
            let packet = |at: usize| {
                let mut packet = vec![at as u8; 60 + (at * 97) % 1400];
                packet[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
                packet[12..14].copy_from_slice(&NOBODYS.to_be_bytes());
                packet
            };
            for round in 0..20 {
                // A socket holds no more than these.
                let count = [48, 33, 5, 16, 40][round % 5];
                (0..count).for_each(|at| assert!(sender.push(&packet(at))));
                assert_eq!(sender.send().unwrap(), count);
                for at in 0..count {
                    let mut bytes = [0; LONGEST];
                    let length =
                        far.read(&mut bytes).unwrap_or_else(|e| panic!("{at} of {round}: {e}"));
                    assert_eq!(bytes[..length], packet(at), "{at} of {round}");
                }
            }
        });
    }

    #[test]
    fn a_device_without_a_taker_gets_nothing() {
        in_namespace(|| {
            let [near, far] = veth();
            let mut sender = BulkSender::new(near).unwrap();
            assert!(sender.push(&[0; 60]));
            assert_eq!(sender.send().unwrap(), 0, "its far end has neither XDP nor GRO");
            let sink = Sink::attach(far, Check::None).unwrap();
            assert!(sender.push(&[0; 60]));
            assert_eq!(sender.send().unwrap(), 1);
            drop(sink);
            assert!(sender.push(&[0; 60]));
            assert_eq!(sender.send().unwrap(), 0);
        });
    }

    #[test]
    fn what_does_not_fit_is_not_taken() {
        in_namespace(|| {
            let mut sender = BulkSender::new(veth()[0]).unwrap();
            assert!(!sender.push(&[0; SHORTEST - 1]) && !sender.push(&[0; LONGEST + 1]));
            (0..BULK).for_each(|_| assert!(sender.push(&[0; SHORTEST])));
            assert!(!sender.push(&[0; 60]));
            sender.clear();
            assert!(sender.push(&[0; LONGEST]));
        });
    }
}
