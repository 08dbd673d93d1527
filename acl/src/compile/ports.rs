//! The dimensions of ports and protocols: which lanes each value allows, run by run.

use super::addresses::TooMany;
use super::lane::{Lane, Ranges, Value};
use super::vectors::Vectors;
use crate::classifier::{PortMap, Ports, Shape};
use crate::packet::protocol;
use ahash::AHashMap;

/// The dimensions of lanes that do not depend on addresses.
pub(super) fn ports(shape: Shape, lanes: &[&Lane]) -> Result<Ports, TooMany> {
    let mut vectors = Vectors::new(shape);
    let (protocols, maps) = services(shape, lanes, &mut vectors)?;
    let source = match lanes.iter().any(|lane| lane.source_ports.is_some()) {
        true => {
            let demands = lanes.iter().map(|lane| Some(lane.source_ports.as_ref()));
            Some(map(shape, demands, true, &mut vectors)?)
        }
        false => None,
    };
    Ok(Ports::new(&protocols, &maps, source.as_ref(), vectors.into_words()))
}

/// The map of each protocol, and the maps.
fn services(
    shape: Shape,
    lanes: &[&Lane],
    vectors: &mut Vectors,
) -> Result<([u8; 256], Vec<PortMap>), TooMany> {
    let mut maps: Vec<PortMap> = Vec::new();
    let mut known: AHashMap<(Option<u8>, Kind), u8> = AHashMap::new();
    let is_named = |number: u8| {
        lanes.iter().any(|lane| [lane.protocol, lane.not_protocol].contains(&Some(number)))
    };
    let named: Vec<bool> = (0..=255).map(is_named).collect();
    let mut protocols = [0; 256];
    for number in 0..=255u8 {
        let kind = Kind::of(number);
        let name = named[usize::from(number)].then_some(number);
        let place = match known.get(&(name, kind)) {
            Some(place) => *place,
            None => {
                let demands = lanes.iter().map(|lane| demand(lane, number, kind));
                maps.push(map(shape, demands, kind != Kind::Plain, vectors)?);
                let place = (maps.len() - 1) as u8;
                known.insert((name, kind), place);
                place
            }
        };
        protocols[usize::from(number)] = place;
    }
    Ok((protocols, maps))
}

/// What follows a protocol's header fields in policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Ports,
    Icmp,
    Plain,
}

impl Kind {
    fn of(number: u8) -> Kind {
        match (protocol::has_ports(number), protocol::is_icmp(number)) {
            (true, _) => Kind::Ports,
            (_, true) => Kind::Icmp,
            _ => Kind::Plain,
        }
    }
}

/// What a lane demands of a protocol's value: `None` when it never matches the protocol.
fn demand(lane: &Lane, number: u8, kind: Kind) -> Option<Option<&Ranges>> {
    let fits = lane.protocol.is_none_or(|wanted| wanted == number)
        && lane.not_protocol.is_none_or(|unwanted| unwanted != number);
    match (&lane.value, kind) {
        _ if !fits => None,
        (Value::Any, _) => Some(None),
        (Value::Ports(ranges), Kind::Ports) | (Value::Icmp(ranges), Kind::Icmp) => {
            Some(Some(ranges))
        }
        _ => None,
    }
}

/// A map from what each lane demands: nothing, ranges, or that it never matches.
fn map<'a>(
    shape: Shape,
    demands: impl Iterator<Item = Option<Option<&'a Ranges>>>,
    has_values: bool,
    vectors: &mut Vectors,
) -> Result<PortMap, TooMany> {
    let mut vector = shape.empty();
    let mut events: Vec<(u32, u32, bool)> = Vec::new();
    for (lane, demand) in demands.enumerate() {
        match demand {
            None => {}
            Some(None) => shape.set(&mut vector, lane as u32),
            Some(Some(ranges)) => {
                for (first, last) in ranges {
                    events.push((u32::from(*first), lane as u32, true));
                    events.push((u32::from(*last) + 1, lane as u32, false));
                }
            }
        }
    }
    let unknown = number(vectors, &vector)?;
    let (mut starts, mut numbers) = (vec![0], vec![unknown]);
    // Ends come before beginnings of the same lane, which then stays.
    events.sort_unstable_by_key(|(value, lane, begins)| (*value, *lane, *begins));
    let mut events = events.into_iter().filter(|_| has_values).peekable();
    while let Some(value) = events.peek().map(|event| event.0).filter(|value| *value < 1 << 16) {
        while let Some((_, lane, begins)) = events.next_if(|event| event.0 == value) {
            match begins {
                true => shape.set(&mut vector, lane),
                false => shape.clear(&mut vector, lane),
            }
        }
        let number = number(vectors, &vector)?;
        if value == 0 {
            numbers[0] = number;
        } else if numbers.last() != Some(&number) {
            starts.push(value as u16);
            numbers.push(number);
        }
    }
    Ok(PortMap { starts, vectors: numbers, unknown })
}

fn number(vectors: &mut Vectors, vector: &[u64]) -> Result<u16, TooMany> {
    vectors.number(vector).ok_or(TooMany(vectors.len()))
}
