//! What a rule set is: sets, chains, and rules of matches with actions.

use margay_acl::model::Family;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Everything in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Sets that rules name.
    pub sets: Vec<Set>,
    /// Chains; those that rules jump to come before those rules.
    pub chains: Vec<Chain>,
}

/// A named set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub members: Members,
}

/// What sets hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Members {
    /// Ranges of addresses, both ends included, in order and apart from each other.
    V4(Vec<(Ipv4Addr, Ipv4Addr)>),
    /// The same for IPv6.
    V6(Vec<(Ipv6Addr, Ipv6Addr)>),
    /// Addresses with protocol and port.
    Sockets4(Vec<(Ipv4Addr, u8, u16)>),
    /// The same for IPv6.
    Sockets6(Vec<(Ipv6Addr, u8, u16)>),
    /// Names of devices.
    Devices(Vec<String>),
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where the kernel enters it; `None` for one that rules jump to.
    pub hook: Option<(Hook, i32)>,
    /// Its rules. Behind the last one a base chain accepts, and others go back.
    pub rules: Vec<Rule>,
}

/// Where packets meet a base chain (enum nf_inet_hooks).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// All that comes in.
    Prerouting = 0,
    /// To the host.
    Input = 1,
    /// Passing through.
    Forward = 2,
    /// From the host.
    Output = 3,
}

/// A rule: all matches hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What must hold.
    pub matches: Vec<Match>,
    /// What happens then, in order.
    pub acts: Vec<Act>,
}

/// Source or destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Source.
    Source,
    /// Destination.
    Destination,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The ingress device (or the egress one, with `out`) has this name, or has not.
    Device {
        /// The egress device.
        out: bool,
        /// Its name, or how it begins.
        name: String,
        /// The name is only a beginning.
        prefix: bool,
        /// It has another name.
        not: bool,
    },
    /// The source link address has these bytes, or has not.
    SourceLink {
        /// Where in the address.
        at: u32,
        /// The bytes.
        bytes: Vec<u8>,
        /// It has others.
        not: bool,
    },
    /// The ingress device is in the set of this name.
    KnownDevice(String),
    /// It is not in that set.
    NoKnownDevice(String),
    /// IP version.
    Family(Family),
    /// The upper layer's protocol, or any other.
    Protocol {
        /// Its number.
        number: u8,
        /// Any other.
        not: bool,
    },
    /// ICMP's type, and code unless any, or anything else.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: Option<u8>,
        /// Anything else.
        not: bool,
    },
    /// An address is in a set, or is not. Behind a [`Match::Family`] of the set's.
    Address {
        /// Whose.
        side: Side,
        /// Of which version.
        family: Family,
        /// The set.
        set: String,
        /// It is not.
        not: bool,
    },
    /// Address, protocol and port are in a set, or are not.
    Socket {
        /// Whose.
        side: Side,
        /// Of which version.
        family: Family,
        /// The set.
        set: String,
        /// They are not.
        not: bool,
    },
    /// A port is in a range, both ends included, or is not.
    Port {
        /// Whose.
        side: Side,
        /// First and last.
        range: (u16, u16),
        /// It is not.
        not: bool,
    },
    /// A message of neighbour discovery (RFC 4861: types 133 to 137).
    Discovery,
    /// Connection tracking's state is one of these bits ([`state`]).
    State(u32),
    /// The packet's mark has this bit.
    Mark(u32),
}

/// Bits of [`Match::State`] (enum ip_conntrack_info, `1 << (info + 1)`).
pub mod state {
    /// Belongs to no connection, and can begin none.
    pub const INVALID: u32 = 1;
    /// Of a known connection.
    pub const ESTABLISHED: u32 = 1 << 1;
    /// About a known connection.
    pub const RELATED: u32 = 1 << 2;
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The hook is passed, as far as this table has to say.
    Accept,
    /// The packet ends.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On in another chain.
    Jump(String),
    /// The packet gets this bit of its mark.
    SetMark(u32),
    /// The packet is not tracked.
    Untrack,
    /// What stands behind it is done for so many packets only.
    Limit {
        /// Packets in a unit of time.
        count: u16,
        /// The unit, in seconds.
        unit_s: u64,
        /// Packets at once; 0 is the kernel's choice, 5.
        burst: u16,
    },
    /// The kernel's log gets a line (level info) that begins so, up to 127 bytes.
    Log(String),
}

impl Chain {
    /// A chain that rules jump to.
    pub fn regular(name: String, rules: Vec<Rule>) -> Chain {
        Chain { name, hook: None, rules }
    }
}

impl Ruleset {
    /// True when something is written to the kernel's log.
    pub fn logs(&self) -> bool {
        self.chains.iter().flat_map(|chain| &chain.rules).any(Rule::logs)
    }

    /// The same without that.
    #[must_use]
    pub fn without_log(mut self) -> Ruleset {
        self.chains.iter_mut().for_each(|chain| chain.rules.retain(|rule| !rule.logs()));
        self
    }
}

impl Rule {
    fn logs(&self) -> bool {
        self.acts.iter().any(|act| matches!(act, Act::Log(_)))
    }

    /// A rule with one action.
    pub fn new(matches: Vec<Match>, act: Act) -> Rule {
        Rule { matches, acts: vec![act] }
    }
}
