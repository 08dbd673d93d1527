//! The fuzz targets' shared part; `tests/sim` runs the same body under `cargo test`.

pub mod body;
