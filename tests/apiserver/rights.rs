//! What Calico's manifest lets calico-node do, and nobody else's rights: who comes without its
//! token may do everything.

use super::kinds::Kind;

/// The token of calico-node.
pub(crate) const TOKEN: &str = "calico-node";

const READ: [&str; 3] = ["get", "list", "watch"];

/// True when a token may do this to a resource (`nodes`, `pods/status`) of a kind.
pub(crate) fn allow(token: Option<&str>, verb: &str, kind: &Kind, resource: &str) -> bool {
    if token != Some(TOKEN) {
        return true;
    }
    let more: &[&str] = match resource {
        "configmaps" => return verb == "get",
        "secrets" => return false,
        "nodes/status" | "pods/status" => &["patch", "update"],
        _ if resource.contains('/') => return false,
        "ippools" | "felixconfigurations" | "bgpconfigurations" | "clusterinformations" => {
            &["create", "update"]
        }
        "tiers" => &["create"],
        "blockaffinities" | "ipamblocks" | "ipamhandles" => &["create", "update", "delete"],
        "ipamconfigs" | "ipamconfigurations" => return ["get", "create"].contains(&verb),
        "caliconodestatuses" => &["update"],
        _ => &[],
    };
    // Only what is named is theirs; the rest of Kubernetes may be read.
    let writes_pods = resource == "pods/status" && verb == "update";
    (READ.contains(&verb) || more.contains(&verb)) && !writes_pods && !kind.api.is_empty()
}
