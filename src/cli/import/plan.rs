//! What is to be taken of another gateway, row by row, before anything is written.

use std::{collections::BTreeMap, fmt};

use keymeter_config::keyfile::{Holder, Setting};
use keymeter_core::{key::KeyHash, money::Usd, printable::Printable};

/// What is to be taken.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) keys: Vec<PlannedKey>,
    pub(super) holders: Vec<PlannedHolder>,
    /// What wallets have, of those who have any.
    pub(super) balances: BTreeMap<Wallet, Usd>,
    /// Rows of which nothing is written.
    pub(super) others: Vec<Row>,
}

/// Whose wallet it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wallet {
    /// A user's.
    Owner(String),
    /// A team's.
    Team(String),
}

/// What of a budget is left that never begins anew, of which a file can keep nothing.
pub(super) fn balance_note(left: Usd) -> String {
    format!(
        "${left} is left of its budget: that is a wallet's balance, which a control plane keeps and a file does not"
    )
}

/// A key to be made.
pub(super) struct PlannedKey {
    pub(super) row: Row,
    pub(super) hash: KeyHash,
    pub(super) settings: Vec<Setting>,
    /// What is left of a budget of its own that never begins anew.
    pub(super) left: Option<Usd>,
}

/// A team or an owner with limits.
pub(super) struct PlannedHolder {
    pub(super) row: Row,
    pub(super) holder: Holder,
    pub(super) limits: Vec<Setting>,
    /// The same as of a key.
    pub(super) left: Option<Usd>,
}

/// A row of a table, and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    table: &'static str,
    number: usize,
    called: String,
    /// Whether it is a key's.
    pub(super) is_of_key: bool,
    outcome: &'static str,
    notes: Vec<String>,
}

impl Row {
    pub(super) const TAKEN: &'static str = "taken";
    pub(super) const HERE: &'static str = "here already";
    pub(super) const NOT_TAKEN: &'static str = "not taken";

    /// A row of which nothing has become yet.
    pub(super) fn new(table: &'static str, number: usize, called: &str, is_of_key: bool) -> Self {
        Self { table, number, called: called.to_owned(), is_of_key, outcome: Self::TAKEN, notes: Vec::new() }
    }

    /// Tells something of it.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The same, of which nothing is taken.
    pub(super) fn not_taken(mut self, why: impl Into<String>) -> Self {
        self.outcome = Self::NOT_TAKEN;
        self.notes = vec![why.into()];
        self
    }

    /// The same, which was taken before.
    pub(super) fn here(mut self) -> Self {
        self.outcome = Self::HERE;
        self.notes.clear();
        self
    }

    pub(super) fn outcome(&self) -> &'static str {
        self.outcome
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }
}

/// As in `tokens 7: taken: prod app; no balance is taken: …`.
impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {}: {}", self.table, self.number, self.outcome, Printable(&self.called))?;
        self.notes.iter().try_for_each(|note| write!(formatter, "; {}", Printable(note)))
    }
}
