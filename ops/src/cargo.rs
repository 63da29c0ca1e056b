//! cargo, as somebody calls it from a shell at the root of the source tree.

use crate::cluster::home::source_root;
use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};

/// A command of cargo's, its words on standard error.
///
/// `cargo run` tells this program which package it is of. A cargo that inherits that hands it on to build scripts, and
/// those that look at it (ring's does) are then run anew, with all that stands on them, at every change between a cargo
/// from here and one from a shell.
pub fn cargo(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_a_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.args(arguments).current_dir(source_root()).stdin(Stdio::null()).stdout(std::io::stderr());
    command
}

/// Whether a variable says what package a program is of.
fn is_of_a_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
        .iter()
        .any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_package_we_are_of_is_not_handed_on_and_settings_are() {
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"] {
            assert!(is_of_a_package(name), "{name}");
        }
        for name in ["CARGO", "CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_BUILD_JOBS", "CARGO_NET_OFFLINE", "PATH"] {
            assert!(!is_of_a_package(name), "{name}");
        }
        let left: Vec<_> =
            cargo(["--version"]).get_envs().map(|(name, set)| (name.to_owned(), set.is_some())).collect();
        assert!(left.contains(&("CARGO_MANIFEST_DIR".into(), false)), "a test's own cargo sets it: {left:?}");
    }
}
