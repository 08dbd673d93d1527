use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn read<P: Prefix>(bytes: &[u8], add_path: bool) -> Vec<Result<Nlri<P>, NlriError>> {
    Prefixes::new(bytes, add_path).collect()
}

fn v4(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

#[test]
fn prefixes_of_each_length() {
    let bytes = [0, 8, 10, 12, 10, 16, 24, 192, 0, 2, 32, 192, 0, 2, 1];
    let expected = ["0.0.0.0/0", "10.0.0.0/8", "10.16.0.0/12", "192.0.2.0/24", "192.0.2.1/32"];
    let read: Vec<Ipv4Net> =
        read(&bytes, false).into_iter().map(|nlri| nlri.unwrap().prefix).collect();
    assert_eq!(read, expected.map(v4));
}

#[test]
fn trailing_bits_are_cleared() {
    // RFC 4271 section 4.3: "the value of trailing bits is irrelevant".
    let read = read(&[9, 10, 255], false);
    assert_eq!(read, [Ok(Nlri::new(v4("10.128.0.0/9")))]);
    let bytes = [3, 0xff];
    assert_eq!(
        Prefixes::new(&bytes, false).next(),
        Some(Ok(Nlri::new("e000::/3".parse::<Ipv6Net>().unwrap())))
    );
}

#[test]
fn path_identifiers_are_read_where_agreed() {
    let read = read(&[0, 0, 0, 7, 8, 10, 0xff, 0, 0, 0, 0], true);
    let expected = [(7, "10.0.0.0/8"), (0xff00_0000, "0.0.0.0/0")];
    let expected = expected.map(|(path_id, prefix)| Ok(Nlri { path_id, prefix: v4(prefix) }));
    assert_eq!(read, expected);
}

#[test]
fn bad_sections_end_with_their_error() {
    let family = Family::Ipv4Unicast;
    let good = Ok(Nlri::new(v4("10.0.0.0/8")));
    let bits = Err(NlriError::Bits { bits: 33, family });
    assert_eq!(read(&[8, 10, 33, 1, 2, 3, 4, 5, 8, 10], false), [good, bits]);
    let cut = Err(NlriError::Truncated { octets: 2, family });
    assert_eq!(read(&[8, 10, 24, 1, 2], false), [good, cut]);
    let cut = Err(NlriError::Truncated { octets: 0, family });
    assert_eq!(read::<Ipv4Net>(&[0, 0, 0, 1], true), [cut]);
    assert_eq!(read::<Ipv4Net>(&[0, 0, 1], true), [cut]);
    let family = Family::Ipv6Unicast;
    let bits = Err(NlriError::Bits { bits: 129, family });
    assert_eq!(read::<Ipv6Net>(&[129; 20], false), [bits]);
    assert_eq!(NlriError::Bits { bits: 33, family }.notification(), Notification::new(3, 10));
}

/// One octet and one bit at a time: slow and plain.
fn slow(bytes: &[u8], add_path: bool) -> Option<Vec<(u32, [u8; 4], u8)>> {
    let mut bytes = bytes.iter().copied().peekable();
    let mut all = Vec::new();
    while bytes.peek().is_some() {
        let mut path_id = 0;
        for _ in 0..if add_path { 4 } else { 0 } {
            path_id = path_id << 8 | u32::from(bytes.next()?);
        }
        let bits = bytes.next().filter(|bits| *bits <= 32)?;
        let mut address = [0; 4];
        let mut octet = 0;
        for bit in 0..usize::from(bits) {
            if bit % 8 == 0 {
                octet = bytes.next()?;
            }
            address[bit / 8] |= octet & 0x80 >> (bit % 8);
        }
        all.push((path_id, address, bits));
    }
    Some(all)
}

proptest! {
    #[test]
    fn reading_agrees_with_one_octet_at_a_time(
        bytes in vec(prop_oneof![0u8..33, any::<u8>()], 0..60), add_path: bool,
    ) {
        let fast: Option<Vec<_>> = Prefixes::<Ipv4Net>::new(&bytes, add_path)
            .map(|nlri| {
                let Nlri { path_id, prefix } = nlri.ok()?;
                Some((path_id, prefix.network().octets(), prefix.prefix_len()))
            })
            .collect();
        prop_assert_eq!(fast, slow(&bytes, add_path));
    }

    #[test]
    fn prefixes_survive_the_wire(
        prefixes in vec((any::<u32>(), any::<u128>(), 0u8..=128), 0..20), add_path: bool,
    ) {
        let mut section = Vec::new();
        let mut expected = Vec::new();
        for (path_id, address, bits) in prefixes {
            let prefix = Ipv6Net::new(Ipv6Addr::from_bits(address), bits).unwrap().trunc();
            let nlri = Nlri { path_id: if add_path { path_id } else { 0 }, prefix };
            let before = section.len();
            nlri.write(add_path, &mut section);
            prop_assert_eq!(section.len() - before, nlri.wire_len(add_path));
            prop_assert!(nlri.wire_len(add_path) <= MAX_NLRI_LEN);
            expected.push(Ok(nlri));
        }
        prop_assert_eq!(read::<Ipv6Net>(&section, add_path), expected);
    }
}
