//! BGP messages as they stand on the wire (RFC 4271 section 4).

pub mod as_path;
pub mod attribute;
pub mod capability;
pub mod community;
pub mod frame;
pub mod negotiated;
pub mod nlri;
pub mod notification;
pub mod open;
pub mod pack;
pub mod route_refresh;
pub mod treatment;
pub mod update;

pub use negotiated::Negotiated;
pub use notification::Notification;
pub use open::Open;
pub use route_refresh::RouteRefresh;

/// Length of the header of every message, in bytes.
pub const HEADER_LEN: usize = 19;
/// Longest message without the capability of RFC 8654, in bytes. For OPEN and KEEPALIVE, always.
pub const MAX_LEN: usize = 4096;
/// Longest message with it, in bytes.
pub const MAX_EXTENDED_LEN: usize = 65_535;
