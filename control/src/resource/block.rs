//! BlockAffinity and IPAMBlock: which node owns which part of a pool.
//!
//! A claim that is pending, or being deleted, is nobody's route. Where both resources exist the
//! block's own `affinity` counts, for two nodes may have claimed it.

use super::{Invalid, Object};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

/// A node's claim of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockAffinity {
    /// The block.
    pub cidr: IpNet,
    /// The node.
    pub node: String,
    /// True when packets may be sent to the node: state `confirmed` (or empty, as very old
    /// versions wrote), not deleted, and the claim of a host.
    pub confirmed: bool,
}

/// A block with its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpamBlock {
    /// The block.
    pub cidr: IpNet,
    /// The node that it belongs to; `None` for blocks of nobody and of load balancers.
    pub node: Option<String>,
}

/// Spec of a BlockAffinity.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AffinitySpec {
    state: Option<String>,
    node: String,
    cidr: String,
    #[serde(deserialize_with = "text_or_boolean")]
    deleted: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Spec of an IPAMBlock.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct BlockSpec {
    cidr: String,
    affinity: Option<String>,
    host_affinity: Option<String>,
    #[serde(deserialize_with = "text_or_boolean")]
    deleted: bool,
}

impl TryFrom<Object<AffinitySpec>> for BlockAffinity {
    type Error = Invalid;

    fn try_from(object: Object<AffinitySpec>) -> Result<BlockAffinity, Invalid> {
        super::check_name(&object.metadata.name)?;
        let spec = object.spec;
        let state = spec.state.unwrap_or_default();
        if !["", "confirmed", "pending", "pendingDeletion"].contains(&state.as_str()) {
            let mend = "confirmed, pending or pendingDeletion";
            return Err(Invalid::new("spec.state", format!("'{state}' is no state"), mend));
        }
        if spec.node.is_empty() {
            return Err(Invalid::new("spec.node", "it is missing", "the name of a node"));
        }
        let of_host = spec.kind.is_none_or(|kind| kind.is_empty() || kind == "host");
        let confirmed = of_host && !spec.deleted && (state.is_empty() || state == "confirmed");
        Ok(BlockAffinity { cidr: cidr(&spec.cidr)?, node: spec.node, confirmed })
    }
}

impl TryFrom<Object<BlockSpec>> for IpamBlock {
    type Error = Invalid;

    fn try_from(object: Object<BlockSpec>) -> Result<IpamBlock, Invalid> {
        let spec = object.spec;
        let host = spec.affinity.as_deref().and_then(|affinity| affinity.strip_prefix("host:"));
        let node = host.map(str::to_owned).or(spec.host_affinity).filter(|_| !spec.deleted);
        Ok(IpamBlock { cidr: cidr(&spec.cidr)?, node: node.filter(|node| !node.is_empty()) })
    }
}

fn cidr(text: &str) -> Result<IpNet, Invalid> {
    let bad = |what| Invalid::new("spec.cidr", what, "a masked block such as 10.1.2.0/26");
    let cidr: IpNet = text.parse().map_err(|_| bad(format!("'{text}' is no block")))?;
    match cidr == cidr.trunc() {
        true => Ok(cidr),
        false => Err(bad(format!("{cidr} has bits behind its mask"))),
    }
}

/// `deleted` is a string in the BlockAffinity resource and a boolean elsewhere.
fn text_or_boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Boolean(bool),
        Text(String),
    }
    Ok(match Option::<Either>::deserialize(deserializer)? {
        None => false,
        Some(Either::Boolean(value)) => value,
        Some(Either::Text(text)) => text == "true",
    })
}
