//! Random bytes from the kernel, for identifiers that must differ between nodes.
//!
//! Where the kernel gives none (a chroot without /dev) the clock stands in: identifiers must come
//! out all the same, and nobody's secret hangs on them.

use std::fs::File;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

/// So many random bytes.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).is_err() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = now.as_nanos().to_be_bytes();
        bytes.iter_mut().rev().zip(clock.iter().rev()).for_each(|(byte, clock)| *byte = *clock);
    }
    bytes
}

/// Bytes as hexadecimal digits, two each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
