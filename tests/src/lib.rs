//! What the tests of several crates share: a simulated world for the mesh core.

pub mod netns;
pub mod probe;
pub mod sim;
//! What the tests of several crates share.
pub mod oracle;
pub mod random;
pub mod yaml_text;
