//! The quota arbiter: an issuer of quota, replicated by raft over three or five nodes.
//!
//! Layers, each usable without the next: [`state`] is what is replicated and how one committed command changes it;
//! [`leader`] is what a leader does with what regions report; [`raft`] is a pure driver around raft-rs, which never
//! touches a disk, a socket or a clock; [`store`] makes durable what the driver asks for. A shell owns one of each and
//! moves bytes between them.

pub mod command;
pub mod leader;
pub mod limits;
pub mod raft;
pub mod state;
pub mod store;
