//! Running the tests without nextest: as many processes as cores, one test each, with a time limit.
//!
//! One process per test is what nextest does too, and what tests here rely on: fail points and exit-on-crash are
//! process-wide.

use super::Counts;
use crate::cargo::cargo;
use crate::output;
use anyhow::{Context as _, Result, anyhow};
use indicatif::ProgressBar;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A test that takes longer is ended and has failed; the same as in `.config/nextest.toml`.
const TIME_MAX: Duration = Duration::from_secs(300);
/// A program of which one test runs at a time, each with a cluster of its own; the same as in `.config/nextest.toml`. A
/// test's time is not to be spent on waiting for its turn.
const ALONE: &str = "cluster-";

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// One test: its program, the folder of its package, its name.
#[derive(Debug, Clone)]
struct Test {
    program: PathBuf,
    folder: PathBuf,
    name: String,
}

/// Builds and runs all tests; `None` when they do not build.
pub(super) fn run(filters: &[String]) -> Result<Option<Counts>> {
    let arguments = ["test", "--workspace", "--lib", "--bins", "--tests", "--release", "--no-run", "--quiet"];
    output::note(format_args!("== cargo {}, then every test as a process of its own", arguments.join(" ")));
    let mut command = cargo(arguments);
    let built = command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped()).stderr(Stdio::inherit());
    let built = built.output().context("running cargo test")?;
    if !built.status.success() {
        return Ok(None);
    }
    let mut tests = Vec::new();
    for (program, folder) in programs(&built.stdout) {
        tests.extend(list(&program, &folder)?);
    }
    tests.retain(|test| filters.is_empty() || filters.iter().any(|filter| test.name.contains(filter.as_str())));
    Ok(Some(run_all(tests)))
}

fn programs(messages: &[u8]) -> Vec<(PathBuf, PathBuf)> {
    let lines = messages.split(|byte| *byte == b'\n');
    let messages = lines.filter_map(|line| serde_json::from_slice::<Message>(line).ok());
    messages
        .filter(|message| message.reason == "compiler-artifact" && message.profile.as_ref().is_some_and(|p| p.test))
        .filter_map(|message| Some((message.executable?, message.manifest_path?.parent()?.to_path_buf())))
        .collect()
}

/// All tests of one program that are not ignored.
fn list(program: &Path, folder: &Path) -> Result<Vec<Test>> {
    let names = |extra: &[&str]| -> Result<Vec<String>> {
        let mut command = Command::new(program);
        command.args(["--list", "--format", "terse"]).args(extra).current_dir(folder);
        let output = command.output().with_context(|| format!("listing the tests of {}", program.display()))?;
        if !output.status.success() {
            return Err(anyhow!("{} does not list its tests: {}", program.display(), output.status));
        }
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    };
    let ignored = names(&["--ignored"])?;
    let wanted = names(&[])?.into_iter().filter(|name| !ignored.contains(name));
    Ok(wanted.map(|name| Test { program: program.to_owned(), folder: folder.to_owned(), name }).collect())
}

fn run_all(tests: Vec<Test>) -> Counts {
    let bar = ProgressBar::new(tests.len() as u64);
    let (queue, counts) = (Mutex::new(tests.into_iter()), Mutex::new(Counts::default()));
    let alone = Mutex::new(());
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(test) = next else { return };
                    let turn = program_name(&test).starts_with(ALONE).then(|| alone.lock());
                    let result = run_one(&test);
                    drop(turn);
                    bar.inc(1);
                    let Ok(mut counts) = counts.lock() else { return };
                    match result {
                        Ok(()) => counts.passed += 1,
                        Err(why) => {
                            counts.failed += 1;
                            bar.suspend(|| {
                                output::note(format_args!("FAIL {} {}\n{why}", program_name(&test), test.name))
                            });
                        }
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    counts.into_inner().unwrap_or_default()
}

/// Runs one test in a process group of its own; on failure returns what it printed.
fn run_one(test: &Test) -> Result<(), String> {
    let mut command = Command::new(&test.program);
    command
        .args(["--exact", &test.name, "--nocapture"])
        .current_dir(&test.folder)
        .env("CARGO_MANIFEST_DIR", &test.folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("could not be started: {error}"))?;
    let group = Pid::from_raw(child.id().cast_signed());
    let readers: Vec<_> = [
        child.stdout.take().map(|mut out| std::thread::spawn(move || read_all(&mut out))),
        child.stderr.take().map(|mut err| std::thread::spawn(move || read_all(&mut err))),
    ]
    .into_iter()
    .flatten()
    .collect();
    let begun = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if begun.elapsed() < TIME_MAX => std::thread::sleep(Duration::from_millis(5)),
            _ => break None,
        }
    };
    // Whatever it started in its group ends with it; otherwise its output would stay open too.
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
    let printed: String = readers.into_iter().filter_map(|reader| reader.join().ok()).collect();
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{printed}({status})")),
        None => Err(format!("{printed}(ended after {} s)", TIME_MAX.as_secs())),
    }
}

fn read_all(from: &mut impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.by_ref().read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn program_name(test: &Test) -> String {
    test.program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for a test program: lists three tests, one of them ignored; one of them prints and fails.
    const PROGRAM: &str = r#"#!/bin/sh
case "$*" in
"--list --format terse") printf 'good: test\nbad: test\nslow: test\n\n3 tests, 0 benchmarks\n' ;;
"--list --format terse --ignored") printf 'slow: test\n' ;;
"--exact good --nocapture") exit 0 ;;
"--exact bad --nocapture") echo 'it broke'; exit 101 ;;
*) exit 9 ;;
esac
"#;

    #[test]
    fn tests_are_listed_without_ignored_ones_and_a_failure_shows_what_was_printed() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, PROGRAM).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let tests = list(&program, folder.path()).unwrap();
        assert_eq!(tests.iter().map(|test| test.name.as_str()).collect::<Vec<_>>(), ["good", "bad"]);
        run_one(&tests[0]).unwrap();
        assert_eq!(run_one(&tests[1]).unwrap_err(), "it broke\n(exit status: 101)");
        assert_eq!(run_all(tests), Counts { passed: 1, failed: 1 });
    }

    #[test]
    fn only_test_programs_are_taken_from_cargo_s_messages() {
        let messages = br#"{"reason":"compiler-artifact","executable":"/x/deps/a","manifest_path":"/x/a/Cargo.toml","profile":{"test":true}}
{"reason":"compiler-artifact","executable":"/x/ops","manifest_path":"/x/ops/Cargo.toml","profile":{"test":false}}
{"reason":"build-finished","success":true}"#;
        assert_eq!(programs(messages), [("/x/deps/a".into(), "/x/a".into())]);
    }
}
