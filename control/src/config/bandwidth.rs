//! What uplinks carry, where that is less than their devices take.

use super::{Config, ConfigError};
use crate::resource::qos::quantity;
use margay_fastpath::limit::RATE_MAX;
use serde::{Deserialize, Deserializer, Serialize};

/// Least bits a second of an uplink.
pub const BANDWIDTH_MIN: u64 = 1_000;

/// Bits a second, as a number or as Kubernetes writes quantities: 250000000, 250M, 1G.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct BitsPerSecond(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for BitsPerSecond {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BitsPerSecond, D::Error> {
        let value = match Written::deserialize(deserializer)? {
            Written::Number(value) => Some(value),
            Written::Text(text) => quantity(&text).and_then(|value| u64::try_from(value).ok()),
        };
        value.map(BitsPerSecond).ok_or_else(|| {
            serde::de::Error::custom("bits a second are a number, or a quantity such as 250M or 1G")
        })
    }
}

/// Checks that each is of an uplink, and in range.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    for (device, BitsPerSecond(rate)) in &config.uplink_bandwidth {
        let place = format!("uplinkBandwidth.{device}");
        if !config.uplinks.contains(device) {
            let hint = "name a device that is listed under uplinks";
            return Err(ConfigError::new(place, format!("{device} is no uplink"), hint));
        }
        if !(BANDWIDTH_MIN..=RATE_MAX).contains(rate) {
            let hint = format!("{BANDWIDTH_MIN} to {RATE_MAX} bits a second");
            return Err(ConfigError::new(place, format!("{rate} is out of range"), hint));
        }
    }
    Ok(())
}
