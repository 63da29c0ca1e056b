//! Ends of a command that scripts may rely on.

/// Why a command ended with something else than 0. Anything that is not one of these is exit code 1, like a check.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A check failed: tests, books, a drill. Exit code 1.
    #[error("{0}")]
    Check(String),
    /// Called wrongly, in a way that only the command itself can see. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// No cluster, or it does not answer. Exit code 3.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    /// The exit code of an error, wherever in its chain the failure is.
    pub fn exit_code(error: &anyhow::Error) -> u8 {
        match error.chain().find_map(|cause| cause.downcast_ref::<Failure>()) {
            Some(Failure::Usage(_)) => 2,
            Some(Failure::Unreachable(_)) => 3,
            Some(Failure::Check(_)) | None => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn exit_codes_are_the_documented_ones_also_under_context() {
        let codes = [
            (anyhow::Error::from(Failure::Check("c".into())), 1),
            (Failure::Usage("u".into()).into(), 2),
            (Failure::Unreachable("r".into()).into(), 3),
            (anyhow::anyhow!("anything else"), 1),
        ];
        for (error, code) in codes {
            let wrapped = Err::<(), _>(error).context("while doing something").unwrap_err();
            assert_eq!(Failure::exit_code(&wrapped), code);
        }
    }
}
