//! What waits to be written to one connection: whole messages, the first of which may have been
//! begun. Messages of the session go before the UPDATEs that wait, at a border between messages.

use margay_bgp::wire::HEADER_LEN;
use margay_bgp::wire::frame::KEEPALIVE;

/// Bytes that wait.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    written: usize,
    /// The beginning of a message, or the end; session messages go in here once it is not behind
    /// `written`.
    border: usize,
    /// The end of a KEEPALIVE that waits.
    keepalive: Option<usize>,
}

/// The length of the message that begins at `at`; all that is left when there is none.
fn message_len(bytes: &[u8], at: usize) -> usize {
    let left = bytes.len().saturating_sub(at);
    match bytes.get(at + 16..at + 18) {
        Some(&[high, low]) => {
            usize::from(u16::from_be_bytes([high, low])).clamp(HEADER_LEN, left.max(HEADER_LEN))
        }
        _ => left,
    }
}

impl Output {
    /// What is to be written next.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// True when nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// So many bytes more are out.
    pub(super) fn wrote(&mut self, length: usize) {
        self.written += length;
        if self.is_empty() {
            self.bytes.clear();
            (self.written, self.border, self.keepalive) = (0, 0, None);
        }
    }

    /// A message of the session: behind others of the session, before UPDATEs.
    pub(super) fn insert(&mut self, message: &[u8]) {
        self.pass_begun();
        self.bytes.splice(self.border..self.border, message.iter().copied());
        self.border += message.len();
    }

    /// A KEEPALIVE, unless one waits.
    pub(super) fn insert_keepalive(&mut self) {
        if self.keepalive.is_none_or(|end| end <= self.written) {
            self.insert(&KEEPALIVE);
            self.keepalive = Some(self.border);
        }
    }

    /// Keeps what is left of `messages`, the first bytes of which have been written; nothing else
    /// may wait.
    pub(super) fn keep(&mut self, messages: &[u8], written: usize) {
        let mut border = 0;
        while border < written {
            border += message_len(messages, border);
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(&messages[written..]);
        (self.written, self.border, self.keepalive) = (0, border - written, None);
    }

    /// Drops what need not be said at the end of a connection: UPDATEs that were not begun.
    pub(super) fn truncate(&mut self) {
        self.pass_begun();
        self.bytes.truncate(self.border);
    }

    fn pass_begun(&mut self) {
        while self.border < self.written {
            self.border += message_len(&self.bytes, self.border);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use margay_bgp::wire::frame::{Kind, message};
    use proptest::prelude::*;

    fn update(number: u8, length: usize) -> Vec<u8> {
        message(Kind::Update, &vec![number; length])
    }

    #[test]
    fn a_keepalive_goes_before_updates_and_behind_the_message_that_was_begun() {
        let (first, second) = (update(1, 30), update(2, 40));
        let both = [first.clone(), second.clone()].concat();
        let mut output = Output::default();
        output.keep(&both, 7);
        output.insert_keepalive();
        output.insert_keepalive();
        let expected = [&first[7..], &KEEPALIVE, &second].concat();
        assert_eq!(output.pending(), expected);
        output.wrote(first.len() - 7 + KEEPALIVE.len());
        output.insert_keepalive();
        assert_eq!(output.pending(), [&KEEPALIVE[..], &second].concat());
        output.wrote(KEEPALIVE.len() + second.len());
        assert!(output.is_empty());
    }

    #[test]
    fn the_end_of_a_connection_waits_for_no_update() {
        let (first, second) = (update(1, 30), update(2, 40));
        let mut output = Output::default();
        output.keep(&[first.clone(), second].concat(), 7);
        let why = message(Kind::Notification, &[6, 2]);
        output.insert(&why);
        output.truncate();
        assert_eq!(output.pending(), [&first[7..], &why].concat());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Fill(Vec<usize>),
        Insert(usize),
        Write(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop::collection::vec(4usize..200, 1..6).prop_map(Step::Fill),
            (2usize..40).prop_map(Step::Insert),
            (1usize..300).prop_map(Step::Write),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_put_in_comes_out_as_whole_messages(
            steps in prop::collection::vec(step(), 0..60)
        ) {
            let (mut output, mut out) = (Output::default(), Vec::new());
            let (mut updates, mut urgent) = (Vec::new(), Vec::new());
            for (number, step) in (0u8..).zip(steps) {
                match step {
                    Step::Fill(lengths) if output.is_empty() => {
                        let all: Vec<_> = lengths.iter().map(|len| update(number, *len)).collect();
                        let bytes = all.concat();
                        let written = usize::from(number) * 7 % bytes.len();
                        out.extend_from_slice(&bytes[..written]);
                        output.keep(&bytes, written);
                        updates.extend(all);
                    }
                    Step::Fill(_) => (),
                    Step::Insert(length) => {
                        let one = message(Kind::Notification, &vec![number; length]);
                        output.insert(&one);
                        urgent.push(one);
                    }
                    Step::Write(most) => {
                        let length = most.min(output.pending().len());
                        out.extend_from_slice(&output.pending()[..length]);
                        output.wrote(length);
                    }
                }
            }
            out.extend_from_slice(output.pending());
            let (mut at, mut found) = (0, [Vec::new(), Vec::new()]);
            while at < out.len() {
                let one = &out[at..at + message_len(&out, at)];
                found[usize::from(one[18] == Kind::Notification as u8)].push(one.to_vec());
                at += one.len();
            }
            prop_assert_eq!(found, [updates, urgent]);
        }
    }
}
