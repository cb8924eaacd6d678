//! The sans-IO core of rollouts.
//!
//! # Model
//!
//! A [`Plan`](plan::Plan) is a list of stages, each a list of tasks, one task for one node. A [`View`](view::View) is
//! what was seen of all nodes at one moment. A [`Journal`](journal::Journal) is what was begun and how it ended, and
//! outlives the process. From these three and the time, [`next`](next::next) tells the one thing that may be done now:
//! a call, a wait, or the end.
//!
//! Three questions are asked before anything that can take a control plane down:
//!
//! - [`guard`](guard::guard): would the others be a quorum, by the word of each of them, and by words that cannot be old?
//! - is any other control plane in the middle of something?
//! - is the lock still ours?
//!
//! And one after it: is this node [proven](proof) to be what the plan wanted?
//!
//! # Rules
//!
//! Nothing here reads a clock, opens a socket or a file. Time is a [`Duration`](std::time::Duration) since 1970 that
//! comes in. The order of things is a function of its arguments alone, which is what lets [`model`] try a
//! million ways in which the world can go wrong.

#![forbid(unsafe_code)]

pub mod action;
pub mod guard;
pub mod journal;
pub mod ladder;
pub mod model;
pub mod next;
pub mod plan;
pub mod proof;
pub mod view;

mod watch;
