//! Which ports of the host's addresses the kernel keeps for its own sockets.
//!
//! Translation to the host's own address needs ports that no socket of the host will have: not
//! those that the kernel gives out by itself (`ip_local_port_range` without
//! `ip_local_reserved_ports`), nor those that a socket has now. Nothing is changed in the kernel,
//! so nothing stays behind.

use margay_fastpath::nat::PortRange;
use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Files of the kernel's sockets, of the thread's own namespace.
const SOCKETS: [&str; 6] = ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6"];
/// Most sockets that are looked at in one file.
const MAX_SOCKETS: usize = 1 << 20;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// The ports that are left, and those of them that sockets have all the same, sorted.
pub(crate) type Found = (Option<PortRange>, Vec<u16>);

/// What is known of them. To look at all sockets takes the kernel many milliseconds, whoever they
/// are: after the first time that is done on a thread of its own.
#[derive(Debug, Default)]
pub(crate) struct OwnPorts {
    found: Option<Found>,
    looked: Option<Instant>,
    attempt: Option<JoinHandle<Found>>,
}

impl OwnPorts {
    /// What was found last; the first time it is looked for.
    pub(crate) fn found(&mut self, wanted: PortRange, now: Instant) -> &Found {
        let looked = &mut self.looked;
        self.found.get_or_insert_with(|| {
            *looked = Some(now);
            look(wanted)
        })
    }

    /// Looks again from time to time, once somebody has asked; true when it is otherwise now.
    pub(crate) fn follow(&mut self, wanted: PortRange, now: Instant) -> bool {
        if let Some(attempt) = self.attempt.take_if(|attempt| attempt.is_finished()) {
            let found = attempt.join().ok();
            let is_new = found.is_some() && found != self.found;
            self.found = found.or(self.found.take());
            return is_new;
        }
        let is_due = self.looked.is_some_and(|looked| now >= looked + LOOK);
        if is_due && self.attempt.is_none() {
            let thread = std::thread::Builder::new().name("own-ports".to_owned());
            self.attempt = thread.spawn(move || look(wanted)).ok();
            self.looked = Some(now);
        }
        false
    }
}

fn look(wanted: PortRange) -> Found {
    let free = free(wanted);
    (free, free.map(taken).unwrap_or_default())
}

/// The longest part of `wanted` that the kernel does not give out; `None` when there is none.
fn free(wanted: PortRange) -> Option<PortRange> {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
    };
    longest_free(wanted, &read("ip_local_port_range"), &read("ip_local_reserved_ports"))
}

fn longest_free(wanted: PortRange, given_out: &str, reserved: &str) -> Option<PortRange> {
    let mut ends = given_out.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    let given_out = ends.next().zip(ends.next());
    let reserved: Vec<(u16, u16)> = reserved
        .trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        })
        .collect();
    let is_free = |port: u16| {
        let is_reserved = reserved.iter().any(|(first, last)| (*first..=*last).contains(&port));
        is_reserved || given_out.is_none_or(|(first, last)| !(first..=last).contains(&port))
    };
    let mut longest: Option<PortRange> = None;
    let mut run: Option<PortRange> = None;
    for port in wanted.first..=wanted.last {
        run = is_free(port)
            .then(|| PortRange { first: run.map_or(port, |run| run.first), last: port });
        let len = |range: PortRange| range.last - range.first;
        if let Some(run) = run
            && longest.is_none_or(|longest| len(run) > len(longest))
        {
            longest = Some(run);
        }
    }
    longest
}

/// Ports of `range` that sockets have now, sorted.
fn taken(range: PortRange) -> Vec<u16> {
    let mut ports = BTreeSet::new();
    for name in SOCKETS {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        let lines = text.unwrap_or_default();
        ports.extend(lines.lines().skip(1).take(MAX_SOCKETS).filter_map(local_port));
    }
    ports.into_iter().filter(|port| range.contains(*port)).collect()
}

/// Of a line such as `0: 0100007F:0016 00000000:0000 0A ...` the 0x16.
fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.split_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    #[test]
    fn what_the_kernel_gives_out_is_left_to_it_unless_it_is_reserved() {
        let usual = "32768\t60999\n";
        for (wanted, reserved, expected) in [
            (range(61_000, 65_535), "", Some(range(61_000, 65_535))),
            (range(32_768, 65_535), "", Some(range(61_000, 65_535))),
            (range(20_000, 61_100), "\n", Some(range(20_000, 32_767))),
            (range(40_000, 50_000), "", None),
            (range(40_000, 50_000), "30000-50000,8080\n", Some(range(40_000, 50_000))),
            (range(40_000, 50_000), "40005", Some(range(40_005, 40_005))),
            (range(65_535, 65_535), "", Some(range(65_535, 65_535))),
        ] {
            assert_eq!(longest_free(wanted, usual, reserved), expected, "{wanted:?} {reserved}");
        }
    }

    #[test]
    fn a_socket_that_comes_later_is_found_on_the_next_look() {
        let wanted = range(1, 65_535);
        let mut own = OwnPorts::default();
        let begin = Instant::now();
        assert!(!own.follow(wanted, begin), "nobody has asked");
        let before = own.found(wanted, begin).clone();
        // A port that the kernel does not give out, so that it counts.
        let bound = (before.0.unwrap().first.max(1024)..)
            .find_map(|port| std::net::UdpSocket::bind(("127.0.0.1", port)).ok())
            .unwrap();
        let port = bound.local_addr().unwrap().port();
        assert_eq!(own.found(wanted, begin), &before);
        assert!(!own.follow(wanted, begin + LOOK - Duration::from_millis(1)));
        assert!(own.attempt.is_none());
        assert!(!own.follow(wanted, begin + LOOK), "it has only begun");
        let limit = Instant::now() + Duration::from_secs(20);
        while !own.follow(wanted, begin + LOOK) {
            assert!(Instant::now() < limit, "nothing new is found");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(own.found(wanted, begin).1.contains(&port));
    }

    #[test]
    fn a_bound_socket_is_seen() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(taken(range(port, port)), [port]);
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(taken(range(1, 65_535)).contains(&port));
    }
}
