//! `cargo ops …`.

fn main() {}
