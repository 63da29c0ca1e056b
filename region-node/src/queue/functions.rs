//! Names of the queue's functions and their text, as loaded into Redis. See `functions.lua`.

/// The library: loaded at every connect, and again when Redis says that a function is missing.
pub(super) const LIBRARY: &str = include_str!("functions.lua");

/// Every function carries the library's version, so that nodes of two versions can share a server.
macro_rules! function {
    ($name:literal) => {
        concat!("boxoffice_queue_1_", $name)
    };
}

pub(super) const JOIN: &str = function!("join");
pub(super) const STATE: &str = function!("state");
pub(super) const BEGIN: &str = function!("begin");
pub(super) const PEEK: &str = function!("peek");
pub(super) const TRIM: &str = function!("trim");
pub(super) const SETTLE: &str = function!("settle");
pub(super) const NOTE_BOOK: &str = function!("note_book");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_registered() {
        for name in [JOIN, STATE, BEGIN, PEEK, TRIM, SETTLE, NOTE_BOOK] {
            assert!(LIBRARY.contains(&format!("'{name}'")), "{name}");
        }
        assert!(LIBRARY.starts_with("#!lua name=boxoffice_queue_1\n"));
    }
}
