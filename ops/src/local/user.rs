//! As whom servers run: ourselves, or, since PostgreSQL refuses root, an unprivileged account when we are root.

use super::LocalError;
use nix::unistd::{Gid, Uid, User, chown, getegid, geteuid};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// The account that servers run under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUser {
    uid: Uid,
    gid: Gid,
    /// Whether we must change to it (we are root and it is not us).
    changes: bool,
}

impl ServerUser {
    /// Ourselves, or `postgres` (else `nobody`) when we are root.
    pub fn pick() -> Self {
        if !geteuid().is_root() {
            return Self { uid: geteuid(), gid: getegid(), changes: false };
        }
        let known = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
        let (uid, gid) = known.map_or((Uid::from_raw(65534), Gid::from_raw(65534)), |user| (user.uid, user.gid));
        Self { uid, gid, changes: true }
    }

    /// Whether servers run under another account than ours.
    pub fn changes(&self) -> bool {
        self.changes
    }

    /// The options of `setpriv` that change to this account; empty when that is us.
    pub(super) fn setpriv_options(&self) -> Vec<String> {
        if !self.changes {
            return Vec::new();
        }
        vec![format!("--reuid={}", self.uid), format!("--regid={}", self.gid), "--clear-groups".to_owned()]
    }

    /// Gives a file or folder to this account, readable by it alone.
    pub(super) fn own(&self, path: &Path, mode: u32) -> Result<(), LocalError> {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(LocalError::io(format!("setting the mode of {}", path.display())))?;
        if self.changes {
            chown(path, Some(self.uid), Some(self.gid))
                .map_err(|error| LocalError::io(format!("changing the owner of {}", path.display()))(error.into()))?;
        }
        Ok(())
    }

    /// Whether this account may pass through every folder above `path` (which must be absolute).
    pub(super) fn may_reach(&self, path: &Path) -> bool {
        path.ancestors().skip(1).all(|folder| {
            let Ok(facts) = std::fs::metadata(folder) else { return false };
            let bit = if facts.uid() == self.uid.as_raw() {
                0o100
            } else if facts.gid() == self.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            facts.mode() & bit != 0
        })
    }
}
