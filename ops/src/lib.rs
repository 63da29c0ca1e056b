//! The command line of Boxoffice and everything that starts, drives, measures, breaks or checks a cluster.
//!
//! Stands on the pure crates and on the public interfaces of running servers; never on a server's inside.

pub mod arbiter;
pub mod ask;
pub mod bench;
pub mod cargo;
pub mod cli;
pub mod cluster;
pub mod concert;
pub mod dns;
pub mod down;
pub mod edge;
pub mod load;
pub mod local;
pub mod output;
pub mod quota;
pub mod region;
pub mod sandbox;
pub mod simulate;
pub mod stage;
pub mod status;
pub mod test;
pub mod ticket;
pub mod up;
pub mod verify;
