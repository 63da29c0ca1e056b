//! bench
pub mod drive;
