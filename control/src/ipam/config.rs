//! IPAM's settings for the whole cluster.

use super::IpamError;
use crate::store::datastore::Document;
use serde::Deserialize;

/// Blocks of a host where nothing else is said.
const BLOCKS_DEFAULT: usize = 20;

/// The settings, defaulted and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpamConfig {
    /// Addresses come from a host's own blocks only.
    pub strict_affinity: bool,
    /// Hosts claim blocks when they need them.
    pub auto_allocate_blocks: bool,
    /// Most blocks of a host; 0 is [`BLOCKS_DEFAULT`].
    pub max_blocks_per_host: usize,
    /// Seconds until a released address is given out again.
    pub ip_cooldown_seconds: u64,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    strict_affinity: bool,
    auto_allocate_blocks: bool,
    max_blocks_per_host: usize,
    ip_cooldown_seconds: u64,
}

impl Default for IpamConfig {
    fn default() -> IpamConfig {
        IpamConfig {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            ip_cooldown_seconds: 0,
        }
    }
}

impl IpamConfig {
    /// The settings of a stored object. What it leaves out is false, so an empty one is refused,
    /// as Calico refuses it.
    pub(super) fn of(document: &Document) -> Result<IpamConfig, IpamError> {
        let invalid = |what: &str| IpamError::Invalid(format!("{}: {what}", document.key));
        let spec: Spec =
            serde_json::from_value(document.spec()).map_err(|error| invalid(&error.to_string()))?;
        if !spec.strict_affinity && !spec.auto_allocate_blocks {
            return Err(invalid("strictAffinity and autoAllocateBlocks cannot both be false"));
        }
        Ok(IpamConfig {
            strict_affinity: spec.strict_affinity,
            auto_allocate_blocks: spec.auto_allocate_blocks,
            max_blocks_per_host: spec.max_blocks_per_host,
            ip_cooldown_seconds: spec.ip_cooldown_seconds,
        })
    }

    /// Most blocks that a host may have.
    pub fn blocks_max(&self) -> usize {
        match self.max_blocks_per_host {
            0 => BLOCKS_DEFAULT,
            most => most,
        }
    }
}
