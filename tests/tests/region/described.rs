//! The description of the public interface against the node itself, by a fuzzer that knows nothing else.

use std::process::Stdio;
use std::time::Duration;

use super::buyers::Buyer;
use super::ground::*;

/// The fuzzer stops by itself before that.
const MOST: Duration = Duration::from_secs(110);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fuzzer_that_reads_the_description_finds_nothing_else() {
    let program = tokio::task::spawn_blocking(ops::local::schemathesis).await.unwrap();
    let program = program.unwrap_or_else(|error| panic!("{error}"));
    let mut stage = region(1_000).await;
    let buyer = Buyer::new(&stage).await;
    let folder = ops::local::testing::own_folder("fuzzer").unwrap();
    let mut command = tokio::process::Command::new(program);
    command
        .arg("run")
        .arg(format!("http://{}/openapi.json", stage.public()))
        .arg("--header")
        .arg(format!("Authorization: {}", bearer(&buyer.token)))
        // What the description does not say (an id that nobody signed is not found, a tier that is not there) is not
        // held against it; what it does say is.
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"])
        .args(["--checks", "response_schema_conformance,response_headers_conformance,unsupported_method"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "25"])
        // One worker: Python 3.11 up to 3.11.7 counts the depth of its parser in one place for all threads, and the fuzzer
        // then dies of it now and then (https://github.com/python/cpython/issues/106905).
        .args(["--workers", "1"])
        .args(["--seed", "1", "--request-timeout", "10", "--exclude-path-regex", "/events$", "--no-color"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(MOST, command.output()).await.expect("the fuzzer does not end").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    is_well(&mut stage).await;
}
