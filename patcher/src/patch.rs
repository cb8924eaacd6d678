//! Patches of Talos machine configs.
//!
//! Talos has no patch call: a patch is applied on the operator's side and the whole config sent back. User
//! patches must therefore give exactly what the official library of the node's line gives, refusals included.

mod apply;
pub mod codec;
pub mod conflict;
mod decode;
mod delete;
pub mod diff;
mod document;
mod emit;
mod encode;
pub mod ensure;
mod error;
mod json6902;
mod line;
mod load;
mod merge;
pub mod schema;
mod secret;
mod splice;
mod tree;
pub mod url;
pub mod value;

pub use apply::apply;
pub use error::{Class, PatchError, Refused};
pub use json6902::JsonPatch;
pub use line::TalosLine;
pub use load::{Patch, PatchArg, Strategic, load};
