//! The command line: what there is, and which exit code it ends with.
//!
//! Exit codes everywhere: 0 done, 1 a check failed (or anything else went wrong), 2 wrong usage, 3 the cluster cannot be
//! reached. A subcommand is a module with `Args` and `run`; results go to standard output, see [`crate::output`].

mod failure;

pub use failure::Failure;

use crate::cluster::home::Home;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Starts, drives, measures, breaks and checks Boxoffice clusters.
#[derive(Debug, Parser)]
#[command(name = "cargo ops", bin_name = "cargo ops", version, about, max_term_width = 100)]
struct Cli {
    /// Print the result as JSON, and nothing else on standard output
    #[arg(long, global = true)]
    json: bool,
    /// State folder of the local cluster [default: .boxoffice in the source tree]
    #[arg(long, global = true, env = "BOXOFFICE_HOME", value_name = "FOLDER")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a local cluster, or what is missing of it
    Up(crate::up::Args),
    /// Stop the local cluster
    Down(crate::down::Args),
    /// Who is there, and what each says of itself
    Status,
    /// Formatting, lints, dependencies and all tests
    Test(crate::test::Args),
    /// Create, list, show or close concerts
    Concert(crate::concert::Args),
    /// Where a concert's tickets are among the regions, and orders that move them
    Quota(crate::quota::Args),
    /// The regions as the arbiters know them
    Region(crate::region::Args),
    /// Who the arbiters are, and changes of that
    Arbiter(crate::arbiter::Args),
    /// Send a crowd of buyers, then verify the books
    Load(crate::load::Options),
    /// Read every book and recompute everything
    Verify(crate::verify::command::Args),
    /// Measure, each figure beside its baseline from the same run
    Bench(crate::bench::Options),
    /// The quota arbiter under faults, in virtual time
    Simulate(crate::simulate::Args),
    /// Where users are sent, and why
    Edge(crate::edge::Args),
    /// Payment provider that moves no money
    Sandbox(crate::sandbox::command::Args),
    /// Check tickets
    Ticket(crate::ticket::Args),
}

/// What every subcommand is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// Whether the result is to be JSON.
    pub json: bool,
    /// The local cluster's state folder.
    pub home: Home,
}

/// The names of all commands.
pub fn commands() -> Vec<String> {
    <Cli as clap::CommandFactory>::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// Parses the command line, runs the command, and says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::output::note(format_args!("error: {error:#}"));
            ExitCode::from(Failure::exit_code(&error))
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // For every HTTPS client of every command; nobody chose before us.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let context = Context { json: cli.json, home: Home::new(cli.home)? };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(dispatch(&context, cli.command))
}

async fn dispatch(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => crate::up::run(context, args).await,
        Command::Down(args) => crate::down::run(context, args).await,
        Command::Status => crate::status::run(context).await,
        Command::Test(args) => crate::test::run(context, args).await,
        Command::Concert(args) => crate::concert::run(context, args).await,
        Command::Quota(args) => crate::quota::run(context, args).await,
        Command::Region(args) => crate::region::run(context, args).await,
        Command::Arbiter(args) => crate::arbiter::run(context, args).await,
        Command::Simulate(args) => crate::simulate::run(context, args).await,
        Command::Load(options) => crate::load::command::run(context, options).await,
        Command::Verify(args) => crate::verify::command::run(context, args).await,
        Command::Bench(options) => crate::bench::run(context, options).await,
        Command::Edge(args) => crate::edge::run(context, args).await,
        Command::Sandbox(args) => crate::sandbox::command::run(context, args).await,
        Command::Ticket(args) => crate::ticket::run(context, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
