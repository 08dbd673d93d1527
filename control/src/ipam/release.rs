//! Taking addresses back.

use super::block::Release;
use super::handle::{counts, lost_race};
use super::{Ipam, IpamError, RETRIES, Stored};
use crate::store::datastore::{Datastore, StoreError};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

impl<D: Datastore> Ipam<'_, D> {
    /// Releases addresses; answers those that were free already. What is said of an address must
    /// be so, or nothing of its block is released.
    pub async fn release(&self, releases: &[Release]) -> Result<Vec<IpAddr>, IpamError> {
        let blocks: Vec<IpNet> = self.blocks().await?.iter().map(|one| one.block.cidr).collect();
        let mut by_block: BTreeMap<IpNet, Vec<Release>> = BTreeMap::new();
        let mut free = Vec::new();
        for release in releases {
            match blocks.iter().find(|cidr| cidr.contains(&release.address)) {
                Some(cidr) => by_block.entry(*cidr).or_default().push(release.clone()),
                None => free.push(release.address),
            }
        }
        for (cidr, releases) in by_block {
            free.extend(self.release_in(cidr, &releases).await?);
        }
        Ok(free)
    }

    async fn release_in(
        &self,
        cidr: IpNet,
        releases: &[Release],
    ) -> Result<Vec<IpAddr>, IpamError> {
        let cooldown = self.cooldown(&self.config().await?);
        for _ in 0..RETRIES {
            let Some(mut stored) = self.block(cidr).await? else {
                return Ok(releases.iter().map(|release| release.address).collect());
            };
            stored.block.collect(cooldown);
            let (mut free, mut handles) = (Vec::new(), BTreeMap::<String, usize>::new());
            for release in releases {
                let released = stored.block.release(release, cooldown);
                match released.map_err(IpamError::Invalid)? {
                    Some(attribute) => {
                        let handle = attribute.handle().unwrap_or_default().to_owned();
                        *handles.entry(handle).or_default() += 1;
                    }
                    None => free.push(release.address),
                }
            }
            if !handles.is_empty() && !self.settle(stored).await? {
                continue;
            }
            for (handle, count) in handles.iter().filter(|(handle, _)| !handle.is_empty()) {
                self.count_down(handle, cidr, *count, None).await?;
            }
            return Ok(free);
        }
        Err(IpamError::Contended(format!("block {cidr}")))
    }

    /// Releases every address of a handle; false when there was none.
    pub async fn release_handle(&self, handle: &str) -> Result<bool, IpamError> {
        let (found, config) = tokio::try_join!(self.handle(handle), self.config())?;
        let Some(found) = found else { return Ok(false) };
        let cooldown = self.cooldown(&config);
        let blocks = counts(&found);
        let (mut any, mut known) = (false, Some(found));
        for (cidr, counted) in blocks {
            let mut tries = 0;
            loop {
                let Some(mut stored) = self.block(cidr).await? else { break };
                stored.block.collect(cooldown);
                if stored.block.release_handle(handle, cooldown) == 0 {
                    break;
                }
                any = true;
                if self.settle(stored).await? {
                    break;
                }
                tries += 1;
                if tries == RETRIES {
                    return Err(IpamError::Contended(format!("block {cidr}")));
                }
            }
            // What was counted and is not there was never given out.
            self.count_down(handle, cidr, counted, known.take()).await?;
        }
        Ok(any)
    }

    /// Writes a block from which addresses were taken back, or removes it when it is nobody's and
    /// empty; false when another writer was first.
    async fn settle(&self, stored: Stored) -> Result<bool, IpamError> {
        let unwanted = stored.block.affinity.is_none()
            && stored.block.host().is_none()
            && stored.block.is_empty();
        let outcome: Result<(), StoreError> = match unwanted {
            true => self.store.delete(&stored.document).await,
            false => self.write(stored).await,
        };
        match outcome {
            Ok(()) => Ok(true),
            Err(error) if lost_race(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
