//! BFD with real daemons: it comes up over one hop (RFC 5881) and as for several (RFC 5883), and
//! a neighbor that is halted is noticed long before its hold time runs out.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay::lab::process::{pause, wait_for};

use crate::cases::{THEM, US, meet, pair};
use crate::network::{Daemon, Network};
use crate::speaker::{FAMILIES, Hops, Options};

/// Longest time from the halt to the end of the session and of its routes. BFD is set to 300 ms.
const GONE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn one_hop(us: Daemon, them: Daemon) -> Result<()> {
    watch([us, them], Hops::One)
}

pub(crate) fn several_hops(us: Daemon, them: Daemon) -> Result<()> {
    watch([us, them], Hops::Several)
}

fn watch(daemons: [Daemon; 2], hops: Hops) -> Result<()> {
    let options = Options { bfd: Some(hops), hold_s: 90, ..Options::default() };
    let mut network = meet(daemons, pair(65001, 65002, &options))?;
    wait_watched(&mut network)?;
    // Both watch each other: nothing goes down by itself.
    pause(GONE)?;
    let ours = network.members[US].speaker.neighbors.clone();
    for neighbor in &ours {
        ensure!(network.members[US].peer.established(neighbor.address)?, "a session has ended");
    }
    network.members[THEM].halt(true)?;
    let halted = Instant::now();
    for neighbor in &ours {
        network.members[US].wait_session(neighbor.address, false, LIMIT)?;
    }
    for family in FAMILIES {
        network.members[US].wait_routes(family, &Default::default())?;
    }
    let took = halted.elapsed();
    ensure!(took < GONE, "it took {took:?}");
    network.members[THEM].halt(false)?;
    network.wait_established()?;
    wait_watched(&mut network)?;
    network.wait_exchanged(US)
}

/// Waits until they say that all their BFD sessions are up, which needs both sides.
fn wait_watched(network: &mut Network) -> Result<()> {
    let them = &mut network.members[THEM];
    for neighbor in &them.speaker.neighbors {
        let what = format!("BFD with {}", neighbor.address);
        let up = wait_for(&what, LIMIT, || {
            pause(Duration::from_millis(50))?;
            Ok(them.peer.has_bfd_up(neighbor.address)?.then_some(()))
        });
        up.with_context(|| them.peer.log_tail())?;
    }
    Ok(())
}
