//! Schemathesis, the fuzzer that reads an OpenAPI description: a Python program, installed once under `target/`.
//!
//! Must never be skipped in silence: where it cannot be installed, the error says what to do.

use super::LocalError;
use super::testing::root;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Pinned: another version finds other things, and a test should not turn red by itself.
const VERSION: &str = "4.32.5";

/// The program, installed into a virtual environment of its own if it is not there.
pub fn schemathesis() -> Result<PathBuf, LocalError> {
    let folder = root().join(format!("schemathesis-{VERSION}"));
    let program = folder.join("bin/schemathesis");
    if program.exists() {
        return Ok(program);
    }
    let lock = root().join("schemathesis.lock");
    std::fs::create_dir_all(root()).map_err(LocalError::io(format!("making {}", root().display())))?;
    let lock = std::fs::File::create(&lock).map_err(LocalError::io(format!("opening {}", lock.display())))?;
    lock.lock().map_err(LocalError::io("waiting for another installation of schemathesis"))?;
    if program.exists() {
        return Ok(program);
    }
    // Half of an installation is none: pip writes the program last.
    let _ = std::fs::remove_dir_all(&folder);
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder), &folder)?;
    let package = format!("schemathesis=={VERSION}");
    let pip = folder.join("bin/pip");
    run(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check", &package]), &folder)?;
    Ok(program)
}

fn run(command: &mut Command, folder: &Path) -> Result<(), LocalError> {
    let output = command.output();
    let said = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout),
        Err(error) => error.to_string(),
    };
    let _ = std::fs::remove_dir_all(folder);
    Err(LocalError::Python { version: VERSION, said })
}
