//! Everything that runs in memory: no root, no device, no clock, all of it seeded.

#[path = "../fuzz/src/body.rs"]
#[expect(unreachable_pub, reason = "it is a library of its own for the fuzz targets")]
mod body;
mod conversations;
mod hostile;
mod replay;
#[path = "../fuzz/src/stateful.rs"]
#[expect(unreachable_pub, reason = "it is a library of its own for the fuzz targets")]
mod stateful;
#[path = "../fuzz/src/views.rs"]
#[expect(unreachable_pub, reason = "it is a library of its own for the fuzz targets")]
mod views;
