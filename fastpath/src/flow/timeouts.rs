//! How long a session lives without a packet, by its state: Linux's names and defaults.
//!
//! `Documentation/networking/nf_conntrack-sysctl.rst` has the list. Sessions that are translated
//! live at least as long as the RFCs of translation ask; for unanswered UDP, half-open TCP and
//! ICMP queries that is longer than Linux's defaults.

use super::protocol::State;

/// Least idle time of a translated UDP mapping, in seconds (RFC 4787 REQ-5).
pub const NAT_UDP_MIN_S: u32 = 120;
/// Least idle time of a translated TCP connection that is not established, in seconds (RFC 5382
/// REQ-5).
pub const NAT_TCP_TRANSITORY_MIN_S: u32 = 240;
/// Least idle time of a translated ICMP query, in seconds (RFC 5508 REQ-2).
pub const NAT_QUERY_MIN_S: u32 = 60;

/// Linux's name for how long fragments wait; `net.ipv4.ipfrag_time`.
const FRAGMENT_SYSCTL: &str = "ipfrag_time";
/// Its default there, in seconds.
const FRAGMENT_S: u32 = 30;

/// Idle times in seconds, by [`State`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    by_state: [u32; State::COUNT],
    fragment_s: u32,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let mut timeouts = Timeouts { by_state: [0; State::COUNT], fragment_s: FRAGMENT_S };
        for state in State::ALL {
            timeouts.by_state[state as usize] = match state {
                State::TcpSynSent | State::TcpSynSent2 => 120,
                State::TcpSynRecv => 60,
                State::TcpEstablished => 432_000,
                State::TcpFinWait => 120,
                State::TcpCloseWait => 60,
                State::TcpLastAck => 30,
                State::TcpTimeWait => 120,
                State::TcpClose => 10,
                State::Udp => 30,
                State::UdpStream => 120,
                State::Icmp => 30,
                State::SctpCookieWait | State::SctpCookieEchoed => 3,
                State::SctpEstablished => 210,
                State::SctpShutdown => 3,
                State::SctpClosed => 10,
                State::Generic => 600,
            };
        }
        timeouts
    }
}

impl Timeouts {
    /// Idle time of a session in this state, in seconds.
    #[inline]
    pub fn of(&self, state: State, translated: bool) -> u32 {
        let timeout = self.by_state[state as usize];
        if translated { timeout.max(least(state)) } else { timeout }
    }

    /// How long the ports of a fragmented packet are remembered, and its fragments wait for them,
    /// in seconds; the same for both families.
    pub fn fragment_s(&self) -> u32 {
        self.fragment_s
    }

    /// Sets an idle time by the name of Linux's sysctl; false when there is none of that name.
    pub fn set(&mut self, sysctl: &str, seconds: u32) -> bool {
        let mut known = sysctl == FRAGMENT_SYSCTL;
        if known {
            self.fragment_s = seconds;
        }
        for state in State::ALL.into_iter().filter(|state| state.sysctl() == sysctl) {
            self.by_state[state as usize] = seconds;
            known = true;
        }
        known
    }
}

/// RFC 4787 REQ-5, RFC 5382 REQ-5 (a connection that both sides have closed, or one has reset, is
/// none any more), RFC 5508 REQ-2.
fn least(state: State) -> u32 {
    match state {
        State::Udp | State::UdpStream => NAT_UDP_MIN_S,
        State::TcpSynSent
        | State::TcpSynSent2
        | State::TcpSynRecv
        | State::TcpFinWait
        | State::TcpCloseWait => NAT_TCP_TRANSITORY_MIN_S,
        State::Icmp => NAT_QUERY_MIN_S,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_name_of_linux_and_can_be_set_by_it() {
        let mut timeouts = Timeouts::default();
        for state in State::ALL {
            assert!(timeouts.set(state.sysctl(), 1000 + state as u32), "{state:?}");
            assert_eq!(timeouts.of(state, false), 1000 + state as u32);
        }
        assert!(!timeouts.set("nf_conntrack_tcp_timeout_nothing", 1));
        assert!(timeouts.set("ipfrag_time", 7) && timeouts.fragment_s() == 7);
    }
}
