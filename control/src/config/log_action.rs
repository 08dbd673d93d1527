//! What rules with action Log write to the kernel's log, in Felix's words (`logPrefix`,
//! `logActionRateLimit`, `logActionRateLimitBurst`).

use super::ConfigError;
use margay_acl::model::{Kind, PolicyKey};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest prefix of a line that the kernel takes, its end not included (`NF_LOG_PREFIXLEN`).
pub const PREFIX_MAX: usize = 127;
/// Most lines of a unit of time.
const RATE_MAX: u16 = 9999;
/// Most lines at once.
pub const BURST_MAX: u16 = 9999;
const USUAL: &str = "calico-packet";

/// What becomes of packets that such rules match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogAction {
    /// What a line begins with, before `: `. `%t` is the tier, `%k` the kind in short, `%n` the
    /// name and `%p` the name with its namespace.
    pub prefix: String,
    /// How many lines each rule may write; `None` for all.
    pub rate: Option<LogRate>,
    /// How many of them at once, up to [`BURST_MAX`].
    pub burst: u16,
}

impl Default for LogAction {
    fn default() -> LogAction {
        LogAction { prefix: USUAL.to_owned(), rate: None, burst: 5 }
    }
}

/// Lines in a unit of time, `10/second`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogRate {
    /// 1 to 9999.
    pub count: u16,
    /// Of so many seconds.
    pub unit_s: u64,
}

const UNITS: [(&str, u64); 4] = [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400)];

impl TryFrom<String> for LogRate {
    type Error = String;

    fn try_from(text: String) -> Result<LogRate, String> {
        let wrong = || {
            let most = RATE_MAX;
            format!("'{text}' is no rate: 1 to {most}, and /second, /minute, /hour or /day")
        };
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let is_number = count.bytes().all(|byte| byte.is_ascii_digit()) && !count.starts_with('0');
        let count = count.parse().ok().filter(|count| is_number && *count <= RATE_MAX);
        let unit_s = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| *seconds);
        match (count, unit_s) {
            (Some(count), Some(unit_s)) => Ok(LogRate { count, unit_s }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for LogRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, seconds)| *seconds == self.unit_s);
        write!(f, "{}/{}", self.count, unit.map_or("second", |(name, _)| *name))
    }
}

impl From<LogRate> for String {
    fn from(rate: LogRate) -> String {
        rate.to_string()
    }
}

/// Who logs: a policy of a tier, or a profile.
#[derive(Debug, Clone, Copy)]
pub enum Logger<'a> {
    /// A policy, with its tier.
    Policy(&'a str, &'a PolicyKey),
    /// A profile.
    Profile(&'a str),
}

impl LogAction {
    /// What a line begins with, cut to what the kernel takes.
    pub fn prefix_of(&self, logger: Logger<'_>) -> String {
        let (tier, kind, name, namespace) = match logger {
            Logger::Policy(tier, key) => (tier, short(key.kind), &*key.name, &*key.namespace),
            Logger::Profile(name) => ("", "pro", name, ""),
        };
        let path = match namespace {
            "" => name.to_owned(),
            namespace => format!("{namespace}/{name}"),
        };
        let mut text = String::new();
        let mut rest = &*self.prefix;
        while let Some(at) = rest.find('%') {
            text.push_str(&rest[..at]);
            let value = match rest.as_bytes().get(at + 1) {
                Some(b't') => tier,
                Some(b'k') => kind,
                Some(b'n') => name,
                Some(b'p') => &path,
                _ => {
                    text.push('%');
                    rest = &rest[at + 1..];
                    continue;
                }
            };
            text.push_str(value);
            rest = &rest[at + 2..];
        }
        text.push_str(rest);
        text.push_str(": ");
        let end = (0..=PREFIX_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text
    }

    /// Takes a prefix, as far as Felix does.
    pub(super) fn check_prefix(prefix: &str, place: &str) -> Result<(), ConfigError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"%: /_-".contains(&byte);
        match prefix.bytes().all(is_plain) {
            true => Ok(()),
            false => {
                let what = format!("'{prefix}' has other characters than the log takes");
                Err(ConfigError::new(place, what, "letters, digits, and '%', ': ', '/', '_', '-'"))
            }
        }
    }
}

/// Felix's short names.
fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::GlobalNetworkPolicy => "gnp",
        Kind::NetworkPolicy => "np",
        Kind::KubernetesNetworkPolicy => "knp",
        Kind::KubernetesClusterNetworkPolicy => "kcnp",
        Kind::StagedGlobalNetworkPolicy => "sgnp",
        Kind::StagedNetworkPolicy => "snp",
        Kind::StagedKubernetesNetworkPolicy => "sknp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_name_who_logs() {
        let (namespace, name) = ("shop".to_owned(), "db".to_owned());
        let key = PolicyKey { kind: Kind::NetworkPolicy, namespace, name };
        let prefix = |text: &str, logger| {
            LogAction { prefix: text.to_owned(), ..LogAction::default() }.prefix_of(logger)
        };
        let policy = Logger::Policy("infra", &key);
        assert_eq!(LogAction::default().prefix_of(policy), "calico-packet: ");
        assert_eq!(prefix("%t %k %n %p %x 100%", policy), "infra np db shop/db %x 100%: ");
        assert_eq!(prefix("%k/%n/%t", Logger::Profile("kns.a")), "pro/kns.a/: ");
        assert_eq!(prefix(&"x".repeat(200), policy).len(), PREFIX_MAX, "the kernel's limit");
        assert_eq!(prefix(&"ä".repeat(100), policy).len(), PREFIX_MAX - 1);
    }

    #[test]
    fn rates_are_felix_s() {
        let rate = |text: &str| LogRate::try_from(text.to_owned());
        assert_eq!(rate("10/second"), Ok(LogRate { count: 10, unit_s: 1 }));
        assert_eq!(rate("9999/day"), Ok(LogRate { count: 9999, unit_s: 86_400 }));
        assert_eq!(rate("7/hour").unwrap().to_string(), "7/hour");
        for wrong in ["", "10", "0/second", "010/second", "10000/second", "10/week", "+1/day"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
