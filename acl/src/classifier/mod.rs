//! Verdicts at constant cost: an immutable snapshot of compiled policy.
//!
//! An address becomes a class, the list of sets that it is in, by one lookup; a program turns
//! classes, ports and protocol into bit vectors and takes the first bit that all have. Nothing
//! here grows with the members of a set. [`crate::compile`] makes snapshots; whoever holds one
//! may use it as long as he likes, and from as many threads.

mod burst;
mod open;
mod ports;
mod program;
mod table;
mod trie;

pub use burst::{BURST, Question};
pub(crate) use ports::{PortMap, Ports};
pub(crate) use program::{Action, CLASS_PAGE, Program, Shape, Side, Step};
pub use program::{LANES_MAX, VECTORS_MAX};
pub(crate) use table::AddressTable;
pub(crate) use trie::{Segment, Trie};

use crate::origin::Origin;
use crate::packet::Packet;
use crate::{Direction, Stage, Verdict};
use std::net::IpAddr;
use std::sync::Arc;

/// An endpoint of this node, as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub(crate) u32);

/// The classes of a packet's addresses: valid with the snapshot that they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classes([u32; 2]);

/// A verdict, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// What happens.
    pub verdict: Verdict,
    /// True when rules with action Log matched on the way.
    pub logged: bool,
    pub(crate) program: u32,
    pub(crate) origin: u32,
}

impl Outcome {
    const UNKNOWN_ENDPOINT: Outcome =
        Outcome { verdict: Verdict::Deny, logged: false, program: u32::MAX, origin: u32::MAX };
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Different programs.
    pub programs: usize,
    /// Lanes of all programs.
    pub lanes: usize,
    /// Address vectors of all programs.
    pub vectors: usize,
    /// Bytes of programs.
    pub program_bytes: usize,
    /// Bytes of the tables of addresses.
    pub table_bytes: usize,
}

/// Programs of an endpoint by stage and direction.
pub(crate) type Programs = [[u32; 2]; 4];

/// An immutable snapshot.
// Not `Clone`: the compiler must know whether somebody still has it.
#[derive(Debug)]
pub struct Classifier {
    pub(crate) tables: [AddressTable; 2],
    pub(crate) programs: Vec<Option<Arc<Program>>>,
    pub(crate) endpoints: Vec<Option<Programs>>,
}

/// The 128 bits that stand for an address; the family is told beside.
pub(crate) fn key(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Classifier {
    /// The classes of a packet's addresses, for several decisions on it.
    #[inline]
    pub fn classes(&self, packet: &Packet) -> Classes {
        Classes(
            [packet.source, packet.destination]
                .map(|address| self.tables[usize::from(address.is_ipv6())].find(key(address))),
        )
    }

    /// Decides a packet's fate at an endpoint.
    #[inline]
    pub fn classify(
        &self,
        endpoint: Handle,
        stage: Stage,
        direction: Direction,
        packet: &Packet,
    ) -> Outcome {
        self.decide((endpoint, stage, direction), packet, self.classes(packet))
    }

    /// The same for a packet whose classes are known.
    #[inline]
    pub fn decide(
        &self,
        place: (Handle, Stage, Direction),
        packet: &Packet,
        classes: Classes,
    ) -> Outcome {
        self.decide_and_log(place, packet, classes, |_| ())
    }

    /// The same, telling the rules that only make a note.
    pub fn decide_and_log(
        &self,
        place: (Handle, Stage, Direction),
        packet: &Packet,
        classes: Classes,
        log: impl FnMut(&Origin),
    ) -> Outcome {
        let number = self.program_number(place);
        match self.program(number) {
            Some(program) => {
                let outcome = program.decide(program.vectors(packet, classes.0), log);
                Outcome { program: number, ..outcome }
            }
            None => Outcome::UNKNOWN_ENDPOINT,
        }
    }

    /// The number of an endpoint's program, or one that no program has.
    #[inline]
    fn program_number(&self, (endpoint, stage, direction): (Handle, Stage, Direction)) -> u32 {
        let programs = self.endpoints.get(endpoint.0 as usize).and_then(Option::as_ref);
        programs.map_or(u32::MAX, |programs| programs[stage as usize][direction as usize])
    }

    #[inline]
    fn program(&self, number: u32) -> Option<&Program> {
        self.programs.get(number as usize)?.as_deref()
    }

    /// What decided; the outcome is one of this snapshot.
    pub fn origin(&self, outcome: &Outcome) -> &Origin {
        let program = self.programs.get(outcome.program as usize).and_then(Option::as_ref);
        program
            .and_then(|program| program.origins.get(outcome.origin as usize))
            .unwrap_or(&Origin::UnknownEndpoint)
    }

    /// Counts and bytes.
    pub fn size(&self) -> Size {
        let mut size = Size::default();
        for program in self.programs.iter().flatten() {
            size.programs += 1;
            size.lanes += program.lanes();
            size.vectors += program.vector_count();
            size.program_bytes += program.bytes();
        }
        size.table_bytes = self.tables.iter().map(AddressTable::bytes).sum();
        size
    }
}
