//! Tunnels in the control loop: the plan, this node's addresses inside, and the MTU of pods.

use super::Router;
use crate::config::MTU_FILE;
use crate::devices::TAP_MTU;
use crate::kernel::addresses;
use crate::resolve::ports::PortKind;
use crate::resolve::tunnels::TunnelPlan;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Smallest and largest MTU that a TAP is given, in bytes.
const TAP_MTU_MIN: u32 = 1280;
const TAP_MTU_MAX: u32 = 65_521;

impl Router {
    /// Plans tunnels by the state as it is.
    pub(super) fn plan_tunnels(&mut self) {
        let (node, mtu) = (&self.config.node_name, self.uplink_mtu());
        self.tunnels = TunnelPlan::of(&self.model, node, &self.config.tunnels, mtu);
        let left_out = self.tunnels.left_out;
        let too_many = (left_out > 0)
            .then(|| format!("tunnels: {left_out} nodes are not reached: there are too many"));
        let local: BTreeSet<IpAddr> = self.mirror.addresses().map(|(_, net)| net.addr()).collect();
        let ends = self.tunnels.ends();
        let strange = ends.iter().filter(|end| !local.contains(end));
        let strange = strange.map(|end| {
            format!(
                "tunnels: {end}, this node's address in the datastore, is not one of the host's; \
                 other nodes' tunnels do not end here"
            )
        });
        let faults: Vec<String> = too_many.into_iter().chain(strange).collect();
        if faults != self.tunnel_faults {
            faults.iter().for_each(|fault| tracing::warn!("{fault}"));
            self.tunnel_faults = faults;
        }
    }

    /// The kernel gets this node's addresses inside, and Calico's CNI plugin the MTU of pods.
    pub(super) async fn follow_tunnels(&mut self) {
        let host = self.mirror.link_by_name(&self.config.host_device).map(|link| link.index);
        if let Some(host) = host {
            let wanted = self.addresses_inside();
            let refused = addresses::reconcile(&self.handle, host, &wanted, &self.mirror).await;
            self.note(refused.iter().map(ToString::to_string));
        }
        let Some(file) = mtu_file(self.config.tunnels.mtu_file.as_deref()) else { return };
        let text = self.tunnels.pod_mtu(self.uplink_mtu()).to_string();
        if std::fs::read_to_string(&file).is_ok_and(|old| old.trim() == text) {
            return;
        }
        if let Err(error) = std::fs::write(&file, text) {
            self.note([format!("{}: {error}", file.display())]);
        }
    }

    /// The addresses that this node's resource has for the kinds of tunnel in use.
    fn addresses_inside(&self) -> BTreeSet<IpAddr> {
        let Some(me) = self.model.nodes.get(&self.config.node_name) else {
            return BTreeSet::new();
        };
        let end = &self.tunnels.end;
        let ipip = me.tunnels.ipip.filter(|_| end.ipip).map(IpAddr::V4);
        let vxlan = me.tunnels.vxlan.into_iter().zip(end.vxlan);
        let vxlan = vxlan.filter_map(|(address, end)| address.filter(|_| end.is_some()));
        // Others may have given the same address to another device, as Calico's own agent does.
        let host = self.mirror.link_by_name(&self.config.host_device).map(|link| link.index);
        let elsewhere: BTreeSet<IpAddr> = self
            .mirror
            .addresses()
            .filter(|(device, _)| Some(*device) != host)
            .map(|(_, net)| net.addr())
            .collect();
        ipip.into_iter().chain(vxlan).filter(|address| !elsewhere.contains(address)).collect()
    }

    /// The least MTU of the uplinks.
    fn uplink_mtu(&self) -> u16 {
        let uplinks = self.config.uplinks.iter();
        let mtus = uplinks.filter_map(|name| Some(self.mirror.link_by_name(name)?.mtu));
        mtus.min().map_or(TAP_MTU, |mtu| mtu.clamp(TAP_MTU_MIN, TAP_MTU_MAX) as u16)
    }

    /// The TAP to the host carries what every uplink carries, and one to a pod what tunnels leave
    /// of that.
    pub(super) fn tap_mtu(&self, kind: &PortKind) -> u16 {
        let uplinks = self.uplink_mtu();
        match kind {
            PortKind::Tap { .. } => self.tunnels.pod_mtu(uplinks).max(TAP_MTU_MIN as u16),
            _ => uplinks,
        }
    }
}

/// The file that is told the MTU: as configured, or Calico's where its folder is.
fn mtu_file(configured: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = configured {
        return Some(path.to_owned());
    }
    let file = Path::new(MTU_FILE);
    file.parent().filter(|folder| folder.is_dir()).map(|_| file.to_owned())
}
