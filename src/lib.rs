//! The laboratory: small networks of namespaces with real daemons, for the command `lab`, tests and
//! benches.
//!
//! The program itself is `src/main.rs` with one file per command in `src/commands/`; what it does
//! lives in the crates below it. This library holds only what the command `lab` shares with the
//! network tests and the comparison bench.

pub mod lab;
