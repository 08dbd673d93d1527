//! Desired state, time and I/O: what the packet path should do, and how the world hears of it.
