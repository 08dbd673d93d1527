//! A node's addresses inside of tunnels.

use super::*;

fn vxlan(name: &str, cidr: &str, more: Value) -> Document {
    let mut own = json!({"vxlanMode": "Always"});
    own.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    pool(name, cidr, own)
}

async fn address(store: &Memory) -> Option<String> {
    let node = store.get(&key("Node", "a")).await.unwrap();
    node.spec()["ipv4VXLANTunnelAddr"].as_str().map(str::to_owned)
}

async fn set(store: &Memory, kind: &str, name: &str, field: &str, value: Value) {
    let found = store.get(&key(kind, name)).await.unwrap();
    let mut spec = found.spec();
    spec[field] = value;
    store.update(found.with_spec(spec)).await.unwrap();
}

#[tokio::test]
async fn an_address_is_taken_kept_and_given_back() {
    let store = cluster(vec![node("a", "1"), vxlan("p", "10.0.0.0/28", json!({}))]).await;
    let ipam = ipam(&store);
    assert_eq!(ipam.ensure_tunnel_addresses("a").await.unwrap().len(), 1);
    let first = address(&store).await.unwrap();
    let holder = ipam.find(first.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(holder.handle(), Some("vxlan-tunnel-addr-a"));
    let expected = json!({"node": "a", "type": "vxlanTunnelAddress"});
    assert_eq!(serde_json::to_value(holder.secondary).unwrap(), expected);
    assert_eq!(ipam.ensure_tunnel_addresses("a").await.unwrap(), Vec::<String>::new());

    // Collected as garbage: it is claimed again, unless somebody has it by now.
    ipam.release_handle("vxlan-tunnel-addr-a").await.unwrap();
    ipam.ensure_tunnel_addresses("a").await.unwrap();
    assert_eq!(address(&store).await.as_ref(), Some(&first));
    ipam.release_handle("vxlan-tunnel-addr-a").await.unwrap();
    ipam.assign_this(&request("a", "pod", 1), first.parse().unwrap()).await.unwrap();
    ipam.ensure_tunnel_addresses("a").await.unwrap();
    let second = address(&store).await.unwrap();
    assert_ne!(second, first);

    set(&store, "IPPool", "p", "vxlanMode", json!("Never")).await;
    ipam.ensure_tunnel_addresses("a").await.unwrap();
    assert_eq!(address(&store).await, None);
    assert_eq!(ipam.find(second.parse().unwrap()).await.unwrap(), None);
    assert_eq!(store.all("IPAMHandle").len(), 1, "the pod's is left");
}

#[tokio::test]
async fn an_address_moves_with_its_pool_and_an_empty_bgp_is_not_written() {
    let ipip = |name: &str, cidr: &str| pool(name, cidr, json!({"ipipMode": "CrossSubnet"}));
    let store = cluster(vec![node("a", "1"), ipip("p", "10.0.0.0/28")]).await;
    let ipam = ipam(&store);
    ipam.ensure_tunnel_addresses("a").await.unwrap();
    let now = store.get(&key("Node", "a")).await.unwrap().spec();
    let now = now["bgp"]["ipv4IPIPTunnelAddr"].as_str().unwrap().to_owned();
    assert!(now.starts_with("10.0.0."), "{now}");
    store.create(ipip("q", "10.1.0.0/28")).await.unwrap();
    set(&store, "IPPool", "p", "disabled", json!(true)).await;
    ipam.ensure_tunnel_addresses("a").await.unwrap();
    let moved = store.get(&key("Node", "a")).await.unwrap().spec();
    assert!(moved["bgp"]["ipv4IPIPTunnelAddr"].as_str().unwrap().starts_with("10.1.0."));
    set(&store, "IPPool", "q", "allowedUses", json!(["Workload"])).await;
    ipam.ensure_tunnel_addresses("a").await.unwrap();
    let none = store.get(&key("Node", "a")).await.unwrap().spec();
    assert_eq!(none, json!({}), "an empty bgp is invalid");
    let nobody = ipam.ensure_tunnel_addresses("nobody").await;
    assert_eq!(nobody, Err(IpamError::NoNode("nobody".into())));
}
