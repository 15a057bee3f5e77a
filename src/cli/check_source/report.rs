//! The results of checks, one line each.

use std::fmt;

use keymeter_core::printable::Printable;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be; what came.
    Right(String),
    /// A gateway can live with it.
    Doubtful(String),
    /// Against the protocol.
    Wrong {
        /// What should have come.
        expected: String,
        /// What came.
        came: String,
    },
    /// Not checked; what it needs.
    Skipped(String),
}

impl Verdict {
    pub(super) fn wrong(expected: &str, came: impl Into<String>) -> Self {
        Self::Wrong { expected: expected.to_owned(), came: came.into() }
    }

    pub(super) fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong { .. })
    }
}

/// Prints what was found as it is found.
#[derive(Default)]
pub(super) struct Report {
    failed: usize,
}

impl Report {
    pub(super) fn line(&mut self, check: &str, verdict: &Verdict) {
        self.failed += usize::from(verdict.is_wrong());
        println!("{}", Line { check, verdict });
    }

    /// How many checks failed.
    pub(super) fn failed(&self) -> usize {
        self.failed
    }
}

/// A check and what it found.
struct Line<'line> {
    check: &'line str,
    verdict: &'line Verdict,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let check = self.check;
        match self.verdict {
            Verdict::Right(said) => write!(formatter, "ok   {check}: {}", Printable(said)),
            Verdict::Doubtful(said) => write!(formatter, "warn {check}: {}", Printable(said)),
            Verdict::Wrong { expected, came } => {
                write!(formatter, "FAIL {check}: expected {expected}; came {}", Printable(came))
            }
            Verdict::Skipped(needed) => write!(formatter, "skip {check}: {needed}"),
        }
    }
}
