//! What Calico's manifest lets calico-node do, and nobody else's rights: who comes without its
//! token may do everything.

/// The token of calico-node.
pub(crate) const TOKEN: &str = "calico-node";
/// That of one to whom a Role gives the Secrets with BGP's passwords.
pub(crate) const WITH_SECRETS: &str = "calico-node-with-secrets";

const READ: [&str; 3] = ["get", "list", "watch"];

/// True when a token may do this to a resource, such as `nodes` or `pods/status`.
pub(crate) fn allow(token: Option<&str>, verb: &str, resource: &str) -> bool {
    if token != Some(TOKEN) && token != Some(WITH_SECRETS) {
        return true;
    }
    let more: &[&str] = match resource {
        "configmaps" => return verb == "get",
        "secrets" => return token == Some(WITH_SECRETS) && READ.contains(&verb),
        "nodes/status" => return ["patch", "update"].contains(&verb),
        "pods/status" => return verb == "patch",
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
    READ.contains(&verb) || more.contains(&verb)
}
