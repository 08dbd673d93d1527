//! The command line of margay.

fn main() {}
