//! Ports of the host that policy never closes, as Felix writes and sets them.

use super::ConfigError;
use ipnet::IpNet;
use margay_acl::model::Failsafe;
use margay_acl::packet::protocol::{SCTP, TCP, UDP};
use serde::{Deserialize, Serialize};

/// A port that stays open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FailsafePort {
    /// `tcp`, `udp` or `sctp`.
    #[serde(default)]
    pub protocol: FailsafeProtocol,
    /// The port.
    pub port: u16,
    /// Who may use it, or be reached; all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<IpNet>,
}

/// Protocols with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailsafeProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Ports that are the same in both directions.
const BOTH: [u16; 7] = [179, 2379, 2380, 5473, 6443, 6666, 6667];

fn defaults(own: &[(FailsafeProtocol, u16)]) -> Vec<FailsafePort> {
    let both = BOTH.map(|port| (FailsafeProtocol::Tcp, port));
    let port = |(protocol, port): &(FailsafeProtocol, u16)| FailsafePort {
        protocol: *protocol,
        port: *port,
        net: None,
    };
    own.iter().chain(&both).map(port).collect()
}

/// Felix's defaults for what comes in: SSH and DHCP, and what runs the cluster.
pub(super) fn inbound() -> Vec<FailsafePort> {
    defaults(&[(FailsafeProtocol::Tcp, 22), (FailsafeProtocol::Udp, 68)])
}

/// Felix's defaults for what goes out: DNS and DHCP, and what runs the cluster.
pub(super) fn outbound() -> Vec<FailsafePort> {
    defaults(&[(FailsafeProtocol::Udp, 53), (FailsafeProtocol::Udp, 67)])
}

impl From<&FailsafePort> for Failsafe {
    fn from(port: &FailsafePort) -> Failsafe {
        let protocol = match port.protocol {
            FailsafeProtocol::Tcp => TCP,
            FailsafeProtocol::Udp => UDP,
            FailsafeProtocol::Sctp => SCTP,
        };
        Failsafe { protocol, port: port.port, net: port.net.map(|net| net.trunc()) }
    }
}

/// Felix's text: `tcp:22,udp:68,tcp:10.0.0.0/8:179`, `none` for no port at all.
pub(super) fn parse(name: &str, text: &str) -> Result<Vec<FailsafePort>, ConfigError> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let port = |word: &str| {
        let hint = "tcp:22,udp:68,tcp:10.0.0.0/8:179, or none";
        port(word).ok_or_else(|| ConfigError::new(name, format!("'{word}' is no port"), hint))
    };
    words.map(port).collect()
}

fn port(word: &str) -> Option<FailsafePort> {
    let Some((protocol, rest)) = word.split_once(':') else {
        let (protocol, net) = (FailsafeProtocol::Tcp, None);
        return Some(FailsafePort { protocol, port: word.parse().ok()?, net });
    };
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => FailsafeProtocol::Tcp,
        "udp" => FailsafeProtocol::Udp,
        "sctp" => FailsafeProtocol::Sctp,
        _ => return None,
    };
    let (net, port) = match rest.rsplit_once(':') {
        Some((net, port)) => (Some(net.replace(['[', ']'], "").parse().ok()?), port),
        None => (None, rest),
    };
    Some(FailsafePort { protocol, port: port.parse().ok()?, net })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn felix_text_is_read() {
        let ports = parse("F", "22, udp:68,tcp:10.0.0.0/8:179,sctp:[2001:db8::]/32:9").unwrap();
        let shown: Vec<_> = ports.iter().map(|one| (one.protocol, one.port)).collect();
        use FailsafeProtocol::{Sctp, Tcp, Udp};
        assert_eq!(shown, [(Tcp, 22), (Udp, 68), (Tcp, 179), (Sctp, 9)]);
        assert_eq!(ports[2].net, Some("10.0.0.0/8".parse().unwrap()));
        assert_eq!(ports[3].net, Some("2001:db8::/32".parse().unwrap()));
        assert_eq!(parse("F", "none").unwrap(), []);
        for wrong in ["tcp:", "icmp:3", "tcp:70000", "tcp:10.0.0.0/40:22"] {
            let error = parse("F", wrong).unwrap_err();
            assert!(error.what.contains(wrong), "{error}");
        }
    }

    #[test]
    fn defaults_are_felix() {
        assert_eq!((inbound().len(), outbound().len()), (9, 9));
        assert_eq!(parse("F", "tcp:22").unwrap()[0], inbound()[0]);
    }
}
