//! Every packet byte after the NIC: ports, workers, the pipeline and its tables.
//!
//! ```text
//!   port.rx -> parse -> FIB -> target -> TTL, MTU -> rewrite -> egress queue -> port.tx
//!                |               |           |
//!              drop        host, hold,   ICMP error, fragments
//!            (counted)      refusal
//! ```
//!
//! Established flows that need nothing but a rewrite are given to the port's program of XDP or tc
//! ([`offload`]), which carries them until something changes.
//!
//! [`worker`] runs that loop on a pinned thread, [`pipeline`] is the way itself, one screen of
//! calls. The control side holds a [`dataplane::Dataplane`], gives it ports and snapshots of
//! [`tables::Tables`], and writes the [`fib`] in place. No lock, allocation or log line per packet.

pub mod capture;
pub mod coalesce;
pub mod counters;
pub mod dataplane;
pub mod drop_reason;
pub mod ecmp;
pub mod egress;
pub mod epoch;
pub mod fib;
pub mod flow;
pub mod flow_hash;
pub mod flow_log;
pub mod forward;
pub mod fragment;
pub mod hand_over;
pub mod icmp;
pub mod limit;
pub mod nat;
pub mod neighbor;
pub mod offload;
pub mod packet;
pub mod parse;
pub mod pipeline;
pub mod pktgen;
pub mod policy;
pub mod port;
pub mod proxy_neighbor;
pub mod replay;
pub mod reset;
pub mod segment;
pub mod service;
pub mod sources;
pub mod steering;
pub mod sys;
pub mod tables;
pub mod tunnel;
mod worker;
