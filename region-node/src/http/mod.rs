//! The region's HTTP interfaces, public and admin.

mod serve;

pub use serve::{ServeConfig, serve};
