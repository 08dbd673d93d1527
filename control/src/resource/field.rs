//! Values that several resources have: AS numbers, durations, communities, secrets' names.

use super::Invalid;
use ipnet::IpNet;
use margay_acl::selector::Selector;
use margay_bgp::policy::Community;
use serde::{Deserialize, Deserializer};

/// An AS number: a number, its text, or dotted `a.b` (RFC 5396).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AsNumber(pub(crate) u32);

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AsNumber, D::Error> {
        let text = NumberOrText::deserialize(deserializer)?.into_text();
        as_number(&text).map(AsNumber).ok_or_else(|| {
            let mend = "0 to 4294967295, or dotted such as 1.10";
            serde::de::Error::custom(format!("'{text}' is no AS number: {mend}"))
        })
    }
}

/// A number, or text; YAML reads `1.10` as a number unless it is quoted.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl NumberOrText {
    fn into_text(self) -> String {
        match self {
            NumberOrText::Number(number) => number.to_string(),
            NumberOrText::Text(text) => text,
        }
    }
}

/// The number that a text names.
pub(crate) fn as_number(text: &str) -> Option<u32> {
    if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    match text.split_once('.') {
        Some((high, low)) => {
            Some(u32::from(high.parse::<u16>().ok()?) << 16 | u32::from(low.parse::<u16>().ok()?))
        }
        None => text.parse().ok(),
    }
}

/// Seconds of a duration as Go writes it, such as `90s`, `1m30s` or `1.5h`, rounded.
pub(crate) fn seconds(field: &'static str, text: &str) -> Result<u32, Invalid> {
    let bad = || Invalid::new(field, format!("'{text}' is no duration"), "such as 90s or 1m30s");
    let (mut rest, mut total) = (text, 0.0);
    if rest == "0" {
        return Ok(0);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let value: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += value
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(bad()),
            };
        rest = &rest[end..];
    }
    match text.is_empty() || total > f64::from(u32::MAX) {
        true => Err(bad()),
        false => Ok(total.round() as u32),
    }
}

/// A community, or an error that names the field.
pub(crate) fn community(field: &'static str, text: &str) -> Result<Community, Invalid> {
    let mend = "a:b with 0 to 65535 each, or a:b:c with 0 to 4294967295";
    text.parse().map_err(|_| Invalid::new(field, format!("'{text}' is no community"), mend))
}

/// A masked range.
pub(crate) fn range(field: &'static str, text: &str) -> Result<IpNet, Invalid> {
    let mend = "a range such as 10.0.0.0/8 or fd00::/64";
    let bad = |what| Invalid::new(field, what, mend);
    let net: IpNet = text.parse().map_err(|_| bad(format!("'{text}' is no range")))?;
    match net == net.trunc() {
        true => Ok(net),
        false => Err(bad(format!("{net} has bits behind its mask, {} has not", net.trunc()))),
    }
}

/// A selector that is there and not empty.
pub(crate) fn selector(
    field: &'static str,
    text: Option<&String>,
) -> Result<Option<Selector>, Invalid> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let parsed = Selector::parse(text);
    parsed
        .map(Some)
        .map_err(|error| Invalid::new(field, error.to_string(), "such as role == 'tor'"))
}

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    /// Name of the Secret.
    pub name: String,
    /// The key in it.
    pub key: String,
}

/// `{secretKeyRef: {name, key}}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PasswordSource {
    secret_key_ref: Option<KeyReference>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct KeyReference {
    name: String,
    key: String,
}

/// The reference, which is complete.
pub(crate) fn secret_key(
    field: &'static str,
    source: Option<PasswordSource>,
) -> Result<Option<SecretKey>, Invalid> {
    let Some(reference) = source.and_then(|source| source.secret_key_ref) else { return Ok(None) };
    match reference.name.is_empty() || reference.key.is_empty() {
        true => Err(Invalid::new(field, "name or key is missing", "name and key of a Secret")),
        false => Ok(Some(SecretKey { name: reference.name, key: reference.key })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_numbers_may_be_dotted() {
        assert_eq!(as_number("64512"), Some(64512));
        assert_eq!(as_number("1.10"), Some(65546));
        assert_eq!(as_number("4294967295"), Some(u32::MAX));
        for bad in ["", "-1", "4294967296", "1.65536", "1.2.3", "+1", "x"] {
            assert_eq!(as_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        let cases =
            [("90s", 90), ("1m30s", 90), ("1.5h", 5400), ("499ms", 0), ("500ms", 1), ("0", 0)];
        for (text, expected) in cases {
            assert_eq!(seconds("f", text), Ok(expected), "{text}");
        }
        for bad in ["", "90", "s", "1x", "-1s", "1.2.3s", "99999999999h"] {
            assert!(seconds("f", bad).is_err(), "{bad}");
        }
    }
}
