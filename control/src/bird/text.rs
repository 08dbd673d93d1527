//! What BIRD 1.6 answers, letter by letter: each line has a code of four digits, or a space when
//! it is the one of the line before; the last has a space behind the code.

use super::Shown;
use crate::api::bgp::PeerAnswer;
use crate::clock;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

/// What Calico's tools take for a BIRD.
const VERSION: &str = "v0.3.3+birdv1.6.8";

/// Lines of an answer.
#[derive(Debug, Default)]
pub(super) struct Reply {
    text: String,
    code: u16,
    last: Option<(u16, String)>,
}

impl Reply {
    fn line(&mut self, code: u16, text: &str) {
        let text = text.trim_end();
        let _ = match self.code == code {
            true => writeln!(self.text, " {text}"),
            false => writeln!(self.text, "{code:04}-{text}"),
        };
        self.code = code;
    }

    fn end(mut self, code: u16, text: &str) -> Reply {
        self.last = Some((code, text.to_owned()));
        self
    }

    /// All of it.
    pub(super) fn finish(mut self) -> String {
        let (code, text) = self.last.unwrap_or_default();
        let _ = writeln!(self.text, "{code:04} {text}");
        self.text
    }
}

/// What comes first on a connection.
pub(super) fn banner() -> String {
    format!("0001 BIRD {VERSION} ready.\n")
}

pub(super) fn error(what: &str) -> Reply {
    Reply::default().end(9001, what)
}

pub(super) fn status(id: Option<Ipv4Addr>, uptime: Duration, holding: bool) -> Reply {
    let now = clock::now();
    let begin = clock::long(now.saturating_sub(uptime.as_secs()));
    let mut reply = Reply::default();
    reply.line(1000, &format!("BIRD {VERSION}"));
    reply.line(1011, &format!("Router ID is {}", id.unwrap_or(Ipv4Addr::UNSPECIFIED)));
    reply.line(1011, &format!("Current server time is {}", clock::long(now)));
    reply.line(1011, &format!("Last reboot on {begin}"));
    reply.line(1011, &format!("Last reconfiguration on {begin}"));
    if holding {
        reply.line(24, "Graceful restart recovery in progress");
    }
    reply.end(13, "Daemon is up and running")
}

/// The table of sessions, of one or of all, with or without details.
pub(super) fn protocols(peers: &[PeerAnswer], name: Option<&str>, details: bool) -> Reply {
    let chosen: Vec<&PeerAnswer> =
        peers.iter().filter(|peer| name.is_none_or(|name| peer.name == name)).collect();
    if chosen.is_empty() && name.is_some() {
        return Reply::default().end(8003, "No protocols match");
    }
    let mut reply = Reply::default();
    reply.line(2002, &row(["name", "proto", "table", "state", "since", "info"]));
    for peer in chosen {
        let state = peer.state.as_str();
        reply.line(1002, &row([&peer.name, "BGP", "master", state, &peer.since, &peer.info]));
        if details {
            self::details(&mut reply, peer);
        }
    }
    reply.end(0, "")
}

fn row([name, proto, table, state, since, info]: [&str; 6]) -> String {
    format!("{name:<8} {proto:<8} {table:<8} {state:<5}  {since:<10}  {info}")
}

fn details(reply: &mut Reply, peer: &PeerAnswer) {
    let mut lines = vec![
        "  Preference:     100".to_owned(),
        format!("  Routes:         {} imported, {} received", peer.accepted, peer.received),
        format!("  BGP state:          {}", peer.session),
        format!("    Neighbor address: {}", peer.address),
        format!("    Neighbor AS:      {}", peer.remote_as),
    ];
    lines.extend(peer.router_id.iter().map(|id| format!("    Neighbor ID:      {id}")));
    lines.extend(peer.local_address.map(|own| format!("    Source address:   {own}")));
    lines.extend(peer.hold_time_seconds.map(|time| format!("    Hold timer:       {time}")));
    lines.extend(peer.keepalive_seconds.map(|time| format!("    Keepalive timer:  {time}")));
    lines.extend(peer.error.iter().map(|error| format!("    Last error:       {error}")));
    if let Some(bfd) = &peer.bfd {
        let hops = if bfd.multihop { "multihop" } else { "single hop" };
        lines.push(format!("    BFD state:        {}", bfd.state));
        let remote = bfd.remote_state.iter();
        lines.extend(remote.map(|state| format!("    BFD neighbor:     {state}")));
        lines.push(format!("    BFD mode:         {hops}"));
        lines.push(format!("    BFD interval:     {} ms x {}", bfd.interval_ms, bfd.multiplier));
        let time = bfd.detection_ms.iter();
        lines.extend(time.map(|time| format!("    BFD detection:    {time} ms")));
        lines.push(format!("    BFD diagnostic:   {}", bfd.diagnostic));
    }
    lines.iter().for_each(|line| reply.line(1006, line));
}

pub(super) fn routes(routes: &[Shown]) -> Reply {
    let mut reply = Reply::default();
    let mut before = None;
    for route in routes {
        let text = match before == Some(route.prefix) {
            true => String::new(),
            false => route.prefix.to_string(),
        };
        before = Some(route.prefix);
        let best = if route.best { " *" } else { "" };
        let facts = format!("[{} {}]{best} ({})", route.protocol, route.since, route.preference);
        match route.ways.as_slice() {
            [way] => reply.line(1007, &format!("{text:<18} {way} {facts}")),
            ways => {
                reply.line(1007, &format!("{text:<18} multipath {facts}"));
                ways.iter().for_each(|way| reply.line(1007, &format!("\t{way} weight 1")));
            }
        }
    }
    reply.end(0, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, state: &str, info: &str) -> PeerAnswer {
        PeerAnswer {
            name: name.into(),
            address: "10.0.0.2".parse().unwrap(),
            peer_type: "node-to-node mesh".into(),
            state: state.into(),
            since: "08:31:25".into(),
            since_unix: 0,
            info: info.into(),
            session: info.split(' ').next().unwrap_or_default().into(),
            error: None,
            remote_as: 64512,
            local_as: 64512,
            router_id: Some("10.0.0.2".into()),
            local_address: None,
            received: 3,
            accepted: 2,
            updates_received: 1,
            bytes_received: 0,
            bytes_sent: 0,
            hold_time_seconds: Some(240),
            keepalive_seconds: Some(80),
            established_count: 1,
            bfd: None,
        }
    }

    /// As `calicoctl node status` reads it: a head, a first row behind `1002-`, further rows
    /// behind a space, six fields or more, `0000` at the end.
    #[test]
    fn the_table_of_sessions_is_read_by_calicos_tools() {
        let peers = [
            peer("Mesh_10_0_0_2", "up", "Established"),
            peer("Global_10_0_0_3", "start", "Active Socket: Connection refused"),
        ];
        let text = protocols(&peers, None, false).finish();
        let lines: Vec<&str> = text.lines().collect();
        let head: Vec<&str> = lines[0].strip_prefix("2002-").unwrap().split_whitespace().collect();
        assert_eq!(head, ["name", "proto", "table", "state", "since", "info"]);
        let first: Vec<&str> = lines[1].strip_prefix("1002-").unwrap().split_whitespace().collect();
        assert_eq!(first, ["Mesh_10_0_0_2", "BGP", "master", "up", "08:31:25", "Established"]);
        let second: Vec<&str> = lines[2].strip_prefix(' ').unwrap().split_whitespace().collect();
        assert_eq!(second[..3], ["Global_10_0_0_3", "BGP", "master"]);
        assert_eq!(second[5..].join(" "), "Active Socket: Connection refused");
        assert_eq!((lines[3], lines.len()), ("0000 ", 4));
    }

    #[test]
    fn details_name_state_and_address() {
        let peers = [peer("Mesh_10_0_0_2", "up", "Established")];
        let text = protocols(&peers, Some("Mesh_10_0_0_2"), true).finish();
        let value = |key: &str| {
            let line = text.lines().find(|line| line.contains(key)).expect("a line");
            line.split(':').nth(1).unwrap().trim().to_owned()
        };
        assert_eq!(value("BGP state:"), "Established");
        assert_eq!(value("Neighbor address:"), "10.0.0.2");
        assert!(protocols(&peers, Some("x"), true).finish().starts_with("8003 "));
    }

    #[test]
    fn details_have_bfd_where_it_is_configured() {
        let mut one = peer("Node_10_0_0_2", "up", "Established");
        let text = |one: &PeerAnswer| protocols(std::slice::from_ref(one), None, true).finish();
        assert!(!text(&one).contains("BFD"));
        one.bfd = Some(crate::api::bgp::BfdAnswer {
            state: "Down".into(),
            remote_state: Some("Init".into()),
            multihop: false,
            interval_ms: 300,
            multiplier: 3,
            transmit_ms: Some(1000),
            detection_ms: Some(900),
            diagnostic: "detection time expired".into(),
            remote_diagnostic: None,
        });
        let text = text(&one);
        for line in
            ["BFD state:        Down", "BFD mode:         single hop", "300 ms x 3", "900 ms"]
        {
            assert!(text.contains(line), "{text}");
        }
        let brief = one.bfd.unwrap().brief();
        assert_eq!(brief, "Down (peer Init) detection time expired");
    }

    #[test]
    fn status_ends_with_its_code_and_tells_of_a_restart() {
        let quiet = status(Some([10, 0, 0, 1].into()), Duration::from_secs(5), false).finish();
        assert!(quiet.starts_with("1000-BIRD v"), "{quiet}");
        assert!(quiet.contains("\n1011-Router ID is 10.0.0.1\n Current server time is "));
        assert!(quiet.ends_with("\n0013 Daemon is up and running\n"), "{quiet}");
        let holding = status(None, Duration::ZERO, true).finish();
        assert!(holding.contains("\n0024-Graceful restart recovery in progress\n"));
        assert!(!quiet.contains("0024"));
    }

    #[test]
    fn routes_have_way_protocol_and_star() {
        let route = |prefix: &str, way: &str, protocol: &str, best| Shown {
            prefix: prefix.parse().unwrap(),
            ways: vec![way.to_owned()],
            protocol: protocol.to_owned(),
            since: "08:31:25".to_owned(),
            best,
            preference: 100,
        };
        let text = routes(&[
            route("10.65.0.0/26", "blackhole", "static1", true),
            route("10.65.0.64/26", "via 10.0.0.2 on eth0", "Mesh_10_0_0_2", true),
            route("10.65.0.64/26", "via 10.0.0.3 on eth0", "Mesh_10_0_0_3", false),
        ])
        .finish();
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(lines[0], "1007-10.65.0.0/26 blackhole [static1 08:31:25] * (100)");
        assert_eq!(lines[1], "10.65.0.64/26 via 10.0.0.2 on eth0 [Mesh_10_0_0_2 08:31:25] * (100)");
        assert_eq!(
            lines[2], "via 10.0.0.3 on eth0 [Mesh_10_0_0_3 08:31:25] (100)",
            "the same destination"
        );
        assert_eq!(lines[3], "0000");
    }
}
