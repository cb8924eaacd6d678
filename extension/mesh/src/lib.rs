//! The sans-IO core of the Ichor mesh.
//!
//! # Model
//!
//! A [`Node`](node::Node) has an identity (a Curve25519 key) and peers. Each peer has
//!
//! - a *tunnel*: the Noise handshake of WireGuard and the keys that it makes, behind the trait
//!   [`Tunnel`](tunnel::Tunnel);
//! - *sessions*: which of those keys send and receive, and until when (`session`);
//! - *timers*: retries, keepalives, re-keys (`timers`);
//! - *paths*: the candidate pairs by which it is reached (`path`);
//! - *allowed IPs*: the addresses that are its own, in both directions ([`route`]).
//!
//! Before the expensive half of a handshake stands the [`gate`]. Packets between members that are not for the
//! host travel as [`control`] packets inside sessions.
//!
//! # Rules
//!
//! Nothing here reads a clock, opens a socket, starts a thread or draws a random number: time comes in as
//! [`std::time::Instant`] arguments, randomness as a seed, and what leaves goes into a lent
//! [`DatagramSink`](transmit::DatagramSink). That is what lets the simulator run a day in seconds and repeat
//! any failure from its seed. No byte from outside makes it panic.

#![forbid(unsafe_code)]

pub mod control;
pub mod crypto;
pub mod full_size;
pub mod gate;
pub mod gossip;
pub mod hello;
pub mod join;
pub mod join_string;
pub mod key;
pub mod membership;
pub mod node;
pub mod packet;
pub mod record;
pub mod roster;
pub mod route;
pub mod status;
pub mod transmit;
pub mod tunnel;
pub mod wire;

mod path;
mod peer;
pub mod session;
mod timers;

#[cfg(test)]
mod testing;
