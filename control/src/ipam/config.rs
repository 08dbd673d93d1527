//! IPAM's settings for the whole cluster.

use super::handle::lost_race;
use super::{Ipam, IpamError, RETRIES, document, key};
use crate::store::datastore::{Datastore, Document};
use serde::Deserialize;
use serde_json::{Value, json};

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

    /// What does not go together.
    fn check(&self) -> Result<(), IpamError> {
        let invalid = |what: &str| Err(IpamError::Invalid(what.to_owned()));
        if !self.strict_affinity && !self.auto_allocate_blocks {
            return invalid("strictAffinity and autoAllocateBlocks cannot both be false");
        }
        if !self.strict_affinity && self.max_blocks_per_host > 0 {
            return invalid("maxBlocksPerHost needs strictAffinity");
        }
        Ok(())
    }

    /// Most blocks that a host may have.
    pub fn blocks_max(&self) -> usize {
        match self.max_blocks_per_host {
            0 => BLOCKS_DEFAULT,
            most => most,
        }
    }
}

impl<D: Datastore> Ipam<'_, D> {
    /// Writes the settings; fields that mean nothing here stay.
    pub async fn configure(&self, config: &IpamConfig) -> Result<(), IpamError> {
        config.check()?;
        for _ in 0..RETRIES {
            let found = self.store.find(&key("IPAMConfig", "default")).await?;
            let before = found.as_ref().map_or(Value::Null, Document::spec);
            let mut spec = before.as_object().cloned().unwrap_or_default();
            for (field, value) in [
                ("strictAffinity", json!(config.strict_affinity)),
                ("autoAllocateBlocks", json!(config.auto_allocate_blocks)),
                ("maxBlocksPerHost", json!(config.max_blocks_per_host)),
                ("ipCooldownSeconds", json!(config.ip_cooldown_seconds)),
            ] {
                spec.insert(field.to_owned(), value);
            }
            let spec = Value::Object(spec);
            let outcome = match found {
                Some(found) => self.store.update(found.with_spec(spec)).await,
                None => self.store.create(document("IPAMConfig", "default", spec)?).await,
            };
            match outcome {
                Ok(_) => return Ok(()),
                Err(error) if lost_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(IpamError::Contended("IPAMConfig".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::memory::Memory;

    #[tokio::test]
    async fn settings_that_do_not_go_together_are_refused() {
        let store = Memory::default();
        let ipam = Ipam::new(&store);
        let lax = IpamConfig { max_blocks_per_host: 4, ..IpamConfig::default() };
        assert!(ipam.configure(&lax).await.is_err());
        let strict = IpamConfig { strict_affinity: true, ..lax };
        ipam.configure(&strict).await.unwrap();
        assert_eq!(ipam.config().await.unwrap(), strict);
        ipam.configure(&IpamConfig::default()).await.unwrap();
        assert_eq!(ipam.config().await.unwrap(), IpamConfig::default());
    }
}
