//! The papers at the root: links lead somewhere, and README, CI and the programs say the same.

use super::{no_breaches, root, texts};
use regex::Regex;
use std::path::{Component, Path, PathBuf};

#[test]
fn the_papers_are_there() {
    let papers =
        ["README.md", "ARCHITECTURE.md", "LICENSE", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "deny.toml"];
    let missing = papers.into_iter().filter(|paper| !root().join(paper).is_file());
    no_breaches("missing at the root:", &missing.map(str::to_owned).collect::<Vec<_>>());
}

/// GitHub's name for a heading: lower case, spaces to dashes, most marks dropped.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

/// `a/b/../c` as `a/c`.
fn tidy(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut tidy, part| {
        match part {
            Component::ParentDir => drop(tidy.pop()),
            Component::CurDir => {}
            part => tidy.push(part),
        }
        tidy
    })
}

#[test]
fn links_in_markdown_resolve() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("a valid pattern");
    let mut breaches = Vec::new();
    for (file, text) in texts(".md") {
        for (_, [target]) in link.captures_iter(&text).map(|capture| capture.extract()) {
            if target.starts_with("http://") || target.starts_with("https://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let folder = file.parent().unwrap_or(Path::new(""));
            let wanted = if path.is_empty() { file.clone() } else { tidy(&folder.join(path)) };
            let there = root().join(&wanted);
            let text = std::fs::read_to_string(&there).unwrap_or_default();
            if !there.exists() || (!heading.is_empty() && !anchors(&text).iter().any(|known| known == heading)) {
                breaches.push(format!("{}: {target}", file.display()));
            }
        }
    }
    no_breaches("links that lead nowhere:", &breaches);
}

#[test]
fn ci_runs_the_readme_s_test_command_and_nothing_else() {
    let script = std::fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    let commands: Vec<&str> = script
        .lines()
        .map(str::trim)
        .filter(|line| {
            !line.is_empty() && !line.starts_with('#') && !line.starts_with("set ") && !line.starts_with("cd ")
        })
        .collect();
    assert_eq!(commands, ["cargo ops test"], ".ci/run has something of its own");
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(readme.lines().any(|line| line.trim().starts_with("cargo ops test")), "README does not say how to test");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(root().join(".ci/run")).expect(".ci/run").permissions().mode();
    assert_ne!(mode & 0o111, 0, ".ci/run cannot be executed");
}

#[test]
fn every_command_in_the_readme_exists() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let named = Regex::new(r"cargo ops ([a-z]+)").expect("a valid pattern");
    let known = ops::cli::commands();
    let mut breaches = Vec::new();
    for (_, [command]) in named.captures_iter(&readme).map(|capture| capture.extract()) {
        if !known.iter().any(|name| name == command) {
            breaches.push(format!("cargo ops {command}"));
        }
    }
    no_breaches("README names commands that do not exist:", &breaches);
}

#[test]
fn the_readme_s_first_steps_are_what_up_prints() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(readme.contains(ops::up::hints::BUYING), "README.md and `cargo ops up` differ in how to buy a ticket");
}

#[test]
fn an_anchor_is_made_as_github_does() {
    assert_eq!(anchor("Code map: what is where"), "code-map-what-is-where");
    assert_eq!(tidy(Path::new("a/b/../c/./d")), Path::new("a/c/d"));
}
