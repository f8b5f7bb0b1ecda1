//! The `erolith` command: argument parsing, wiring and output.
#![allow(missing_docs)]

fn main() {}
