//! What the tests of several crates share: a simulated world for the mesh core.

pub mod netns;
pub mod probe;
pub mod sim;
//! What the tests of several crates share.
pub mod compare;
pub mod config_gen;
pub mod oracle;
pub mod pairs;
pub mod random;
pub mod refusal;
pub mod yaml_model;
pub mod yaml_text;
