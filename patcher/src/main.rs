//! The operator's tool of the Ichor mesh.

fn main() {}
