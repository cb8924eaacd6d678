//! The owner's side of membership, offline: the network that an owner begins, and the tokens that it mints.
//!
//! ```text
//! folder -> network, key, book -> address (what is free) -> mint -> join string
//! ```
//! `address` and `mint` only compute; `folder` has the files; the commands are in `cmd`.

pub mod address;
pub mod folder;
pub mod mint;
