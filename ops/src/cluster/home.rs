//! The state folder of a local cluster, `.boxoffice/` at the root of the working tree, and what lies where in it.

use anyhow::{Context as _, Result};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The state folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// The folder that was named, or `.boxoffice` at the root of the source tree.
    pub fn new(named: Option<PathBuf>) -> Result<Self> {
        let folder = named.unwrap_or_else(|| source_root().join(".boxoffice"));
        Ok(Self(std::path::absolute(&folder).with_context(|| format!("resolving {}", folder.display()))?))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it. Others may pass through it (servers run under another account when we are root), but not list it.
    pub fn make(&self) -> Result<()> {
        let make = |path: &Path, mode| {
            std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        };
        make(&self.0, 0o711).with_context(|| format!("making {}", self.0.display()))?;
        make(&self.secrets(), 0o700).with_context(|| format!("making {}", self.secrets().display()))
    }

    /// `cluster.json`.
    pub fn cluster_file(&self) -> PathBuf {
        self.0.join("cluster.json")
    }

    /// Generated secrets, readable by their owner only.
    pub fn secrets(&self) -> PathBuf {
        self.0.join("secrets")
    }

    /// A part's folder, such as `east/redis` or `sandbox`.
    pub fn part(&self, part: &str) -> PathBuf {
        self.0.join(part)
    }

    /// Held by `up` and `down` while they work; says so and waits when another one does.
    pub fn lock(&self) -> Result<File> {
        self.make()?;
        let path = self.0.join("lock");
        let file = File::options().create(true).append(true).open(&path)?;
        if file.try_lock().is_err() {
            crate::output::note("another `up` or `down` is at work; waiting for it");
            file.lock().with_context(|| format!("locking {}", path.display()))?;
        }
        Ok(file)
    }
}

/// The root of the source tree: where cargo says that this package lies now, else where it lay when it was built.
pub fn source_root() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or(package.clone(), Path::to_path_buf)
}
