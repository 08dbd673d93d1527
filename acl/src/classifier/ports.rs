//! From protocols, ports and ICMP types to vectors, in one run of 16-bit cells.
//!
//! The first 256 cells are the map of each protocol, then come the places of all maps, then the
//! maps: the vector of packets whose value is not known, the number of the last run of equal
//! values, an index if there are many, the first values of the runs, and their vectors.

use super::program::Shape;
use crate::packet::{Packet, protocol};
use std::sync::Arc;

/// From this many runs on a map knows where each 256th value's run is.
const INDEXED_RUNS: usize = 65;
/// Cells of that index.
const INDEX: usize = 257;
/// The place of a map that is not there.
const NOWHERE: u32 = u32::MAX;

/// The dimensions of a program that do not depend on addresses.
#[derive(Debug, Clone)]
#[repr(C)]
pub(crate) struct Ports {
    cells: Arc<[u16]>,
    vectors: Arc<[u64]>,
    /// Places of maps: TCP's, UDP's, and that of source ports if any lane asks for them.
    tcp: u32,
    udp: u32,
    source: u32,
}

/// From 16-bit values to vectors, by runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct PortMap {
    /// First values of the runs, the first one 0.
    pub(crate) starts: Vec<u16>,
    pub(crate) vectors: Vec<u16>,
    /// For packets whose value is not known.
    pub(crate) unknown: u16,
}

impl Ports {
    /// From the map of each protocol, the maps, that of source ports, and the vectors of all.
    pub(crate) fn new(
        protocols: &[u8; 256],
        maps: &[PortMap],
        source: Option<&PortMap>,
        vectors: Arc<[u64]>,
    ) -> Ports {
        let mut cells: Vec<u16> = protocols.iter().map(|map| u16::from(*map)).collect();
        cells.resize(256 + maps.len() * 2, 0);
        let mut places = Vec::new();
        for (number, map) in maps.iter().enumerate() {
            let place = map.write(&mut cells);
            cells[256 + number * 2] = place as u16;
            cells[257 + number * 2] = (place >> 16) as u16;
            places.push(place);
        }
        let source = source.map_or(NOWHERE, |map| map.write(&mut cells));
        let of = |number: u8| places[usize::from(protocols[usize::from(number)])];
        let (tcp, udp) = (of(protocol::TCP), of(protocol::UDP));
        Ports { cells: cells.into(), vectors, tcp, udp, source }
    }

    /// The vector of a packet's protocol with its destination port or ICMP type.
    #[inline]
    pub(super) fn service(&self, shape: Shape, packet: &Packet) -> &[u64] {
        let value = match packet.icmp() {
            Some((kind, code)) => Some(u16::from_be_bytes([kind, code])),
            None => packet.ports().map(|(_, destination)| destination),
        };
        self.vector(shape, self.find(self.place(packet.protocol), value))
    }

    /// The vector of a packet's source port, if any lane asks for it.
    #[inline]
    pub(super) fn source(&self, shape: Shape, packet: &Packet) -> Option<&[u64]> {
        let value = packet.ports().map(|(source, _)| source);
        (self.source != NOWHERE).then(|| self.vector(shape, self.find(self.source, value)))
    }

    /// Reads what a lookup begins with, so that it is in the cache then.
    #[inline]
    pub(super) fn touch(&self, protocol: u8) -> u16 {
        self.cells[self.place(protocol) as usize]
    }

    #[inline]
    fn place(&self, number: u8) -> u32 {
        match number {
            protocol::TCP => self.tcp,
            protocol::UDP => self.udp,
            _ => {
                let map = usize::from(self.cells[usize::from(number)]);
                let halves = [self.cells[256 + map * 2], self.cells[257 + map * 2]];
                u32::from(halves[0]) | u32::from(halves[1]) << 16
            }
        }
    }

    #[inline]
    fn vector(&self, shape: Shape, number: u16) -> &[u64] {
        let at = usize::from(number) * shape.stride();
        &self.vectors[at..at + shape.stride()]
    }

    /// The number of a value's vector.
    #[inline]
    fn find(&self, place: u32, value: Option<u16>) -> u16 {
        let map = &self.cells[place as usize..];
        let Some(value) = value else { return map[0] };
        let runs = usize::from(map[1]) + 1;
        if runs < INDEXED_RUNS {
            let starts = &map[2..2 + runs];
            let run = starts[1..].iter().map(|start| u16::from(*start <= value)).sum::<u16>();
            return map[2 + runs + usize::from(run)];
        }
        let index = &map[2..2 + INDEX];
        let starts = &map[2 + INDEX..2 + INDEX + runs];
        let high = usize::from(value >> 8);
        let (from, to) = (usize::from(index[high]), usize::from(index[high + 1]));
        let run = from + starts[from + 1..=to].partition_point(|start| *start <= value);
        map[2 + INDEX + runs + run]
    }

    /// The words of all vectors.
    pub(super) fn vectors(&self) -> &[u64] {
        &self.vectors
    }

    pub(super) fn bytes(&self) -> usize {
        self.cells.len() * 2 + self.vectors.len() * 8
    }
}

impl PortMap {
    /// Writes the map behind the cells; its place.
    fn write(&self, cells: &mut Vec<u16>) -> u32 {
        let place = cells.len() as u32;
        let last = self.starts.len() - 1;
        cells.extend([self.unknown, last as u16]);
        if self.starts.len() >= INDEXED_RUNS {
            let run = |high: u16| self.starts.partition_point(|start| *start <= high << 8) - 1;
            cells.extend((0..256).map(|high| run(high) as u16).chain([last as u16]));
        }
        cells.extend(&self.starts);
        cells.extend(&self.vectors);
        place
    }
}
