//! Secrets of a local cluster: generated at the first start, kept until `down --wipe`, readable by their owner only.
//!
//! Nothing has a default password, and no secret is ever printed or passed as an argument.

use super::home::Home;
use anyhow::{Context as _, Result};
use region_api::keys::KeyRing;
use region_api::ticket_code::TicketSigner;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Paths of the secrets that all parts share.
#[derive(Debug, Clone)]
pub struct SecretFiles {
    /// Key ring of ids and tokens; the same in every region, so that each accepts the others' sessions.
    pub ring: PathBuf,
    /// Signs tickets.
    pub ticket_key: PathBuf,
    /// Checks tickets; not secret.
    pub ticket_public_key: PathBuf,
    /// Operators' bearer token.
    pub operator_token: PathBuf,
    /// Bearer token of those who may look at a region's state and change nothing: the edges.
    pub reader_token: PathBuf,
    /// Operators' bearer token at the edges; another one, so that an edge holds nothing that acts on a region.
    pub edge_token: PathBuf,
    /// The door's bearer token.
    pub door_token: PathBuf,
    /// The seller's key for the sandbox's API.
    pub payment_key: PathBuf,
    /// Signs the sandbox's webhooks.
    pub webhook_secret: PathBuf,
    /// Bearer token of the sandbox's control interface.
    pub sandbox_control_token: PathBuf,
    /// Makes the edges' DNS cookies; the same on every edge.
    pub edge_cookies: PathBuf,
}

impl SecretFiles {
    /// Where they lie; generates those that are missing.
    pub fn ensure(home: &Home) -> Result<Self> {
        let at = |name: &str| home.secrets().join(name);
        let files = Self {
            ring: at("key-ring.json"),
            ticket_key: at("ticket-key.pem"),
            ticket_public_key: at("ticket-public-key.pem"),
            operator_token: at("operator-token"),
            reader_token: at("reader-token"),
            edge_token: at("edge-token"),
            door_token: at("door-token"),
            payment_key: at("payment-key"),
            webhook_secret: at("webhook-secret"),
            sandbox_control_token: at("sandbox-control-token"),
            edge_cookies: at("edge-cookies"),
        };
        if !files.ring.exists() {
            let secrets: [[u8; 32]; 4] = std::array::from_fn(|_| rand::random());
            write_once(&files.ring, &KeyRing::new(&secrets)?.to_json())?;
        }
        if !files.ticket_key.exists() {
            write_once(&files.ticket_key, &TicketSigner::from_seed(&rand::random()).to_pem())?;
        }
        if !files.ticket_public_key.exists() {
            let pem = std::fs::read_to_string(&files.ticket_key)?;
            write_once(&files.ticket_public_key, &TicketSigner::from_pem(&pem)?.verifier().to_pem())?;
        }
        if !files.edge_cookies.exists() {
            write_once(&files.edge_cookies, &format!("{:032x}\n", rand::random::<u128>()))?;
        }
        ensure(&files.operator_token, "")?;
        ensure(&files.reader_token, "")?;
        ensure(&files.edge_token, "")?;
        ensure(&files.door_token, "")?;
        ensure(&files.payment_key, "sk_sandbox_")?;
        ensure(&files.webhook_secret, "whsec_")?;
        ensure(&files.sandbox_control_token, "")?;
        Ok(files)
    }
}

/// A generated password of one server, such as `east-redis`; made when missing. Returns its file and the password.
pub fn server_password(home: &Home, server: &str) -> Result<(PathBuf, String)> {
    let file = home.secrets().join(format!("{server}-password"));
    ensure(&file, "")?;
    let password = super::read_secret(&file)?;
    Ok((file, password))
}

fn ensure(file: &Path, prefix: &str) -> Result<()> {
    if file.exists() {
        return Ok(());
    }
    write_once(file, &format!("{prefix}{}\n", crate::local::new_password()))
}

/// Writes a new file, whole or not at all: an `up` that is killed here leaves no half a key.
/// Writes a secret's file, whole or not at all, readable by its owner only.
pub fn write_once(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let write = || {
        options.open(&new)?.write_all(text.as_bytes())?;
        std::fs::rename(&new, file)
    };
    write().with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn secrets_are_generated_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Some(folder.path().join("home"))).unwrap();
        home.make().unwrap();
        let files = SecretFiles::ensure(&home).unwrap();
        let (password_file, password) = server_password(&home, "east-redis").unwrap();
        let ring = std::fs::read(&files.ring).unwrap();
        KeyRing::from_json(&ring).unwrap();
        SecretFiles::ensure(&home).unwrap();
        assert_eq!(std::fs::read(&files.ring).unwrap(), ring, "a second start keeps them");
        assert_eq!(server_password(&home, "east-redis").unwrap(), (password_file, password.clone()));
        assert!(password.len() >= 40);
        for entry in std::fs::read_dir(home.secrets()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
        let texts = [
            &files.operator_token,
            &files.reader_token,
            &files.edge_token,
            &files.door_token,
            &files.sandbox_control_token,
        ];
        let tokens: std::collections::BTreeSet<String> =
            texts.iter().map(|file| super::super::read_secret(file).unwrap()).collect();
        assert_eq!(tokens.len(), 5, "every token is another one");
    }
}
