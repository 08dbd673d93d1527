//! Hosts on the links of ports that have answered: each gets a route of its own, so that packets
//! to it need no resolution in the packet path.

use super::table::{Entry, Table};
use super::{Hop, Inputs, Origin, Target, host_prefix, is_never_forwarded};
use crate::kernel::NextHop;

pub(super) fn add_neighbors(inputs: Inputs, table: &mut Table) {
    for (device, address, state) in inputs.mirror.neighbors() {
        if state.mac().is_none() {
            continue;
        }
        let prefix = host_prefix(address);
        let Some(link) = inputs.mirror.link_by_index(device) else { continue };
        let Some(port) = inputs.attached.get(link.name.as_str()) else { continue };
        if is_never_forwarded(&prefix) {
            continue;
        }
        // Routes of single hosts are no longer prefixes for it to be found in, so the order in
        // which neighbours are looked at makes no difference.
        let on_link = table.lookup(address).is_some_and(
            |entry| matches!(&entry.route.target, Target::OnLink(name) if name == port),
        );
        if on_link {
            let hop = Hop::plain(port.clone(), address);
            let way = NextHop { device, gateway: None, weight: 1 };
            let entry = Entry::new(Origin::Neighbor, Target::Via(vec![hop]));
            table.force(prefix, entry.with_ways(&[way]));
        }
    }
}
