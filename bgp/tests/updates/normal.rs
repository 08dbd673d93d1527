//! What a block of attributes should look like when it is written again: worked out from its raw
//! bytes alone, without the codec under test.

/// One attribute: flags without the length's, type, value.
pub(crate) type Raw = (u8, u8, Vec<u8>);

/// The attributes of a sound block.
pub(crate) fn attributes(mut block: &[u8]) -> Vec<Raw> {
    let mut all = Vec::new();
    while !block.is_empty() {
        let extended = block[0] & 0x10 != 0;
        let (head, length) = match extended {
            true => (4, usize::from(u16::from_be_bytes([block[2], block[3]]))),
            false => (3, usize::from(block[2])),
        };
        all.push((block[0] & 0xe0, block[1], block[head..head + length].to_vec()));
        block = &block[head + length..];
    }
    all
}

/// The canonical bytes of these attributes without those that are never written again: the
/// multiprotocol ones, and those of no meaning to a router that does not know them.
pub(crate) fn canonical(attributes: &[Raw], keep_next_hop: bool) -> Vec<u8> {
    let known = |code: u8| matches!(code, 1..=10 | 16 | 17 | 18 | 32);
    let mut kept: Vec<Raw> = attributes.to_vec();
    kept.retain(|(flags, code, _)| {
        let passes = known(*code) || *flags & 0x40 != 0;
        !matches!(code, 14 | 15) && passes && (*code != 3 || keep_next_hop)
    });
    kept.sort_by_key(|(_, code, _)| *code);
    kept.dedup_by_key(|(_, code, _)| *code);
    let mut bytes = Vec::new();
    for (flags, code, value) in kept {
        // Partial says that somebody before did not know it: nothing to say of a known one.
        let flags = if known(code) { flags & 0xc0 } else { flags | 0x20 };
        match u8::try_from(value.len()) {
            Ok(length) => bytes.extend([flags, code, length]),
            Err(_) => {
                bytes.extend([flags | 0x10, code]);
                bytes.extend((value.len() as u16).to_be_bytes());
            }
        }
        bytes.extend(value);
    }
    bytes
}
