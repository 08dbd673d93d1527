//! An endpoint's traffic control: `spec.qosControls`, Calico's annotations of the same names, and
//! Kubernetes' bandwidth annotations, in this order of precedence, field by field.
//!
//! `margay.io/shaping: Enabled` lets what is beyond the bandwidth wait; else it is dropped.
//! `margay.io/weight: "4"` is the endpoint's share of a congested port beside others, 1 by default.
//!
//! Values are clamped as Calico clamps them (calico.md 7.8), with a warning for each; what cannot
//! be read is left out with a warning, because a pod must not lose its network by a bad number.

use margay_acl::Direction;
use margay_fastpath::limit::WEIGHT_MAX;
use margay_fastpath::limit::dscp::Dscp;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What Calico's annotations begin with.
const PREFIX: &str = "qos.projectcalico.org/";
/// The annotations of margay's own.
const SHAPING: &str = "margay.io/shaping";
const WEIGHT: &str = "margay.io/weight";
const WEIGHTS: (u64, u64) = (1, WEIGHT_MAX as u64);
/// Bits a second.
const BANDWIDTH: (u64, u64) = (1_000, 1_000_000_000_000_000);
/// Bits.
const BURST: (u64, u64) = (1_000, 34_359_738_360);
const BURST_DEFAULT: u64 = 4_294_967_296;
/// Bytes.
const MIN_BURST: (u64, u64) = (1_000, 100_000_000);
/// A second.
const PACKET_RATE: (u64, u64) = (1, 10_000);
const PACKET_BURST: (u64, u64) = (1, 10_000);
const PACKET_BURST_DEFAULT: u64 = 5;
const CONNECTIONS: (u64, u64) = (1, u32::MAX as u64);

/// The fields of `spec.qosControls`, as they stand.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct QosControls(BTreeMap<String, Value>);

/// Traffic control of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Qos {
    /// Towards the workload.
    pub ingress: Limits,
    /// From the workload.
    pub egress: Limits,
    /// The mark of what leaves the cluster.
    pub dscp: Option<Dscp>,
    /// What is beyond the bandwidth waits.
    pub shaped: bool,
    /// Its share of a congested port, beside those of others; 1 where nothing is said.
    pub weight: Option<u32>,
}

impl Qos {
    /// The limits of one direction.
    pub fn way(&self, direction: Direction) -> &Limits {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Limits of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Bits.
    pub bandwidth: Option<Bandwidth>,
    /// Packets.
    pub packets: Option<PacketRate>,
    /// Most connections at a time.
    pub connections: Option<u32>,
}

/// A limit on bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bandwidth {
    /// Bits a second.
    pub rate: u64,
    /// Bits.
    pub burst: u64,
    /// How fast a burst may be, if that is limited.
    pub peak: Option<Peak>,
}

/// A limit on how fast a burst is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peak {
    /// Bits a second, more than the bandwidth.
    pub rate: u64,
    /// Bytes at once; `None` for as much as the MTU.
    pub min_burst: Option<u64>,
}

/// A limit on packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PacketRate {
    /// Packets a second.
    pub rate: u64,
    /// Packets.
    pub burst: u64,
}

impl Qos {
    /// From the fields and annotations of a WorkloadEndpoint. The texts are warnings, each with
    /// the field, what is wrong, and what was taken.
    pub fn new(
        controls: &QosControls,
        annotations: &BTreeMap<String, String>,
    ) -> (Qos, Vec<String>) {
        let mut reader = Reader { controls, annotations, warnings: Vec::new() };
        let qos = Qos {
            ingress: reader.limits("ingress"),
            egress: reader.limits("egress"),
            dscp: reader.dscp(),
            shaped: reader.shaped(),
            weight: reader.weight(),
        };
        (qos, reader.warnings)
    }
}

struct Reader<'a> {
    controls: &'a QosControls,
    annotations: &'a BTreeMap<String, String>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn limits(&mut self, direction: &str) -> Limits {
        let field = |name: &str| format!("{direction}{name}");
        let rate = self.number(&field("Bandwidth"), BANDWIDTH);
        let rate = rate.or_else(|| {
            let name = format!("kubernetes.io/{direction}-bandwidth");
            let text = self.annotations.get(&name)?.clone();
            self.read(&format!("metadata.annotations[{name}]"), &text, BANDWIDTH)
        });
        let burst = self.number(&field("Burst"), BURST).unwrap_or(BURST_DEFAULT);
        let peak = self.number(&field("Peakrate"), BANDWIDTH);
        let min_burst = self.number(&field("Minburst"), MIN_BURST);
        let packets = self.number(&field("PacketRate"), PACKET_RATE);
        let packet_burst = self.number(&field("PacketBurst"), PACKET_BURST);
        let connections = self.number(&field("MaxConnections"), CONNECTIONS);
        let peak = peak.filter(|peak| {
            let is_above = rate.is_some_and(|rate| *peak > rate);
            if !is_above {
                let name = field("Peakrate");
                self.warnings.push(format!("{name}: {peak} is not above the bandwidth; left out"));
            }
            is_above
        });
        Limits {
            bandwidth: rate.map(|rate| {
                let peak = peak.map(|rate| Peak { rate, min_burst });
                Bandwidth { rate, burst, peak }
            }),
            packets: packets.map(|rate| PacketRate {
                rate,
                burst: packet_burst.unwrap_or(PACKET_BURST_DEFAULT),
            }),
            connections: connections.and_then(|most| u32::try_from(most).ok()),
        }
    }

    /// Where a value stands, and its text.
    fn find(&self, name: &str) -> Option<(String, String)> {
        if let Some(value) = self.controls.0.get(name).filter(|value| !is_unset(value)) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            return Some((format!("spec.qosControls.{name}"), text));
        }
        let annotation = format!("{PREFIX}{name}");
        let text = self.annotations.get(&annotation)?;
        Some((format!("metadata.annotations[{annotation}]"), text.clone()))
    }

    fn number(&mut self, name: &str, range: (u64, u64)) -> Option<u64> {
        let (place, text) = self.find(name)?;
        self.read(&place, &text, range)
    }

    /// A quantity within a range.
    fn read(&mut self, place: &str, text: &str, (least, most): (u64, u64)) -> Option<u64> {
        let Some(value) = quantity(text) else {
            self.warnings.push(format!("{place}: '{text}' is no quantity such as 10M; left out"));
            return None;
        };
        let taken = value.clamp(u128::from(least), u128::from(most));
        if taken != value {
            self.warnings.push(format!("{place}: {text} is not {least} to {most}; {taken} taken"));
        }
        u64::try_from(taken).ok()
    }

    fn weight(&mut self) -> Option<u32> {
        let text = self.annotations.get(WEIGHT)?.clone();
        let weight = self.read(&format!("metadata.annotations[{WEIGHT}]"), &text, WEIGHTS)?;
        u32::try_from(weight).ok()
    }

    fn shaped(&mut self) -> bool {
        match self.annotations.get(SHAPING).map(String::as_str) {
            None | Some("Disabled") => false,
            Some("Enabled") => true,
            Some(other) => {
                let place = format!("metadata.annotations[{SHAPING}]");
                let mend = "Enabled or Disabled";
                self.warnings.push(format!("{place}: '{other}' is not {mend}; left out"));
                false
            }
        }
    }

    fn dscp(&mut self) -> Option<Dscp> {
        let (place, text) = self.find("dscp")?;
        let number = text.parse::<u8>().ok().and_then(Dscp::new);
        let dscp = number.or_else(|| Dscp::named(&text));
        if dscp.is_none() {
            let mend = "0 to 63, or a name such as EF or AF11";
            self.warnings.push(format!("{place}: '{text}' is no code point ({mend}); left out"));
        }
        dscp
    }
}

/// Fields of a resource that Calico writes as 0 are not set.
fn is_unset(value: &Value) -> bool {
    value.is_null() || value.as_u64() == Some(0)
}

/// A quantity as Kubernetes writes it (`100`, `1.5M`, `2Gi`, `1e6`, `500m`), rounded up.
pub(crate) fn quantity(text: &str) -> Option<u128> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 24 || fraction.contains('.') {
        return None;
    }
    let value: u128 = digits.parse().ok()?;
    let parts = 10u128.checked_pow(fraction.len() as u32)?;
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let decimal = [("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    let small = [("m", 3), ("u", 6), ("n", 9)];
    let power = |power: u32| 10u128.checked_pow(power);
    let (times, parts) = if suffix.is_empty() {
        (1, parts)
    } else if let Some(at) = binary.iter().position(|one| *one == suffix) {
        (1 << (10 * (at + 1)), parts)
    } else if let Some((_, exponent)) = decimal.iter().find(|one| one.0 == suffix) {
        (power(*exponent)?, parts)
    } else if let Some((_, exponent)) = small.iter().find(|one| one.0 == suffix) {
        (1, parts.checked_mul(power(*exponent)?)?)
    } else {
        let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
        let by = power(exponent.unsigned_abs())?;
        if exponent < 0 { (1, parts.checked_mul(by)?) } else { (by, parts) }
    };
    Some(value.checked_mul(times)?.div_ceil(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qos(controls: &str, annotations: &[(&str, &str)]) -> (Qos, Vec<String>) {
        let controls: QosControls = serde_json::from_str(controls).unwrap();
        let pairs = annotations.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Qos::new(&controls, &pairs.collect())
    }

    #[test]
    fn quantities_are_kubernetes_own() {
        let values = [
            ("0", 0),
            ("100", 100),
            ("1k", 1000),
            ("1.5M", 1_500_000),
            ("2Gi", 2 << 30),
            ("1e3", 1000),
            ("1E", 1_000_000_000_000_000_000),
            ("1500m", 2),
            ("0.1", 1),
            ("1500e-3", 2),
        ];
        for (text, value) in values {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        let bad = ["", "M", "1.2.3", "-1", "1 M", "1Q", "1e", "1e99", "9999999999999999999999999"];
        assert!(bad.iter().all(|text| quantity(text).is_none()));
    }

    #[test]
    fn fields_have_calicos_defaults() {
        let annotations = [
            ("qos.projectcalico.org/ingressBandwidth", "10M"),
            ("qos.projectcalico.org/egressPacketRate", "100"),
            ("qos.projectcalico.org/egressMaxConnections", "4294967295"),
            ("qos.projectcalico.org/dscp", "AF11"),
        ];
        let (qos, warnings) = qos("{}", &annotations);
        let bandwidth = Bandwidth { rate: 10_000_000, burst: 4_294_967_296, peak: None };
        assert_eq!(qos.ingress, Limits { bandwidth: Some(bandwidth), ..Limits::default() });
        assert_eq!(qos.egress.packets, Some(PacketRate { rate: 100, burst: 5 }));
        assert_eq!(qos.egress.connections, Some(u32::MAX));
        assert_eq!((qos.dscp.map(Dscp::value), warnings), (Some(10), vec![]));
    }

    #[test]
    fn weights_are_numbers_of_1_to_1024() {
        for (text, weight, warned) in
            [("4", Some(4), 0), ("2000", Some(1024), 1), ("0", Some(1), 1), ("heavy", None, 1)]
        {
            let (qos, warnings) = qos("{}", &[("margay.io/weight", text)]);
            assert_eq!((qos.weight, warnings.len()), (weight, warned), "{text}");
        }
    }

    #[test]
    fn calico_wins_over_kubernetes_and_the_spec_over_both() {
        let all = [
            ("qos.projectcalico.org/egressBandwidth", "2M"),
            ("kubernetes.io/egress-bandwidth", "1M"),
            ("kubernetes.io/ingress-bandwidth", "3M"),
        ];
        let rate = |limits: Limits| limits.bandwidth.map(|bandwidth| bandwidth.rate);
        let (both, _) = qos("{}", &all);
        assert_eq!((rate(both.egress), rate(both.ingress)), (Some(2_000_000), Some(3_000_000)));
        let (spec, _) = qos(r#"{"egressBandwidth": 5000, "ingressBandwidth": 0}"#, &all);
        assert_eq!((rate(spec.egress), rate(spec.ingress)), (Some(5000), Some(3_000_000)));
    }

    #[test]
    fn what_is_out_of_range_is_clamped_with_a_warning() {
        let controls = r#"{"ingressBandwidth": 999, "ingressBurst": 34359738361,
            "ingressPeakrate": 1000, "egressPacketRate": 10001, "egressMaxConnections": 4294967296,
            "egressBandwidth": "2P", "egressPeakrate": "ten", "dscp": 64}"#;
        let (qos, warnings) = qos(controls, &[]);
        let bandwidth = Bandwidth { rate: 1000, burst: 34_359_738_360, peak: None };
        assert_eq!(qos.ingress.bandwidth, Some(bandwidth));
        assert_eq!(qos.egress.packets, Some(PacketRate { rate: 10_000, burst: 5 }));
        assert_eq!(qos.egress.connections, Some(u32::MAX));
        assert_eq!(qos.egress.bandwidth.map(|one| one.rate), Some(1_000_000_000_000_000));
        assert_eq!((qos.dscp, warnings.len()), (None, 8));
        assert_eq!(
            warnings[0],
            "spec.qosControls.ingressBandwidth: 999 is not 1000 to 1000000000000000; 1000 taken"
        );
    }

    #[test]
    fn shaping_is_an_annotation_of_our_own() {
        let shaped = |text| qos("{}", &[("margay.io/shaping", text)]);
        assert!(shaped("Enabled").0.shaped && !shaped("Disabled").0.shaped);
        let (qos, warnings) = shaped("yes");
        let expected =
            "metadata.annotations[margay.io/shaping]: 'yes' is not Enabled or Disabled; left out";
        assert_eq!((qos.shaped, &*warnings), (false, &[expected.to_owned()][..]));
    }
}
