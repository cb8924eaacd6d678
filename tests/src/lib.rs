//! What the tests of several crates share: a simulated world for the mesh core.

pub mod sim;
