//! Batches: one JSON object a line of standard input, one answer a line of standard output.
//!
//! Answers come in the order of the questions, each as soon as it is known. A line that is no
//! question is answered with `{"error":"..."}`, and the batch goes on.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, Read, Write};

/// Longest line, in bytes.
pub(crate) const MAX_LINE: usize = 1 << 18;

/// A line that could not be read.
#[derive(Serialize)]
struct BadLine {
    error: String,
}

/// Answers every line of the input.
pub(crate) fn run<L: DeserializeOwned, A: Serialize>(
    mut input: impl BufRead,
    out: &mut impl Write,
    answer: impl Fn(L) -> A,
) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(out);
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let cut = line.len() == MAX_LINE && line.last() != Some(&b'\n');
        if cut {
            input.skip_until(b'\n')?;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let too_long = || format!("line longer than {MAX_LINE} bytes");
        match serde_json::from_slice::<L>(&line) {
            _ if cut => serde_json::to_writer(&mut out, &BadLine { error: too_long() })?,
            Ok(line) => serde_json::to_writer(&mut out, &answer(line))?,
            Err(error) => serde_json::to_writer(&mut out, &BadLine { error: error.to_string() })?,
        }
        out.write_all(b"\n")?;
        // A program at the other end may wait for this answer before it asks again.
        out.flush()?;
    }
    Ok(out.flush()?)
}
