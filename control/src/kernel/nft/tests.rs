//! Messages as the kernel wants them. That it takes them, and does what they say, is tested on
//! real connections in `control/tests/netns`.

use super::wire::{outcomes, removal, replacement, told};
use super::*;

fn refused(sequence: u32, code: i32) -> Vec<u8> {
    let mut answer = 36u32.to_ne_bytes().to_vec();
    answer.extend(2u16.to_ne_bytes());
    answer.extend([0; 2]);
    answer.extend(sequence.to_ne_bytes());
    answer.extend([0; 4]);
    answer.extend(code.to_ne_bytes());
    answer.resize(36, 0);
    answer
}

#[test]
fn messages_are_whole_and_numbered_in_order() {
    let members =
        Members::V4(vec![("10.0.0.0".parse().unwrap(), "255.255.255.255".parse().unwrap())]);
    let set = Set { name: "a".to_owned(), members };
    let rule = Rule::new(vec![Match::State(state::ESTABLISHED)], Act::Accept);
    let chain = Chain { name: "in".to_owned(), hook: Some((Hook::Input, 0)), rules: vec![rule] };
    let ruleset = Ruleset { sets: vec![set], chains: vec![chain] };
    let (bytes, parts) = replacement(&ruleset).finish();
    let mut rest = &bytes[..];
    let mut sequences = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
        sequences.push(u32::from_ne_bytes(rest[8..12].try_into().unwrap()));
        assert_eq!(length % 4, 0);
        rest = &rest[length..];
    }
    assert_eq!(sequences, (0..parts.len() as u32).collect::<Vec<_>>());
    let expected = [
        "the batch",
        "the table",
        "the table",
        "the table",
        "set a",
        "set a",
        "chain in",
        "rule 0 of chain in",
        "the end of the batch",
    ];
    assert_eq!(parts, expected);
}

#[test]
fn refusals_name_the_part() {
    let (_, parts) = removal().finish();
    assert_eq!(outcomes(&refused(2, 0)), [(2, 0)]);
    let answers = [outcomes(&refused(1, 0)), outcomes(&refused(2, -libc::EPERM))].concat();
    let error = verdict(&answers, &parts).unwrap_err();
    assert!(error.to_string().starts_with("nf_tables: the table: "), "{error}");
    assert!(verdict(&[(2, 0)], &parts).is_ok());
    assert!(verdict(&[], &parts).is_err(), "a kernel without nf_tables says nothing good");
}

#[test]
fn answers_that_are_cut_end_the_reading() {
    let whole = refused(1, -1);
    for length in 0..whole.len() {
        assert!(outcomes(&whole[..length]).len() <= 1);
    }
    // A table: its name, what it holds, its number.
    let mut table = refused(0, 0);
    table.truncate(20);
    table[4..6].copy_from_slice(&0x0a00u16.to_ne_bytes());
    let attributes: [&[u8]; 3] = [
        &[11, 0, 1, 0, b'm', b'a', b'r', b'g', b'a', b'y', 0, 0],
        &[8, 0, 3, 0, 0, 0, 0, 9],
        &[12, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 7],
    ];
    table.extend(attributes.concat());
    assert_eq!(told(&table), Some(Stamp { handle: 7, parts: 9 }));
    assert!((0..table.len()).all(|length| told(&table[..length]).is_none()));
    assert_eq!(outcomes(&[0; 64]), []);
}
