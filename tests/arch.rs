//! The rules of the architecture that a compiler does not check.
fn main() {}
