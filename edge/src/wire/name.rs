//! Domain names as the zone keeps them: wire format, lower case, root label included.
//!
//! Names from queries are read by `query`; these are the ones from the configuration, so errors are for an operator.

use std::fmt;

/// A fully qualified domain name in wire format, lower case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<[u8]>);

/// Why a text is not a domain name that the edge can serve.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// A label is empty or has more than 63 octets.
    #[error("{0:?}: every label needs 1 to 63 characters")]
    Label(String),
    /// The whole name is over 255 octets.
    #[error("{0:?}: longer than 255 octets")]
    Long(String),
    /// A character that needs escaping, or a wildcard, neither of which this server serves.
    #[error("{0:?}: only letters, digits, '-' and '_' are served (no escapes, no wildcards)")]
    Character(String),
}

impl Name {
    /// Reads a name in presentation format; the final dot may be missing, the name is absolute either way.
    ///
    /// # Errors
    /// [`NameError`] when a label or the whole is too long, or has characters other than letters, digits, `-`, `_`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let plain = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(plain.len() + 2);
        if !plain.is_empty() {
            for label in plain.split('.') {
                let len = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n));
                wire.push(len.ok_or_else(|| NameError::Label(text.to_owned()))?);
                if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                    return Err(NameError::Character(text.to_owned()));
                }
                wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
            }
        }
        wire.push(0);
        if wire.len() > 255 { Err(NameError::Long(text.to_owned())) } else { Ok(Self(wire.into_boxed_slice())) }
    }

    /// The name in wire format, lower case, root label included.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// True when this name is `zone` or lies below it.
    pub fn is_under(&self, zone: &Name) -> bool {
        let mut rest = self.wire();
        loop {
            if rest == zone.wire() {
                return true;
            }
            match rest.first() {
                Some(&len) if len > 0 => rest = rest.get(usize::from(len) + 1..).unwrap_or_default(),
                _ => return false,
            }
        }
    }

    /// The name without its first label; the root has none.
    pub fn parent(&self) -> Option<Name> {
        let len = usize::from(*self.0.first()?);
        (len > 0).then(|| Name(self.0[len + 1..].into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.wire();
        if rest.len() == 1 {
            return f.write_str(".");
        }
        while let Some((&len, tail)) = rest.split_first() {
            if len == 0 {
                break;
            }
            let (label, after) = tail.split_at(usize::from(len).min(tail.len()));
            write!(f, "{}.", String::from_utf8_lossy(label))?;
            rest = after;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_names() {
        assert_eq!(Name::parse("Sale.Example").unwrap().wire(), b"\x04sale\x07example\x00");
        assert_eq!(Name::parse("sale.example.").unwrap().to_string(), "sale.example.");
        assert_eq!(Name::parse(".").unwrap().to_string(), ".");
        assert!(matches!(Name::parse("a..b"), Err(NameError::Label(_))));
        assert!(matches!(Name::parse("*.b"), Err(NameError::Character(_))));
        assert!(matches!(Name::parse(&"abcdefgh.".repeat(29)), Err(NameError::Long(_))));
    }

    #[test]
    fn under_means_at_a_label_boundary() {
        let zone = Name::parse("sale.example").unwrap();
        assert!(Name::parse("sale.example").unwrap().is_under(&zone));
        assert!(Name::parse("a.b.sale.example").unwrap().is_under(&zone));
        assert!(!Name::parse("wholesale.example").unwrap().is_under(&zone));
        assert!(!Name::parse("example").unwrap().is_under(&zone));
        assert_eq!(Name::parse("a.b").unwrap().parent(), Name::parse("b").ok());
        assert_eq!(Name::parse(".").unwrap().parent(), None);
    }
}
