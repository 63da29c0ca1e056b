//! `ops ticket check`: is this ticket genuine? Offline, with nothing but the seller's public key.
//!
//! Says nothing about whether it is void or was used: only its region knows that.

use crate::cli::{Context, Failure};
use crate::output;
use anyhow::Result;
use region_api::{TicketCode, TicketVerifier};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `ops ticket`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Whether a ticket is genuine, offline
    Check(Check),
}

#[derive(Debug, clap::Args)]
struct Check {
    /// The text of the QR code, or a file that holds it
    #[arg(value_name = "CODE|FILE")]
    code: String,
    /// The seller's public key, Ed25519 in PEM; several after a change of keys
    #[arg(long = "key", required = true, value_name = "PEM")]
    keys: Vec<PathBuf>,
}

/// Prints what was found; a ticket that is not genuine is a failed check.
pub fn run(context: &Context, args: Args) -> Result<()> {
    let Command::Check(args) = args.command;
    let keys = args.keys.iter().map(|path| key(path)).collect::<Result<Vec<_>>>()?;
    let checked = TicketCode::verify(read(&args.code)?.trim(), &keys);
    if context.json {
        output::json(&match &checked {
            Ok(code) => json!({"valid": true, "ticket": code.ticket, "concert": code.concert, "tier": code.tier}),
            Err(error) => json!({"valid": false, "reason": error.to_string()}),
        })?;
    }
    let code = checked.map_err(|error| Failure::Check(format!("not genuine: {error}")))?;
    if !context.json {
        output::line(format_args!("genuine: ticket {}, concert {}, tier {}", code.ticket, code.concert, code.tier));
    }
    Ok(())
}

fn key(path: &Path) -> Result<TicketVerifier> {
    let wrong = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
    let pem = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    Ok(TicketVerifier::from_pem(&pem).map_err(|error| wrong(error.to_string()))?)
}

/// A file's text where there is one of that name; a code is never a path that exists.
fn read(code: &str) -> Result<String> {
    if Path::new(code).is_file() {
        return std::fs::read_to_string(code).map_err(|error| Failure::Usage(format!("{code}: {error}")).into());
    }
    Ok(code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use region_api::{ConcertName, TicketSigner, TierName};

    #[test]
    fn a_genuine_ticket_is_told_from_a_forged_one() {
        let folder = tempfile::tempdir().unwrap();
        let signer = TicketSigner::from_seed(&[7; 32]);
        let pem = folder.path().join("key.pem");
        std::fs::write(&pem, signer.verifier().to_pem()).unwrap();
        let ticket = TicketCode {
            ticket: uuid::Uuid::from_u128(5),
            concert: ConcertName::new("demo").unwrap(),
            tier: TierName::new("A").unwrap(),
            holder: [1; 16],
        };
        let check = |code: &str, key: &Path| {
            let args = Check { code: code.to_owned(), keys: vec![key.to_owned()] };
            let home = crate::cluster::home::Home::new(Some(folder.path().to_owned())).unwrap();
            let ended = run(&Context { json: false, home }, Args { command: Command::Check(args) });
            ended.map_err(|error| (Failure::exit_code(&error), error.to_string()))
        };
        let good = ticket.sign(&signer);
        let file = folder.path().join("code");
        std::fs::write(&file, format!("{good}\n")).unwrap();
        assert_eq!(check(&good, &pem), Ok(()));
        assert_eq!(check(file.to_str().unwrap(), &pem), Ok(()));
        let forged = check(&ticket.sign(&TicketSigner::from_seed(&[8; 32])), &pem);
        assert_eq!(forged, Err((1, "not genuine: ticket code: forged".to_owned())));
        assert_eq!(check("rubbish", &pem).unwrap_err().0, 1);
        assert_eq!(check(&good, &folder.path().join("none")).unwrap_err().0, 2);
    }
}
