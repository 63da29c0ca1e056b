//! The quota arbiter: an issuer of quota, replicated by raft over three or five nodes.
//!
//! Layers, each usable without the next: [`state`] is what is replicated and how one committed command changes it;
//! [`leader`] is what a leader does with what regions report; [`raft`] is a pure driver around raft-rs, which never
//! touches a disk, a socket or a clock; [`store`] makes durable what the driver asks for. [`node`] owns one of each on a
//! thread of its own; [`transport`], [`tls`], [`serve`] and [`http`] connect it with the world, and [`server`] puts all
//! of it together.

pub mod backup;
pub mod command;
pub mod config;
pub mod failpoints;
pub mod http;
pub mod leader;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod people;
pub mod raft;
pub mod serve;
pub mod server;
pub mod state;
pub mod store;
pub mod tls;
pub mod transport;
