//! How source files look, and what must not stand in any tracked file.

use super::{files, no_breaches, root, texts};
use regex::Regex;
use std::path::{Path, PathBuf};

/// Longer files are split.
const LINES_MAX: usize = 600;

/// The source files that are built for the product, with their texts.
fn product_sources() -> Vec<(PathBuf, String)> {
    let all = texts(".rs");
    let only_tests: Vec<PathBuf> = all.iter().flat_map(|(file, text)| test_modules(file, text)).collect();
    let among = |file: &Path| only_tests.iter().any(|test| file.starts_with(test) || file == test.with_extension("rs"));
    all.into_iter().filter(|(file, _)| !is_test(file) && !among(file)).collect()
}

/// Modules in files of their own that a file declares for tests only: their paths without `.rs`.
fn test_modules(file: &Path, text: &str) -> Vec<PathBuf> {
    let declared = Regex::new(r"#\[cfg\(test\)\]\s*(?:pub(?:\(\w+\))? )?mod (\w+);").expect("a valid pattern");
    let folder = match file.file_name().and_then(|name| name.to_str()) {
        Some("lib.rs" | "main.rs" | "mod.rs") => file.parent().unwrap_or(Path::new("")).to_path_buf(),
        _ => file.with_extension(""),
    };
    declared.captures_iter(text).map(|found| folder.join(&found[1])).collect()
}

fn is_test(file: &Path) -> bool {
    file.components().any(|part| ["tests", "benches", "fuzz"].iter().any(|name| part.as_os_str() == *name))
        || file.file_name().is_some_and(|name| name == "tests.rs")
}

/// A source file without its unit tests: up to the first `#[cfg(test)]` that opens a module.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

#[test]
fn files_are_short_enough_to_be_read() {
    let long = product_sources().into_iter();
    let long = long.map(|(file, text)| (file, text.lines().count())).filter(|(_, lines)| *lines > LINES_MAX);
    let breaches: Vec<String> = long.map(|(file, lines)| format!("{}: {lines} lines", file.display())).collect();
    no_breaches("split these files by what they are for:", &breaches);
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let without = texts(".rs").into_iter().filter(|(_, text)| {
        let first = text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
        !first.is_some_and(|line| line.starts_with("//! ") && line.len() > 12)
    });
    let breaches: Vec<String> = without.map(|(file, _)| file.display().to_string()).collect();
    no_breaches("begin these files with a `//!` line that says what they are for:", &breaches);
}

#[test]
fn every_crate_takes_the_workspace_s_lints_and_none_is_switched_off() {
    let mut breaches = Vec::new();
    for (file, text) in texts("Cargo.toml") {
        let inherits = text.contains("[lints]\nworkspace = true");
        if !inherits && !text.contains("[workspace]") {
            breaches.push(format!("{}: add [lints] workspace = true", file.display()));
        }
    }
    for (file, text) in product_sources() {
        for lint in ["clippy::unwrap_used", "unsafe_code", "clippy::todo", "missing_docs", "warnings"] {
            let switches =
                without_tests(&text).lines().filter(|line| line.contains("allow(") || line.contains("expect("));
            if switches.into_iter().any(|line| line.contains(lint) && line.trim_start().starts_with('#')) {
                breaches.push(format!("{}: switches off {lint}", file.display()));
            }
        }
    }
    no_breaches("lints hold everywhere outside tests:", &breaches);
}

#[test]
fn nothing_unwraps_or_is_left_undone_outside_tests() {
    let mut breaches = Vec::new();
    for (file, text) in product_sources() {
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in [".unwrap()", "todo!(", "unimplemented!(", "dbg!("] {
                if code.contains(word) {
                    breaches.push(format!("{}:{}: {word}", file.display(), number + 1));
                }
            }
        }
    }
    no_breaches("return an error, or say with expect(…) why it cannot happen:", &breaches);
}

#[test]
fn pure_crates_take_time_and_chance_as_arguments() {
    let mut breaches = Vec::new();
    for (file, text) in product_sources() {
        let pure = ["region-node/sale/src", "region-node/api/src", "quota-arbiter/protocol/src"];
        if !pure.iter().any(|folder| file.starts_with(folder)) {
            continue;
        }
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let impure = [
                "SystemTime::now",
                "Instant::now",
                "now_utc(",
                "rand::",
                "new_v4(",
                "now_v7(",
                "std::fs",
                "std::net",
                "std::env",
                "std::thread",
                "tokio",
            ];
            for word in impure.iter().filter(|word| code.contains(**word)) {
                breaches.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    no_breaches("these crates are pure; pass it as an argument:", &breaches);
}

#[test]
fn no_file_names_a_machine_or_a_way_of_working() {
    // Put together here, so that this file does not breach its own rule.
    let paths =
        [["/wo", "rk/"], ["/fa", "rm"], ["/ho", "me/"], ["/ro", "ot/"], ["/mn", "t/"]].map(|parts| parts.concat());
    let keys = [["BEGIN RSA PRIV", "ATE KEY"], ["BEGIN OPENSSH PRIV", "ATE KEY"], ["AKIA", "IOSF"]]
        .map(|parts| parts.concat());
    let mut breaches = Vec::new();
    for file in files() {
        // Not text: a picture, a database.
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            // A path begins after something that cannot be part of one: `net/work/` is none.
            let path = paths.iter().find(|path| {
                line.match_indices(path.as_str())
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}>*)~".contains(c)))
            });
            if let Some(found) = path.or(keys.iter().find(|key| line.contains(key.as_str()))) {
                breaches.push(format!("{}:{}: {found}", file.display(), number + 1));
            }
        }
    }
    no_breaches("a tracked file names a path of one machine, or a secret:", &breaches);
}
