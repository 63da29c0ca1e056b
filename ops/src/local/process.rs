//! Starting programs so that they can be found again (`up`), or so that they die with their starter (tests).
//!
//! A process is known by boot id, pid and start time together, so a pid that was used again is never mistaken for it,
//! and never signalled. One thread of its own spawns all children that must die with us: the kernel's parent-death
//! signal follows the *thread* that spawned, and threads of a runtime's pool come and go.

use super::LocalError;
use super::user::ServerUser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

/// How long a program lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is stopped, whatever becomes of its starter (a session of its own).
    Detached,
    /// The kernel ends it with this signal when the starter's process ends, however that ends.
    WithOwner(Signal),
}

/// What to start and how.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its environment, added to ours.
    pub env: Vec<(OsString, OsString)>,
    /// Its working folder.
    pub cwd: &'a Path,
    /// Where its output is appended.
    pub log: &'a Path,
    /// Where it is written down (see [`Record`]).
    pub record: &'a Path,
    /// As whom it runs; `None`: as ourselves, also when that is root.
    pub user: Option<&'a ServerUser>,
    /// How long it lives.
    pub lifetime: Lifetime,
}

/// A started process, as written down by itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    boot_id: String,
    pid: i32,
    start_ticks: u64,
}

/// A child that we started and can wait for.
#[derive(Debug)]
pub struct Started {
    /// Which process it is.
    pub record: Record,
    child: Child,
}

/// Starts a program; returns when it is written down.
pub fn launch(launch: &Launch<'_>) -> Result<Started, LocalError> {
    let name = launch.program.display();
    let log = File::options()
        .create(true)
        .append(true)
        .open(launch.log)
        .map_err(LocalError::io(format!("opening the log {}", launch.log.display())))?;
    let log_again = log.try_clone().map_err(LocalError::io("sharing the log"))?;
    let _ = std::fs::remove_file(launch.record);
    let mut command = Command::new(if launch.lifetime == Lifetime::Detached { "setsid" } else { "sh" });
    if launch.lifetime == Lifetime::Detached {
        command.arg("sh");
    }
    command.arg("-c").arg(include_str!("launch.sh")).arg("launch").arg(launch.record);
    command.args(setpriv(launch.user, launch.lifetime)).arg(launch.program).args(&launch.args);
    // It is ours; a node would take it for a key of its configuration.
    command.env_remove("BOXOFFICE_HOME");
    command.envs(launch.env.iter().map(|(key, value)| (key, value)));
    command.current_dir(launch.cwd).stdin(Stdio::null()).stdout(log).stderr(log_again);
    let child = spawn(command).map_err(LocalError::io(format!("starting {name}")))?;
    let mut started =
        Started { record: Record { boot_id: String::new(), pid: child.id().cast_signed(), start_ticks: 0 }, child };
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(record) = Record::read(launch.record) {
            started.record = record;
            return Ok(started);
        }
        if let Ok(Some(status)) = started.child.try_wait() {
            return Err(LocalError::Command {
                command: name.to_string(),
                status: status.to_string(),
                output: super::tail(launch.log),
            });
        }
        if Instant::now() > deadline {
            let _ = started.child.kill();
            return Err(LocalError::io(format!("starting {name}"))(std::io::ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a short command as the servers' account and returns what it printed, or an error that carries it.
pub(super) fn run(user: &ServerUser, cwd: &Path, program: &Path, args: &[&str]) -> Result<String, LocalError> {
    let mut words = setpriv(Some(user), Lifetime::WithOwner(Signal::SIGKILL));
    words.push(program.into());
    let mut command = Command::new(words.remove(0));
    command.args(words).args(args).current_dir(cwd).stdin(Stdio::null());
    let output = command.output().map_err(LocalError::io(format!("running {}", program.display())))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(text);
    }
    Err(LocalError::Command { command: program.display().to_string(), status: output.status.to_string(), output: text })
}

/// `setpriv` and its options: changes the account, then asks for the parent-death signal (which a change of account
/// would have cleared). Empty when there is nothing to change.
pub(super) fn setpriv(user: Option<&ServerUser>, lifetime: Lifetime) -> Vec<OsString> {
    let mut options: Vec<String> = user.map(ServerUser::setpriv_options).unwrap_or_default();
    if let Lifetime::WithOwner(signal) = lifetime {
        options.push("--pdeathsig".to_owned());
        options.push(signal.as_str().trim_start_matches("SIG").to_owned());
    }
    if options.is_empty() {
        return Vec::new();
    }
    ["setpriv".to_owned()].into_iter().chain(options).chain(["--".to_owned()]).map(Into::into).collect()
}

/// Spawns on the one thread that lives as long as this process.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Job = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn());
            }
        });
        jobs
    });
    let gone = || std::io::Error::other("the spawning thread is gone");
    let (answer, result) = mpsc::sync_channel(1);
    spawner.send((command, answer)).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

impl Record {
    /// Reads a process's own record; `None` when there is none (or it is not whole).
    pub fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let (boot_id, stat) = text.split_once('\n')?;
        let (pid, start_ticks, _) = parse_stat(stat)?;
        Some(Self { boot_id: boot_id.to_owned(), pid, start_ticks })
    }

    /// The process with this pid, as it is now.
    pub fn of_pid(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (pid, start_ticks, state) = parse_stat(&stat)?;
        (state != 'Z').then(|| Self { boot_id: boot_id(), pid, start_ticks })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether that very process still runs (a zombie does not).
    pub fn alive(&self) -> bool {
        Self::of_pid(self.pid).is_some_and(|now| now == *self)
    }

    /// Sends a signal, if that very process still runs; says whether it did.
    pub fn signal(&self, signal: Signal) -> bool {
        self.alive() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }

    /// Waits until it is gone; `false` when it is still there after `most`.
    pub fn wait_gone(&self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        while self.alive() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Asks it to end, waits up to `patience`, then ends it.
    pub fn stop(&self, ask: Signal, patience: Duration) {
        if self.signal(ask) && !self.wait_gone(patience) {
            self.signal(Signal::SIGKILL);
            self.wait_gone(Duration::from_secs(5));
        }
    }
}

impl Started {
    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end, waits up to `patience`, then ends it; leaves no zombie.
    pub fn stop(&mut self, ask: Signal, patience: Duration) {
        let deadline = Instant::now() + patience;
        if self.ended().is_none() && kill(Pid::from_raw(self.record.pid), ask).is_ok() {
            while self.ended().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Every process whose working folder is `folder`: a server's own processes, its children too.
pub(super) fn processes_in(folder: &Path) -> Vec<Record> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder))
        .filter_map(Record::of_pid)
        .collect()
}

/// The file beside a server's folder that holds its record.
pub fn record_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.process"))
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim_end().to_owned()
}

/// Pid, start time in clock ticks since boot, and state out of a line of `/proc/…/stat`. The second field is the
/// program's name in parentheses and may hold anything, so fields are counted from the last parenthesis.
fn parse_stat(line: &str) -> Option<(i32, u64, char)> {
    let pid = line.split(' ').next()?.parse().ok()?;
    let (_, rest) = line.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let start_ticks = fields.nth(18)?.trim_end().parse().ok()?;
    Some((pid, start_ticks, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path, lifetime: Lifetime) -> Started {
        launch(&Launch {
            program: Path::new("sleep"),
            args: vec!["60".into()],
            env: Vec::new(),
            cwd: folder,
            log: &folder.join("log"),
            record: &record_file(folder, "sleep"),
            user: None,
            lifetime,
        })
        .unwrap()
    }

    #[test]
    fn a_process_is_found_by_its_record_and_by_its_folder() {
        for lifetime in [Lifetime::Detached, Lifetime::WithOwner(Signal::SIGKILL)] {
            let folder = tempfile::tempdir().unwrap();
            let mut started = sleeper(folder.path(), lifetime);
            let record = Record::read(&record_file(folder.path(), "sleep")).unwrap();
            assert_eq!(record, started.record);
            assert!(record.alive());
            // What the launcher itself started in the folder may take a moment to be gone.
            let (here, deadline) = (folder.path().canonicalize().unwrap(), Instant::now() + Duration::from_secs(5));
            while processes_in(&here) != vec![record.clone()] && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(processes_in(&here), vec![record.clone()]);
            started.stop(Signal::SIGTERM, Duration::from_secs(5));
            assert!(!record.alive());
        }
    }

    #[test]
    fn a_pid_used_again_is_not_the_same_process() {
        let us = Record::of_pid(std::process::id().cast_signed()).unwrap();
        assert!(us.alive());
        let impostor = Record { start_ticks: us.start_ticks + 1, ..us.clone() };
        assert!(!impostor.alive() && !impostor.signal(Signal::SIGKILL));
        let before_reboot = Record { boot_id: "another".to_owned(), ..us };
        assert!(!before_reboot.alive());
    }

    #[test]
    fn a_program_s_name_with_parentheses_is_read_right() {
        let line = format!("77 (a) b) (c) S {} 4242 0", vec!["0"; 18].join(" "));
        assert_eq!(parse_stat(&line), Some((77, 4242, 'S')));
    }
}
