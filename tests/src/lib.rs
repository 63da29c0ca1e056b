//! What tests of several crates share. The tests themselves are in `tests/`, named after what must hold.
