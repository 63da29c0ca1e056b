//! Who may come in at the people's port: bearer tokens, each with the name that the audit has for its holder. Only
//! digests of tokens are kept, and every one is compared in full, whichever fits.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use arbiter_api::Role;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use zeroize::Zeroizing;

use crate::{
    config::{Operators, Person},
    limits::OPERATORS_MAX,
};

/// Who the audit names for whoever holds the common token.
const COMMON: &str = "operator";

/// Holders of tokens.
pub struct People(Vec<(Role, [u8; 32])>);

impl People {
    /// As configured.
    ///
    /// # Errors
    /// When a name or digest is none, a name or token is there twice, or nobody could come in.
    pub fn load(operators: &Operators) -> anyhow::Result<Self> {
        let mut people: Vec<(Role, [u8; 32])> = Vec::new();
        if let Some(file) = &operators.token_file {
            people.push((Role::Operator(COMMON.to_owned()), digest(&read_token(file)?)));
        }
        for Person { name, token_sha256 } in &operators.people {
            let named = || format!("configuration key `operators.people`: {name:?}");
            // As in a certificate, so that one person has one name at both ports.
            let role = format!("boxoffice://operator/{name}").parse::<Role>().with_context(named)?;
            let token = hex(token_sha256).with_context(|| format!("{}: token_sha256 is no SHA-256", named()))?;
            ensure!(token != digest(b""), "{}: token_sha256 is that of an empty token", named());
            ensure!(!people.iter().any(|(known, _)| *known == role), "{}: is there twice", named());
            ensure!(!people.iter().any(|(_, known)| *known == token), "{}: somebody else has the same token", named());
            people.push((role, token));
        }
        ensure!(!people.is_empty(), "configuration key `operators`: neither a token_file nor people");
        ensure!(people.len() <= OPERATORS_MAX, "configuration key `operators.people`: more than {OPERATORS_MAX}");
        Ok(Self(people))
    }

    /// Who holds this token. Takes as long whoever it is, and for nobody.
    pub fn holder(&self, token: &[u8]) -> Option<&Role> {
        let given = digest(token);
        let mut found = 0_u64;
        for (at, (_, known)) in self.0.iter().enumerate() {
            found.conditional_assign(&(at as u64 + 1), known.ct_eq(&given));
        }
        self.0.get((found.checked_sub(1)?) as usize).map(|(role, _)| role)
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)
    };
    let bytes = pairs.iter().map(byte).collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty())?;
    bytes.try_into().ok()
}

/// A token in a file that not everybody may read.
fn read_token(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    use std::os::unix::fs::PermissionsExt as _;
    let named = || format!("configuration key `operators.token_file`: {}", path.display());
    let mode = std::fs::metadata(path).with_context(named)?.permissions().mode();
    if mode & 0o007 != 0 {
        bail!("{}: mode {:o} lets everybody read a secret; make it 0600", named(), mode & 0o777);
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).with_context(named)?);
    let token = text.trim_end_matches(['\r', '\n']);
    ensure!(!token.is_empty(), "{}: is empty", named());
    Ok(Zeroizing::new(token.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(name: &str, token: &str) -> Person {
        let token_sha256 = digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Person { name: name.to_owned(), token_sha256 }
    }

    fn load(people: Vec<Person>) -> anyhow::Result<People> {
        People::load(&Operators { token_file: None, people })
    }

    #[test]
    fn a_token_names_its_holder_and_no_other_does() {
        let people = load(vec![person("ann", "one"), person("bea", "two")]).unwrap();
        let name = |token: &str| people.holder(token.as_bytes()).map(ToString::to_string);
        assert_eq!(name("one").unwrap(), Role::Operator("ann".to_owned()).to_string());
        assert_eq!(name("two").unwrap(), Role::Operator("bea".to_owned()).to_string());
        for wrong in ["", "three", "on", "one ", "two\0"] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_could_be_mistaken_is_refused() {
        let short = Person { token_sha256: "ab".to_owned(), ..person("ann", "one") };
        let wrong = Person { token_sha256: "xy".repeat(32), ..person("ann", "one") };
        for (people, words) in [
            (vec![], "neither"),
            (vec![person("ann", "one"), person("ann", "two")], "twice"),
            (vec![person("ann", "one"), person("bea", "one")], "same token"),
            (vec![person("", "one")], "operators.people"),
            (vec![person("a/b", "one")], "operators.people"),
            (vec![short], "no SHA-256"),
            (vec![wrong], "no SHA-256"),
            (vec![person("ann", "")], "empty token"),
        ] {
            let refused = load(people).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(refused.contains(words), "{words}: {refused}");
        }
    }
}
