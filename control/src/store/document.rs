//! The text of one file: documents, lists, and the resources in them.
//!
//! Documents are cut at `---` lines first, so that each fault knows its line in the file; then a
//! document is read twice, for its kind and for its type. Items of lists go by way of JSON values.

use super::{Fault, text};
use crate::resource::bgp_configuration::BgpConfiguration;
use crate::resource::bgp_filter::BgpFilter;
use crate::resource::bgp_peer::BgpPeer;
use crate::resource::block::{AffinitySpec, BlockAffinity, BlockSpec, IpamBlock};
use crate::resource::host_endpoint::{self, HostEndpoint};
use crate::resource::ip_pool::IpPool;
use crate::resource::node::Node;
use crate::resource::policy::places::{ProfileSpec, SetDocument};
use crate::resource::policy::{
    self, ClusterDocument, KubernetesDocument, Part, PolicyDocument, TierSpec,
};
use crate::resource::secret::{self, Secret};
use crate::resource::service::{EndpointSlice, Service, ServiceDocument, SliceDocument};
use crate::resource::workload_endpoint::WorkloadEndpoint;
use crate::resource::{Header, Invalid, Key, Object, Resource};
use crate::resource::{bgp_configuration, bgp_filter, bgp_peer, cluster_information};
use crate::resource::{ip_pool, node, workload_endpoint};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

/// What a file says: resources with their lines, and the faults of single ones.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) resources: Vec<(u64, Key, Resource)>,
    pub(super) faults: Vec<(Option<Key>, Fault)>,
}

/// One resource's text or value, and where it begins.
enum Source<'a> {
    Text { text: &'a str, before: u64 },
    Item { value: &'a serde_json::Value, line: u64 },
}

/// A document that holds resources.
#[derive(Deserialize)]
pub(super) struct List {
    pub(super) items: Option<Vec<Spanned<serde_json::Value>>>,
}

/// Levels of a resource in which a field is looked for.
const DEPTH_MAX: usize = 16;
const SYNTAX_MEND: &str = "the file's last good content stays in force until it parses";

/// Reads a file's text; an error is one of syntax, and nothing of the text counts then.
pub(super) fn read(file: &str, text: &str) -> Result<Content, Fault> {
    let mut content = Content::default();
    for (before, document) in documents(text) {
        if blank(document) {
            continue;
        }
        let fault = |error| syntax_fault(file, before, &error);
        if !text::is_list(document).map_err(fault)? {
            content.take(file, Source::Text { text: document, before });
            continue;
        }
        let list: List = parse(document).map_err(fault)?;
        for item in list.items.unwrap_or_default() {
            let line = before + item.referenced.line();
            content.take(file, Source::Item { value: &item.value, line });
        }
    }
    Ok(content)
}

impl Content {
    fn take(&mut self, file: &str, source: Source) {
        let first = source.first_line();
        let fault = |line, what, mend: &str| Fault {
            file: file.to_owned(),
            line,
            what,
            mend: mend.to_owned(),
        };
        let key = match source.read::<Header>() {
            Ok(header) if header.kind.is_empty() => {
                let what = "no kind".to_owned();
                return self.faults.push((None, fault(first, what, "add kind: and apiVersion:")));
            }
            Ok(header) => header.key(),
            Err((line, what)) => {
                return self.faults.push((None, fault(line, what, "a resource of Calico's API")));
            }
        };
        match typed(&key.kind, &source) {
            Ok(resource) => self.resources.push((first, key, resource)),
            Err(Failure::Shape(line, what)) => {
                let fault = fault(line, format!("{key}: {what}"), "see Calico's reference");
                self.faults.push((Some(key), fault));
            }
            Err(Failure::Value(invalid)) => {
                let what = format!("{key}: {}: {}", invalid.field, invalid.what);
                let fault = fault(first, what, invalid.mend);
                self.faults.push((Some(key), fault));
            }
        }
    }
}

enum Failure {
    Shape(u64, String),
    Value(Invalid),
}

fn typed(kind: &str, source: &Source) -> Result<Resource, Failure> {
    Ok(match kind {
        "Node" => Resource::Node(checked::<Object<Option<node::Spec>>, Node>(source)?),
        "IPPool" => Resource::IpPool(checked::<Object<ip_pool::Spec>, IpPool>(source)?),
        "BlockAffinity" => {
            Resource::BlockAffinity(checked::<Object<AffinitySpec>, BlockAffinity>(source)?)
        }
        "IPAMBlock" => Resource::IpamBlock(checked::<Object<BlockSpec>, IpamBlock>(source)?),
        "WorkloadEndpoint" => {
            let endpoint = checked::<Object<workload_endpoint::Spec>, WorkloadEndpoint>(source)?;
            Resource::WorkloadEndpoint(Box::new(endpoint))
        }
        "BGPConfiguration" => {
            let own = checked::<Object<Option<bgp_configuration::Spec>>, BgpConfiguration>(source)?;
            Resource::BgpConfiguration(Box::new(own))
        }
        "BGPPeer" => {
            Resource::BgpPeer(Box::new(checked::<Object<bgp_peer::Spec>, BgpPeer>(source)?))
        }
        "BGPFilter" => {
            Resource::BgpFilter(Box::new(checked::<Object<bgp_filter::Spec>, BgpFilter>(source)?))
        }
        "Service" => Resource::Service(Box::new(checked::<ServiceDocument, Service>(source)?)),
        "EndpointSlice" => {
            Resource::EndpointSlice(Box::new(checked::<SliceDocument, EndpointSlice>(source)?))
        }
        "Secret" => Resource::Secret(checked::<secret::Document, Secret>(source)?),
        "HostEndpoint" => Resource::HostEndpoint(Box::new(checked::<
            Object<host_endpoint::Spec>,
            HostEndpoint,
        >(source)?)),
        "ClusterInformation" => {
            checked::<Object<Option<cluster_information::Spec>>, Resource>(source)?
        }
        kind => part(kind, source)?.map_or(Resource::Other, Resource::Policy),
    })
}

/// A resource of policy; `None` for a kind that has no meaning here.
fn part(kind: &str, source: &Source) -> Result<Option<Part>, Failure> {
    Ok(Some(match kind {
        "Namespace" | "ServiceAccount" => checked::<Header, Part>(source)?,
        "Profile" => checked::<Object<Option<ProfileSpec>>, Part>(source)?,
        "Tier" => checked::<Object<Option<TierSpec>>, Part>(source)?,
        "NetworkSet" | "GlobalNetworkSet" => checked::<SetDocument, Part>(source)?,
        "KubernetesNetworkPolicy" | "StagedKubernetesNetworkPolicy" => {
            checked::<KubernetesDocument, Part>(source)?
        }
        "KubernetesClusterNetworkPolicy" => checked::<ClusterDocument, Part>(source)?,
        "NetworkPolicy"
        | "GlobalNetworkPolicy"
        | "StagedNetworkPolicy"
        | "StagedGlobalNetworkPolicy" => checked::<PolicyDocument, Part>(source)?,
        _ => return Ok(None),
    }))
}

impl Header {
    /// What makes the resource one.
    fn key(self) -> Key {
        let Header { api_version, kind, metadata, spec } = self;
        let kind = policy::kind_of(&api_version, kind);
        let tier = spec.and_then(|spec| spec.tier);
        let name = policy::own_name(&kind, &metadata, tier.as_ref().and_then(|tier| tier.as_str()));
        Key { kind, namespace: metadata.namespace.unwrap_or_default(), name }
    }
}

fn checked<O, R>(source: &Source) -> Result<R, Failure>
where
    O: DeserializeOwned,
    R: TryFrom<O, Error = Invalid>,
{
    let object = source.read::<O>().map_err(|(line, what)| Failure::Shape(line, what))?;
    R::try_from(object).map_err(Failure::Value)
}

impl Source<'_> {
    fn first_line(&self) -> u64 {
        match self {
            Source::Text { text, before } => {
                let blank = text.lines().take_while(|line| blank(line)).count();
                before + 1 + blank as u64
            }
            Source::Item { line, .. } => *line,
        }
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, (u64, String)> {
        match self {
            Source::Text { text, before } => parse(text).map_err(|error| {
                let fault = crate::yaml::Fault::of(&error);
                (before + fault.line, fault.what)
            }),
            Source::Item { value, line } => {
                T::deserialize(*value).map_err(|error| (*line, error.to_string()))
            }
        }
    }
}

/// The fault of a document that does not parse, with `before` lines before it.
pub(super) fn syntax_fault(file: &str, before: u64, error: &serde_saphyr::Error) -> Fault {
    let fault = crate::yaml::Fault::of(error);
    Fault {
        file: file.to_owned(),
        line: before + fault.line,
        what: fault.what,
        mend: SYNTAX_MEND.to_owned(),
    }
}

/// The typed form of a document; an error names the field and what would be right.
pub(crate) fn resource(
    kind: &str,
    value: &serde_json::Value,
) -> Result<Resource, (String, String)> {
    typed(kind, &Source::Item { value, line: 0 }).map_err(|failure| match failure {
        Failure::Shape(_, what) => {
            let field = culprit(kind, value, &what);
            let what = if field.is_empty() { what } else { format!("{field}: {what}") };
            (what, "see Calico's reference".to_owned())
        }
        Failure::Value(invalid) => {
            (format!("{}: {}", invalid.field, invalid.what), invalid.mend.to_owned())
        }
    })
}

/// The field that an error of shape is about: the innermost one without which it is not made.
fn culprit(kind: &str, value: &serde_json::Value, what: &str) -> String {
    let is_same = |value: &serde_json::Value| {
        let outcome = typed(kind, &Source::Item { value, line: 0 });
        matches!(outcome, Err(Failure::Shape(_, same)) if same == what)
    };
    let (mut field, mut pointer) = (String::new(), String::new());
    for _ in 0..DEPTH_MAX {
        let steps: Vec<(String, String)> = match value.pointer(&pointer) {
            Some(serde_json::Value::Object(object)) => object
                .keys()
                .map(|name| (name.replace('~', "~0").replace('/', "~1"), format!(".{name}")))
                .collect(),
            Some(serde_json::Value::Array(items)) => {
                (0..items.len()).map(|at| (at.to_string(), format!("[{at}]"))).collect()
            }
            _ => break,
        };
        let without = |step: &str| {
            let mut rest = value.clone();
            match rest.pointer_mut(&pointer) {
                Some(serde_json::Value::Object(object)) => {
                    drop(object.remove(&step.replace("~1", "/").replace("~0", "~")));
                }
                Some(serde_json::Value::Array(items)) => {
                    drop(step.parse().map(|at: usize| items.remove(at)));
                }
                _ => {}
            }
            rest
        };
        let Some((step, shown)) = steps.iter().find(|(step, _)| !is_same(&without(step))) else {
            break;
        };
        pointer = format!("{pointer}/{step}");
        field.push_str(shown);
    }
    field.trim_start_matches('.').to_owned()
}

/// Limits of one document, instead of the parser's smaller ones: a list may hold a cluster.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 40_000_000,
            max_nodes: 20_000_000,
        },
    };
    serde_saphyr::from_str_with_options(text, options)
}

/// True when a document has `items`.
pub(super) fn has_items(document: &str) -> bool {
    #[derive(Deserialize)]
    struct Items {
        items: Option<serde::de::IgnoredAny>,
    }
    parse::<Items>(document).is_ok_and(|list| list.items.is_some())
}

/// Nothing but empty lines and comments.
pub(super) fn blank(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

/// The documents of a text, each with the number of lines before it.
pub(super) fn documents(text: &str) -> Vec<(u64, &str)> {
    let (mut found, mut start, mut before, mut line_number, mut at) = (Vec::new(), 0, 0, 0, 0);
    for line in text.split_inclusive('\n') {
        line_number += 1;
        let marker = line.trim_end();
        if marker == "---" || marker.starts_with("--- ") {
            found.push((before, &text[start..at]));
            (start, before) = (at + line.len(), line_number);
        }
        at += line.len();
    }
    found.push((before, &text[start..]));
    found
}
