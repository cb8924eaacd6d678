//! The owner's side of membership: the network that an owner begins, the tokens that it mints, what it tells members.
//!
//! ```text
//! folder -> network, key, book -> address (what is free) -> mint -> join string
//! ```
//! `address` and `mint` only compute; `folder` has the files, `act` the network; the commands are in `cmd`.

pub mod act;
pub mod address;
pub mod backup;
pub mod folder;
pub mod mint;
