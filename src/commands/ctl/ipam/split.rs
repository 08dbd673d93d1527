//! `margay ctl ipam split`: one pool becomes several of the same size, which have all else of it.
//!
//! Nobody may take addresses meanwhile, so the datastore must be locked. Blocks stay as they are:
//! each is in one of the new pools.

use super::super::write::out;
use anyhow::{Result, bail};
use ipnet::IpNet;
use margay_control::startup::cluster;
use margay_control::store::Store;
use margay_control::store::datastore::{Datastore, Document};
use margay_control::store::save;
use serde_json::json;
use std::process::ExitCode;

/// Most pools that one may become.
const PARTS_MAX: u32 = 1 << 16;
/// Longest name of a resource.
const NAME_MAX: usize = 253;

/// Cut a pool into smaller ones.
#[derive(Debug, clap::Args)]
pub(in crate::commands::ctl) struct Split {
    /// How many: a power of two
    #[arg(value_name = "NUMBER")]
    parts: u32,
    /// The pool's range
    #[arg(long, value_name = "CIDR")]
    cidr: Option<IpNet>,
    /// The pool's name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Split {
    pub(in crate::commands::ctl) async fn execute(&self, store: &Store) -> Result<ExitCode> {
        if self.cidr.is_none() && self.name.is_none() {
            bail!(
                "no name or CIDR provided. Provide a name or CIDR to denote the IP pool to split"
            );
        }
        if cluster::is_ready(store).await? {
            bail!(
                "datastore is not locked. Run the `calicoctl datastore migrate lock` command in \
                 order to split the IP pools"
            );
        }
        let pool = self.pool(store).await?;
        let parts = parts(&pool, self.parts)?;
        // What cannot be written is said before anything is.
        for part in &parts {
            save::check(part)?;
        }
        let mut spec = pool.spec();
        spec["disabled"] = json!(true);
        let closed = save::replace(store, pool.clone().with_spec(spec)).await?;
        let mut told = format!(
            "IP Pool {} was successfully split into {} smaller pools.\n",
            pool.key.name, self.parts
        );
        for part in parts {
            let cidr = part.spec()["cidr"].as_str().unwrap_or_default().to_owned();
            told += &format!("Created {} with CIDR {cidr}.\n", part.key.name);
            save::create(store, part).await?;
        }
        save::remove(store, &closed).await?;
        out(&told)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn pool(&self, store: &Store) -> Result<Document> {
        let pools = store.list("IPPool").await?.documents;
        let cidr = |pool: &Document| pool.spec()["cidr"].as_str().and_then(|c| c.parse().ok());
        let mut found = pools.into_iter().filter(|pool| {
            self.name.as_ref().is_none_or(|name| *name == pool.key.name)
                && self.cidr.is_none_or(|wanted| cidr(pool) == Some(wanted))
        });
        found.next().ok_or_else(|| {
            let name = self.name.as_deref().unwrap_or_default();
            let cidr = self.cidr.map(|cidr| cidr.to_string()).unwrap_or_default();
            anyhow::anyhow!("unable to find IP pool {name} covering the specified CIDR {cidr}")
        })
    }
}

/// The new pools, in the order of their ranges.
fn parts(pool: &Document, count: u32) -> Result<Vec<Document>> {
    if count < 2 || !count.is_power_of_two() || count > PARTS_MAX {
        bail!(
            "number to split CIDR into is not a valid power of 2: {count}\n\
             hint: 2, 4, 8 and so on, up to {PARTS_MAX}"
        );
    }
    let text = pool.spec()["cidr"].as_str().unwrap_or_default().to_owned();
    let cidr: IpNet = text.parse()?;
    let length = u32::from(cidr.prefix_len()) + count.ilog2();
    let too_small = || anyhow::anyhow!("the CIDR {cidr} is not large enough for {count} parts");
    let length = u8::try_from(length).map_err(|_| too_small())?;
    let cut = cidr.subnets(length).map_err(|_| too_small())?;
    let part = |(at, cidr): (usize, IpNet)| {
        let number = at.to_string();
        let most = NAME_MAX - "split--".len() - number.len();
        let name: String = pool.key.name.chars().take(most).collect();
        let mut value = pool.value.clone();
        let mut metadata = value["metadata"].clone();
        for field in ["uid", "creationTimestamp", "selfLink", "generation"] {
            metadata.as_object_mut().map(|all| all.remove(field));
        }
        metadata["name"] = json!(format!("split-{name}-{number}"));
        value.insert("metadata".to_owned(), metadata);
        let mut document = Document::new(serde_json::Value::Object(value))?;
        document.revision = None;
        let mut spec = document.spec();
        spec["cidr"] = json!(cidr.to_string());
        spec["disabled"] = json!(false);
        Ok(document.with_spec(spec))
    };
    cut.enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> Document {
        let metadata = json!({"name": "p", "uid": "u", "labels": {"a": "b"}});
        let spec = json!({"cidr": cidr, "natOutgoing": true, "disabled": true});
        Document::new(json!({"kind": "IPPool", "metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn parts_cover_the_pool_and_keep_its_settings() {
        let found = parts(&pool("172.0.0.0/15"), 2).unwrap();
        let cidrs: Vec<_> = found.iter().map(|part| part.spec()["cidr"].clone()).collect();
        assert_eq!(cidrs, ["172.0.0.0/16", "172.1.0.0/16"]);
        assert_eq!(found[1].key.name, "split-p-1");
        let metadata = &found[1].value["metadata"];
        assert_eq!((&metadata["labels"]["a"], metadata.get("uid")), (&json!("b"), None));
        let spec = found[0].spec();
        assert_eq!((&spec["natOutgoing"], &spec["disabled"]), (&json!(true), &json!(false)));
        assert_eq!(parts(&pool("fd00::/64"), 4).unwrap().len(), 4);
        for (cidr, count) in [("10.0.0.0/16", 3), ("10.0.0.0/16", 1), ("10.0.0.0/31", 4)] {
            assert!(parts(&pool(cidr), count).is_err(), "{cidr} {count}");
        }
    }
}
