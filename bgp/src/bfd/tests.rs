//! BFD by RFC 5880, 5881 and 5883, and two sessions against each other.

use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn config(discriminator: u32) -> Config {
    Config {
        discriminator,
        path: Path::SingleHop,
        desired_min_tx_us: 50_000,
        required_min_rx_us: 50_000,
        detect_mult: 3,
        passive: false,
        seed: u64::from(discriminator),
    }
}

fn packet(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        final_: false,
        independent: false,
        demand: false,
        detect_mult: 3,
        my_discriminator: 2,
        your_discriminator: 1,
        desired_min_tx_us: 100_000,
        required_min_rx_us: 200_000,
        required_min_echo_rx_us: 0,
    }
}

fn drain(session: &mut Session) -> Vec<Action> {
    std::iter::from_fn(|| session.poll_action()).collect()
}

fn sent(actions: &[Action]) -> Vec<Packet> {
    let payloads = actions.iter().filter_map(|action| match action {
        Action::Send(payload) => Some(Packet::decode(payload).unwrap()),
        _ => None,
    });
    payloads.collect()
}

/// One that has been brought to `state` by packets.
fn at(state: State) -> Session {
    at_with(config(1), state)
}

fn at_with(config: Config, state: State) -> Session {
    let mut session = Session::new(config);
    if state != State::AdminDown {
        session.enable(0);
    }
    if matches!(state, State::Init | State::Up) {
        session.receive(&packet(State::Down).encode(), 255, 0).unwrap();
    }
    if state == State::Up {
        session.receive(&packet(State::Init).encode(), 255, 0).unwrap();
    }
    drain(&mut session);
    assert_eq!(session.state(), state);
    session
}

#[test]
fn a_packet_reads_and_writes_as_drawn() {
    let drawn = [0x23, 0xfa, 5, 24, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5];
    let expected = Packet {
        diagnostic: Diagnostic::NEIGHBOR_SIGNALED_DOWN,
        state: State::Up,
        poll: true,
        final_: true,
        independent: true,
        demand: true,
        detect_mult: 5,
        my_discriminator: 1,
        your_discriminator: 2,
        desired_min_tx_us: 3,
        required_min_rx_us: 4,
        required_min_echo_rx_us: 5,
    };
    assert_eq!(Packet::decode(&drawn), Ok(expected));
    assert_eq!(expected.encode(), drawn);
}

/// RFC 5880 section 6.8.6: each reason for which a packet MUST be discarded.
#[test]
fn packets_that_must_be_discarded() {
    let good = packet(State::Up).encode();
    let with = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        Packet::decode(&bytes).unwrap_err()
    };
    assert_eq!(with(0, 2 << 5), Malformed::Version(2));
    assert_eq!(with(3, 23), Malformed::Length(23));
    assert_eq!(with(3, 25), Malformed::Truncated(24));
    assert_eq!(with(2, 0), Malformed::DetectMult);
    assert_eq!(with(1, 0xc1), Malformed::Multipoint);
    assert_eq!(with(7, 0), Malformed::MyDiscriminator);
    assert_eq!(with(11, 0), Malformed::YourDiscriminator(State::Up));
    assert_eq!(with(1, 0xc4), Malformed::Length(24));
    let mut authenticated = [&good[..], &[1, 2]].concat();
    (authenticated[1], authenticated[3]) = (0xc4, 26);
    assert_eq!(Packet::decode(&authenticated), Err(Malformed::Authenticated));
    for length in 0..24 {
        assert_eq!(Packet::decode(&good[..length]), Err(Malformed::Truncated(length)));
    }
}

#[test]
fn every_state_meets_every_state_as_section_6_2_says() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (Down, AdminDown, Down),
        (Down, Down, Init),
        (Down, Init, Up),
        (Down, Up, Down),
        (Init, AdminDown, Down),
        (Init, Down, Init),
        (Init, Init, Up),
        (Init, Up, Up),
        (Up, AdminDown, Down),
        (Up, Down, Down),
        (Up, Init, Up),
        (Up, Up, Up),
    ];
    for (ours, theirs, after) in table {
        let mut session = at(ours);
        session.receive(&packet(theirs).encode(), 255, 1).unwrap();
        assert_eq!(session.state(), after, "{ours:?} {theirs:?}");
        let actions = drain(&mut session);
        let told: Vec<Action> =
            actions.into_iter().filter(|action| !matches!(action, Action::Send(_))).collect();
        let expected: &[Action] = match (ours, theirs, after) {
            (Up, AdminDown, _) => &[Action::PeerAdminDown],
            (Up, Down, _) => &[Action::Down(Diagnostic::NEIGHBOR_SIGNALED_DOWN)],
            (Down | Init, _, Up) => &[Action::Up],
            _ => &[],
        };
        assert_eq!(told, expected, "{ours:?} {theirs:?}");
    }
    let mut session = at(AdminDown);
    let refused = session.receive(&packet(Down).encode(), 255, 1);
    assert_eq!((refused, session.state()), (Err(Refused::AdminDown), AdminDown));
}

/// RFC 5881 section 5: without authentication a TTL other than 255 MUST be discarded.
#[test]
fn a_single_hop_packet_has_a_ttl_of_255() {
    let mut session = at(State::Up);
    let down = packet(State::Down).encode();
    assert_eq!(session.receive(&down, 254, 1), Err(Refused::Ttl(254)));
    let mut session = Session::new(Config { path: Path::Multihop(250), ..config(1) });
    session.enable(0);
    assert_eq!(session.receive(&down, 249, 1), Err(Refused::Ttl(249)));
    assert_eq!(session.receive(&down, 250, 1), Ok(()));
}

#[test]
fn a_packet_for_another_session_is_refused() {
    let mut session = at(State::Up);
    let other = Packet { your_discriminator: 9, ..packet(State::Down) };
    assert_eq!(session.receive(&other.encode(), 255, 1), Err(Refused::Discriminator(9)));
    assert_eq!(session.state(), State::Up);
}

/// Section 6.8.7: the slower of what we like and what the peer takes, less 0 to 25 percent.
#[test]
fn packets_are_sent_at_the_agreed_interval_with_jitter() {
    for (detect_mult, most) in [(3, 200), (1, 180)] {
        let mut session = at_with(Config { detect_mult, ..config(1) }, State::Up);
        let confirm = Packet { final_: true, ..packet(State::Up) };
        session.receive(&confirm.encode(), 255, 0).unwrap();
        let mut last = None;
        let mut gaps = Vec::new();
        let mut now = 0;
        while gaps.len() < 1000 {
            now = session.poll_timeout().unwrap().max(now);
            session.receive(&packet(State::Up).encode(), 255, now).unwrap();
            session.timer(now);
            if !sent(&drain(&mut session)).is_empty() {
                gaps.extend(last.map(|last: u64| now - last));
                last = Some(now);
            }
        }
        let (least, longest) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
        assert!(*least >= 150 * MS, "{least}");
        assert!(*longest <= most * MS && *longest > most * MS - 20 * MS, "{longest}");
    }
}

/// Section 6.8.3: not Up MUST NOT be announced with less than a second.
#[test]
fn a_session_that_is_not_up_is_slow() {
    let mut session = Session::new(config(1));
    session.enable(0);
    let mut count = 0;
    while session.poll_timeout().unwrap() < 100 * SECOND {
        session.timer(session.poll_timeout().unwrap());
        for packet in sent(&drain(&mut session)) {
            assert_eq!((packet.desired_min_tx_us, packet.state), (1_000_000, State::Down));
            count += 1;
        }
    }
    assert!((100..=134).contains(&count), "{count}");
}

/// Section 6.8.4: the peer's multiplier times the slower of its sending and our receiving.
#[test]
fn silence_for_the_detection_time_is_down() {
    let mut session = at(State::Up);
    let since = SECOND;
    session.receive(&packet(State::Up).encode(), 255, since).unwrap();
    drain(&mut session);
    session.timer(since + 300 * MS - 1);
    assert_eq!(session.state(), State::Up);
    session.timer(since + 300 * MS);
    let actions = drain(&mut session);
    assert!(actions.contains(&Action::Down(Diagnostic::DETECTION_TIME_EXPIRED)));
    let last = *sent(&actions).last().unwrap();
    assert_eq!((last.state, last.your_discriminator), (State::Down, 0));
    assert_eq!(last.diagnostic, Diagnostic::DETECTION_TIME_EXPIRED);
}

/// Section 6.5: polls go on until they are answered, and are answered at once.
#[test]
fn polls_are_asked_and_answered() {
    let mut session = at(State::Up);
    session.timer(session.poll_timeout().unwrap());
    assert!(sent(&drain(&mut session))[0].poll);
    let now = SECOND / 10;
    let both = Packet { poll: true, final_: true, ..packet(State::Up) };
    session.receive(&both.encode(), 255, now).unwrap();
    let answers = sent(&drain(&mut session));
    assert!(answers.len() == 1 && answers[0].final_ && !answers[0].poll, "{answers:?}");
    session.timer(session.poll_timeout().unwrap());
    assert!(sent(&drain(&mut session)).iter().all(|packet| !packet.poll));
}

/// Section 6.8.3: slower sending and faster detection wait for the answer to the poll.
#[test]
fn other_intervals_wait_until_the_peer_knows() {
    let mut session = at(State::Up);
    let confirm = Packet { final_: true, required_min_rx_us: 1, ..packet(State::Up) };
    session.receive(&confirm.encode(), 255, 0).unwrap();
    session.set_intervals(400_000, 20_000, MS);
    let announced = *sent(&drain(&mut session)).last().unwrap();
    assert_eq!((announced.desired_min_tx_us, announced.required_min_rx_us), (400_000, 20_000));
    assert!(announced.poll);
    assert_eq!((session.tx_us, session.rx_us), (50_000, 50_000));
    session.receive(&confirm.encode(), 255, 2 * MS).unwrap();
    assert_eq!((session.tx_us, session.rx_us), (400_000, 20_000));
}

#[test]
fn a_passive_session_waits_to_be_spoken_to() {
    let mut session = Session::new(Config { passive: true, ..config(1) });
    session.enable(0);
    assert_eq!((session.poll_timeout(), drain(&mut session)), (None, vec![]));
    session.receive(&packet(State::Down).encode(), 255, 1).unwrap();
    assert_eq!(sent(&drain(&mut session)).len(), 1);
    assert!(session.poll_timeout().is_some());
}

/// Section 6.8.7: a peer in demand mode gets no periodic packets, and answers to its polls.
#[test]
fn a_peer_in_demand_mode_is_left_in_peace() {
    let mut session = at(State::Up);
    let demand = Packet { demand: true, final_: true, ..packet(State::Up) };
    session.receive(&demand.encode(), 255, MS).unwrap();
    drain(&mut session);
    assert_eq!(session.next_tx_ns, None);
    let poll = Packet { demand: true, poll: true, ..packet(State::Up) };
    session.receive(&poll.encode(), 255, 2 * MS).unwrap();
    assert!(sent(&drain(&mut session))[0].final_);
}

#[test]
fn a_peer_that_takes_no_packets_gets_none() {
    let mut session = at(State::Up);
    let mute = Packet { required_min_rx_us: 0, ..packet(State::Up) };
    session.receive(&mute.encode(), 255, MS).unwrap();
    assert_eq!(session.next_tx_ns, None);
}

/// Section 6.8.16: the peer is told for at least a detection time, and then it is quiet.
#[test]
fn a_stopped_session_says_so_for_a_while() {
    let mut session = at(State::Up);
    session.disable(MS);
    let mut now = MS;
    let mut count = 0;
    for packet in sent(&drain(&mut session)) {
        let said = (packet.state, packet.diagnostic);
        assert_eq!(said, (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN));
        count += 1;
    }
    while let Some(at) = session.poll_timeout() {
        now = at;
        session.timer(now);
        count += sent(&drain(&mut session)).len();
    }
    assert!(count >= 1 && now < 10 * SECOND, "{count} until {now}");
    session.enable(now);
    assert_eq!(session.state(), State::Down);
}

/// Two sessions, and what is on the way between them.
struct Pair {
    now: u64,
    sides: [Session; 2],
    on_the_way: Vec<(u64, usize, [u8; PACKET_LEN])>,
    told: Vec<(u64, usize, Action)>,
    random: crate::session::Jitter,
    loss_percent: u64,
}

impl Pair {
    fn new(configs: [Config; 2], seed: u64) -> Pair {
        let mut sides = configs.map(Session::new);
        sides.iter_mut().for_each(|side| side.enable(0));
        let random = crate::session::Jitter::new(seed);
        Pair { now: 0, sides, on_the_way: vec![], told: vec![], random, loss_percent: 0 }
    }

    fn run(&mut self, until: u64) {
        loop {
            let timers = self.sides.iter().filter_map(Session::poll_timeout);
            let arrivals = self.on_the_way.iter().map(|(at, ..)| *at);
            let Some(next) = timers.chain(arrivals).min().filter(|next| *next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            let due = |(at, ..): &mut (u64, usize, [u8; PACKET_LEN])| *at <= self.now;
            let arrived: Vec<_> = self.on_the_way.extract_if(.., due).collect();
            for (_, to, payload) in arrived {
                self.sides[to].receive(&payload, 255, self.now).ok();
            }
            for side in 0..2 {
                self.sides[side].timer(self.now);
                while let Some(action) = self.sides[side].poll_action() {
                    match action {
                        Action::Send(_) if self.random.number() % 100 < self.loss_percent => (),
                        Action::Send(payload) => {
                            let at = self.now + 1 + self.random.number() % (3 * MS);
                            self.on_the_way.push((at, 1 - side, payload));
                        }
                        told => self.told.push((self.now, side, told)),
                    }
                }
            }
        }
        self.now = until;
    }
}

#[test]
fn two_sessions_come_up_and_notice_a_cut() {
    for seed in 0..100 {
        let mut pair = Pair::new([config(1), config(2)], seed);
        pair.run(5 * SECOND);
        let up = |(_, _, told): &(u64, usize, Action)| *told == Action::Up;
        assert!(pair.told.len() == 2 && pair.told.iter().all(up), "{:?}", pair.told);
        pair.run(100 * SECOND);
        assert_eq!(pair.told.len(), 2);
        assert!(pair.sides.iter().all(|side| !side.polling && side.tx_us == 50_000));
        pair.loss_percent = 100;
        pair.run(pair.now + 160 * MS);
        let down = |(_, _, told): &&(u64, usize, Action)| matches!(told, Action::Down(_));
        assert_eq!(pair.told.iter().filter(down).count(), 2, "seed {seed}");
        pair.loss_percent = 0;
        pair.run(pair.now + 5 * SECOND);
        assert!(pair.sides.iter().all(|side| side.state() == State::Up), "seed {seed}");
    }
}

#[test]
fn single_losses_are_survived() {
    for seed in 0..20 {
        let mut pair = Pair::new([config(1), Config { detect_mult: 10, ..config(2) }], seed);
        pair.sides[0] = Session::new(Config { detect_mult: 10, ..config(1) });
        pair.sides[0].enable(0);
        pair.run(5 * SECOND);
        pair.loss_percent = 10;
        pair.run(300 * SECOND);
        assert_eq!(pair.told.len(), 2, "{:?}", pair.told);
    }
}

#[test]
fn a_stopped_side_is_no_failure_of_the_path() {
    let mut pair = Pair::new([config(1), config(2)], 1);
    pair.run(5 * SECOND);
    let now = pair.now;
    pair.sides[0].disable(now);
    pair.run(now + 5 * SECOND);
    let told: Vec<_> = pair.told[2..].iter().map(|(_, side, told)| (*side, *told)).collect();
    let own = Action::Down(Diagnostic::ADMINISTRATIVELY_DOWN);
    assert_eq!(told, [(0, own), (1, Action::PeerAdminDown)]);
    assert_eq!(pair.sides[1].state(), State::Down);
}

proptest::proptest! {
    #[test]
    fn any_payload_is_read_without_a_panic(payload: Vec<u8>, state in 0usize..4) {
        let states = [State::AdminDown, State::Down, State::Init, State::Up];
        let mut session = at(states[state]);
        let _ = session.receive(&payload, 255, SECOND);
        let mut valid = packet(State::Up).encode();
        for (place, byte) in valid[12..].iter_mut().zip(&payload) {
            *place = *byte;
        }
        let _ = session.receive(&valid, 255, SECOND);
        for _ in 0..20 {
            let at = session.poll_timeout().unwrap_or(SECOND);
            session.timer(at);
            drain(&mut session);
        }
    }
}
