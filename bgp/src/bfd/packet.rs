//! The control packet (RFC 5880 section 4.1), and those reasons of section 6.8.6 to discard one
//! that need no session.

/// Length without authentication, in bytes.
pub const PACKET_LEN: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// What a side thinks of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// A person has stopped it.
    AdminDown = 0,
    /// No word from the other side.
    Down = 1,
    /// The other side is there, but may not hear us.
    Init = 2,
    /// Both hear each other.
    Up = 3,
}

/// Why a session has last left Up (section 4.1); other numbers of the registry are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// Nothing to say.
    pub const NONE: Diagnostic = Diagnostic(0);
    /// Nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Diagnostic = Diagnostic(1);
    /// The other side has said that it is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Diagnostic = Diagnostic(3);
    /// A person has stopped the session.
    pub const ADMINISTRATIVELY_DOWN: Diagnostic = Diagnostic(7);
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            0 => "none",
            1 => "detection time expired",
            2 => "echo failed",
            3 => "neighbor signaled down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            number => return write!(f, "diagnostic {number}"),
        })
    }
}

/// One control packet. Intervals are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session has last left Up.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// An answer with `final_` is wanted.
    pub poll: bool,
    /// The answer to a poll.
    pub final_: bool,
    /// The sender's BFD outlives its control plane.
    pub independent: bool,
    /// The sender wants no periodic packets.
    pub demand: bool,
    /// So many lost packets in a row are a lost peer; never 0.
    pub detect_mult: u8,
    /// The sender's number for the session; never 0.
    pub my_discriminator: u32,
    /// Ours, or 0 when the sender does not know it.
    pub your_discriminator: u32,
    /// The least time between packets that the sender would like.
    pub desired_min_tx_us: u32,
    /// The least time between packets that it can take; 0 for none at all.
    pub required_min_rx_us: u32,
    /// The same for echo packets.
    pub required_min_echo_rx_us: u32,
}

/// Why bytes are no control packet for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer bytes than a packet has, or than it says.
    Truncated(usize),
    /// Another version.
    Version(u8),
    /// A length that cannot be.
    Length(u8),
    /// A detection multiplier of 0.
    DetectMult,
    /// The reserved multipoint bit is set.
    Multipoint,
    /// No number for the sender's session.
    MyDiscriminator,
    /// We have no number, but the state is not one in which that is so.
    YourDiscriminator(State),
    /// Authentication is not in use.
    Authenticated,
}

impl Packet {
    /// Reads a UDP payload by the rules of section 6.8.6, in their order.
    pub fn decode(payload: &[u8]) -> Result<Packet, Malformed> {
        let bytes: &[u8; PACKET_LEN] =
            payload.first_chunk().ok_or(Malformed::Truncated(payload.len()))?;
        let [first, flags, detect_mult, length, ..] = *bytes;
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let state = match flags >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        let authenticated = flags & AUTHENTICATED != 0;
        let least = if authenticated { 26 } else { PACKET_LEN };
        if first >> 5 != VERSION {
            return Err(Malformed::Version(first >> 5));
        }
        if usize::from(length) < least {
            return Err(Malformed::Length(length));
        }
        if usize::from(length) > payload.len() {
            return Err(Malformed::Truncated(payload.len()));
        }
        if detect_mult == 0 {
            return Err(Malformed::DetectMult);
        }
        if flags & MULTIPOINT != 0 {
            return Err(Malformed::Multipoint);
        }
        if word(4) == 0 {
            return Err(Malformed::MyDiscriminator);
        }
        if word(8) == 0 && !matches!(state, State::Down | State::AdminDown) {
            return Err(Malformed::YourDiscriminator(state));
        }
        if authenticated {
            return Err(Malformed::Authenticated);
        }
        Ok(Packet {
            diagnostic: Diagnostic(first & 0x1f),
            state,
            poll: flags & POLL != 0,
            final_: flags & FINAL != 0,
            independent: flags & INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            detect_mult,
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx_us: word(12),
            required_min_rx_us: word(16),
            required_min_echo_rx_us: word(20),
        })
    }

    /// The UDP payload.
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let flags = [
            (self.poll, POLL),
            (self.final_, FINAL),
            (self.independent, INDEPENDENT),
            (self.demand, DEMAND),
        ];
        let set = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit);
        let mut bytes = [0; PACKET_LEN];
        bytes[0] = VERSION << 5 | self.diagnostic.0 & 0x1f;
        bytes[1] = (self.state as u8) << 6 | set.sum::<u8>();
        bytes[2] = self.detect_mult;
        bytes[3] = 24;
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx_us,
            self.required_min_rx_us,
            self.required_min_echo_rx_us,
        ];
        for (word, place) in words.iter().zip(bytes[4..].chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}
