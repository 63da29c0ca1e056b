//! Folders that servers own, also where the folder above is closed to the account that they run under.
//!
//! As root, servers run under another account, which cannot pass through a closed folder such as `/root`. Their data
//! then lies under `/var/lib/boxoffice/`, and the place that was asked for is a link to it.

use super::LocalError;
use super::user::ServerUser;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

const ELSEWHERE: &str = "/var/lib/boxoffice";

/// Makes the folder `wanted` for `user` alone (mode 0700) and returns where it really lies. An existing one is kept.
pub fn make_place(wanted: &Path, user: &ServerUser) -> Result<PathBuf, LocalError> {
    let failed = |what: &str| LocalError::io(format!("{what} {}", wanted.display()));
    if let Ok(target) = std::fs::read_link(wanted) {
        std::fs::create_dir_all(&target).map_err(failed("making the folder behind"))?;
        user.own(&target, 0o700)?;
        return Ok(target);
    }
    let above = wanted.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(above).map_err(failed("making the folder above"))?;
    let above = above.canonicalize().map_err(failed("resolving the folder above"))?;
    let here = above.join(wanted.file_name().unwrap_or_default());
    if here.is_dir() || user.may_reach(&here) {
        std::fs::create_dir_all(&here).map_err(failed("making"))?;
        user.own(&here, 0o700)?;
        return Ok(here);
    }
    let there = elsewhere(&here);
    std::fs::create_dir_all(&there).map_err(LocalError::io(format!("making {}", there.display())))?;
    user.own(&there, 0o700)?;
    std::os::unix::fs::symlink(&there, &here).map_err(failed("linking"))?;
    Ok(there)
}

/// Removes a folder made by [`make_place`], and what lies behind its link.
pub fn remove_place(wanted: &Path) -> Result<(), LocalError> {
    let failed = |what: &str| LocalError::io(format!("{what} {}", wanted.display()));
    if let Ok(target) = std::fs::read_link(wanted) {
        if target.starts_with(ELSEWHERE) && target.exists() {
            std::fs::remove_dir_all(&target).map_err(failed("removing what lies behind"))?;
        }
        return std::fs::remove_file(wanted).map_err(failed("removing the link"));
    }
    match std::fs::remove_dir_all(wanted) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("removing")(error)),
        _ => Ok(()),
    }
}

/// A folder that goes away with this value, and what lies behind its link.
#[derive(Debug)]
pub struct OwnFolder(pub(super) PathBuf);

impl OwnFolder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        if let Err(error) = remove_place(&self.0) {
            tracing::warn!(%error, "a temporary folder stays");
        }
    }
}

fn elsewhere(here: &Path) -> PathBuf {
    let digest = Sha256::digest(here.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Path::new(ELSEWHERE).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_place_under_a_closed_folder_is_reachable_and_removed_with_what_lies_behind_it() {
        let user = ServerUser::pick();
        let above = tempfile::tempdir().unwrap();
        std::fs::set_permissions(above.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let wanted = above.path().join("postgres");
        let place = make_place(&wanted, &user).unwrap();
        assert_eq!(make_place(&wanted, &user).unwrap(), place, "the second call finds the first one's place");
        assert_eq!(place.starts_with(ELSEWHERE), user.changes());
        assert!(user.may_reach(&place));
        std::fs::write(wanted.join("file"), "kept").unwrap();
        assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "kept");
        remove_place(&wanted).unwrap();
        assert!(!place.exists() && std::fs::symlink_metadata(&wanted).is_err());
        remove_place(&wanted).unwrap();
    }
}
