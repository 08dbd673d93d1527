//! Builds networks out of namespaces, runs daemons in them, measures, and takes all away again.
//!
//! ```text
//!               outside --- tor ---+------------+
//!                                  |            |
//!   pods (veth, TAP) ---------- edge1 -------- edge2 ---------- pods (veth, TAP)
//! ```
//!
//! Layers, lowest first: [`process`] (children that die with us), [`scope`] (what one lab owns, and
//! the leftovers of killed ones), [`namespace`] (commands, links, addresses), [`node`] with
//! [`store`], [`pod`] and [`daemon`] (a router, margay or the kernel), [`tor`] with [`bird`],
//! [`network`] (the picture above), [`measure`] and [`conversation`] (ping, iperf3, traceroute,
//! counters, TCP), [`greeter`] (who answers whom), [`steps`] with [`learnt`] and [`translated`],
//! and [`report`] (what `margay lab` does and prints).
//! The machine's own network is never touched: links are made inside namespaces, at both ends.

pub mod bgp;
pub mod bird;
pub mod conversation;
pub mod daemon;
pub mod greeter;
pub mod learnt;
pub mod measure;
pub mod namespace;
pub mod network;
pub mod node;
pub mod pod;
pub mod process;
pub mod report;
pub mod requirements;
pub mod scope;
pub mod steps;
pub mod store;
pub mod tor;
pub mod translated;
