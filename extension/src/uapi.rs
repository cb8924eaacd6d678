//! The cross-platform userspace API of WireGuard, by which `wg(8)` reads and changes an interface
//! (<https://www.wireguard.com/xplatform/>).
//!
//! A client connects to `/var/run/wireguard/<interface>.sock`, writes `get=1` or `set=1` with lines of
//! `key=value`, an empty line, and reads the answer, which ends with `errno=<n>` and an empty line. As in
//! wireguard-go the number is negative on failure.

mod apply;
mod request;
mod server;

pub use request::{BadRequest, PeerChange, Request, SetRequest};
pub use server::{Access, ServeError, Server, socket_path};

pub(crate) use apply::{describe, execute};
