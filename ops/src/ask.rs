//! Before something dangerous: say what will happen, and ask.
//!
//! Must never take silence for consent: without a terminal to ask at, only `--yes` will do.

use crate::cli::Failure;
use crate::output;
use anyhow::{Context as _, Result};
use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// For scripts: consent given beforehand.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Consent {
    /// Do it without asking
    #[arg(long)]
    yes: bool,
}

impl Consent {
    /// Says what will happen and asks for `word`. An error means that nothing was done.
    pub fn ask(self, what_will_happen: &str, word: &str) -> Result<()> {
        output::note(what_will_happen);
        if self.yes {
            return Ok(());
        }
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            let why = "nothing was done: there is no terminal to ask at; add --yes if this is what you want";
            return Err(Failure::Usage(why.to_owned()).into());
        }
        let _ = write!(std::io::stderr(), "To go on, type {word:?}: ");
        let mut line = String::new();
        stdin.lock().read_line(&mut line).context("reading your answer")?;
        if line.trim() == word {
            return Ok(());
        }
        Err(Failure::Usage("nothing was done".to_owned()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_and_without_yes_nothing_is_done() {
        // Tests have no terminal on standard input.
        if std::io::stdin().is_terminal() {
            return;
        }
        let refused = Consent { yes: false }.ask("east gives everything back", "east").unwrap_err();
        assert_eq!(Failure::exit_code(&refused), 2);
        assert!(Consent { yes: true }.ask("east gives everything back", "east").is_ok());
    }
}
