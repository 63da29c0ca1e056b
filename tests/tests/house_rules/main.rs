//! Rules of the house that a compiler does not check. Each says what to do about a breach.

mod dependencies;
mod papers;
mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the source tree.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies below the root").to_path_buf()
}

/// Every file of ours below the root, relative to it: what git knows or would add, or, outside a clone, what is there.
fn files() -> Vec<PathBuf> {
    let git = Command::new("git")
        .args(["-C", &root().display().to_string(), "ls-files", "--cached", "--others", "--exclude-standard"])
        .output();
    let listed = git.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let mut files: Vec<PathBuf> = match listed {
        Some(names) => String::from_utf8(names).expect("file names are UTF-8").lines().map(PathBuf::from).collect(),
        None => walk(&root(), Path::new("")),
    };
    files.retain(|file| root().join(file).is_file());
    assert!(files.len() > 50, "only {} files were found", files.len());
    files
}

fn walk(above: &Path, below: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(above.join(below)).expect("a folder can be read").flatten();
    let wanted =
        entries.filter(|entry| ![".git", "target", ".boxoffice"].iter().any(|name| entry.file_name() == *name));
    wanted
        .flat_map(|entry| {
            let path = below.join(entry.file_name());
            if entry.path().is_dir() { walk(above, &path) } else { vec![path] }
        })
        .collect()
}

/// The files whose names end so, with their texts.
fn texts(ending: &str) -> Vec<(PathBuf, String)> {
    let wanted = files().into_iter().filter(|file| file.to_string_lossy().ends_with(ending));
    wanted.map(|file| (file.clone(), std::fs::read_to_string(root().join(&file)).expect("a text file"))).collect()
}

/// Fails with all breaches at once.
fn no_breaches(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}\n{}", breaches.join("\n"));
}
