//! What the tests of several crates share: labs and probes, a simulated world for the mesh core, and the official
//! libraries to compare with.

pub mod bench;
pub mod boots;
pub mod compare;
pub mod config_gen;
pub mod extension;
pub mod go;
pub mod members;
pub mod mutants;
pub mod netns;
pub mod oracle;
pub mod outgoing;
pub mod pairs;
pub mod peers;
pub mod probe;
pub mod random;
pub mod refusal;
pub mod shell;
pub mod sim;
pub mod tally;
pub mod yaml_model;
pub mod yaml_text;
