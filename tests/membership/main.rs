//! Networks without a server, of real daemons in namespaces.

mod clocks;
mod disk;
mod full_size;
mod joining;
mod keys;
mod machines;
mod network;
mod outsiders;
mod owners;
mod pools;
mod removal;
mod tokens;
mod underlay;
mod versions;
