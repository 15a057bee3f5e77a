//! The keys file, edited in place as text: comments, order, quoting and blank lines of everything that a change is
//! not about stay as people wrote them. Each result is read again and compared with what was wanted, so that an
//! edit that would do anything else is refused instead of written.

mod edit;
mod error;
mod fields;
mod file;
mod model;
mod render;

use ipnet::IpNet;
use jiff::Timestamp;
use keymeter_core::{
    glob::Glob,
    key::{KeyHash, KeyId, KeyName, Priority, Retiring},
    limit::{Limit, LimitMode, ModelLimit, Quota, QuotaName},
};
use serde_yaml::Value;

use self::fields::Path;
use crate::yaml::Marks;
pub use error::EditError;
pub use file::{FileError, LockedFile};

/// One change to a keys file.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Adds a key behind the others, and the list of keys where there is none.
    Create {
        /// The new key's; no other may have it.
        id: KeyId,
        /// What else is written of it.
        settings: Vec<Setting>,
    },
    /// Gives a field of a key its value, whether it had one before or not.
    Set {
        /// The key's.
        id: KeyId,
        /// The field and its new value.
        setting: Setting,
    },
    /// Takes a field away from a key; one that is not there stays so.
    Clear {
        /// The key's.
        id: KeyId,
        /// Which field.
        field: Field,
    },
    /// Adds a replaced secret, which goes on working for a while.
    Retire {
        /// The key's.
        id: KeyId,
        /// The replaced secret's hash and its end.
        old: Retiring,
    },
    /// Takes the replaced secrets away that no longer work.
    DropEnded {
        /// The key's.
        id: KeyId,
        /// What has ended by this time is taken away.
        now: Timestamp,
    },
    /// Takes a key away, with the comments between its lines; those above it stay.
    Delete {
        /// The key's.
        id: KeyId,
    },
    /// Gives a limit of a team or an owner its value. Where the file does not list them yet, it does so then.
    SetLimit {
        /// Whose it is.
        of: Holder,
        /// The limit of a minute, of requests at once, or the quota.
        limit: Setting,
    },
    /// Takes limits of a team or an owner away, and the two from their list where they have no others; what is not there
    /// stays so.
    ClearLimit {
        /// Whose they are.
        of: Holder,
        /// Which.
        field: Field,
    },
}

/// Somebody whose limits the file lists beside the keys, for all keys together that name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A team of that name.
    Team(String),
    /// An owner of that name.
    Owner(String),
}

/// A field of a key and the value that is written there.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// What people call the key.
    Name(KeyName),
    /// Of its secret.
    Hash(KeyHash),
    /// Whether it may be used.
    Enabled(bool),
    /// The user or team that it belongs to.
    Owner(String),
    /// The team that uses it.
    Team(String),
    /// The models that it may call.
    Models(Vec<Glob>),
    /// Requests in any 60 seconds.
    RequestsPerMinute(Limit),
    /// Tokens in any 60 seconds.
    TokensPerMinute(Limit),
    /// Requests running at once.
    ConcurrentRequests(Limit),
    /// Whether limits refuse.
    Mode(LimitMode),
    /// What may be used over a longer time, in place of the quota of the same name. What that one says of use elsewhere stays,
    /// unless this one says something.
    Quota(Quota),
    /// What may be used of some models; of a quota as of one of the key.
    ModelLimit(ModelLimit),
    /// The networks that the key may be used from.
    AllowFrom(Vec<IpNet>),
    /// Which of the requests that wait goes first.
    Priority(Priority),
    /// When it stops working.
    ExpiresAt(Timestamp),
}

/// A field of a key that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The user or team that the key belongs to.
    Owner,
    /// The team that uses it.
    Team,
    /// The models that it may call: without it, all.
    Models,
    /// All of its own limits.
    Limits,
    /// Requests in any 60 seconds.
    RequestsPerMinute,
    /// Tokens in any 60 seconds.
    TokensPerMinute,
    /// Requests running at once.
    ConcurrentRequests,
    /// Whether limits refuse.
    Mode,
    /// One quota.
    Quota(QuotaName),
    /// All quotas.
    Quotas,
    /// All limits of models.
    ModelLimits,
    /// The networks that the key may be used from: without it, all.
    AllowFrom,
    /// Which of the requests that wait goes first.
    Priority,
    /// When it stops working.
    ExpiresAt,
    /// Replaced secrets that still work.
    Retiring,
}

/// The text of a keys file after `changes`, one after the other.
///
/// # Errors
/// The first change that cannot be made, or not without touching something else.
pub fn apply(text: &str, changes: &[Edit]) -> Result<String, EditError> {
    changes.iter().try_fold(text.to_owned(), |text, change| {
        let (mut text, mut again) = apply_once(&text, change)?;
        while again {
            (text, again) = apply_once(&text, change)?;
        }
        Ok(text)
    })
}

/// The text of a keys file with further keys, and with the limits of teams and owners that it does not list yet: each list in
/// one go, however many there are.
///
/// # Errors
/// When they cannot be added without touching something else.
pub fn append(
    text: &str,
    keys: &[(KeyId, Vec<Setting>)],
    holders: &[(Holder, Vec<Setting>)],
) -> Result<String, EditError> {
    let entries = keys.iter().map(|(id, settings)| model::entry(KEYS, id.as_str(), settings));
    let mut text = append_to(text, KEYS, entries.collect::<Result<_, _>>()?)?;
    for list in ["teams", "owners"] {
        let of_list = holders.iter().filter(|(holder, _)| holder.list() == list);
        let entries = of_list.map(|(holder, settings)| model::entry(list, holder.id(), settings));
        text = append_to(&text, list, entries.collect::<Result<_, _>>()?)?;
    }
    Ok(text)
}

/// The first of them is added as any other, and gives the rest its form.
fn append_to(text: &str, list: &'static str, mut entries: Vec<Value>) -> Result<String, EditError> {
    if entries.is_empty() {
        return Ok(text.to_owned());
    }
    let rest = entries.split_off(1);
    let steps = entries.into_iter().map(|entry| PathStep::Create { list, entry });
    let rest = (!rest.is_empty()).then_some(PathStep::Append { list, entries: rest });
    steps.chain(rest).try_fold(text.to_owned(), |text, step| {
        let (marks, before) = (Marks::parse(&text)?, model::read(&text)?);
        make(&text, &marks, before, &step)
    })
}

/// Whether the file gives the secret of a key, or the variable that holds it, and not the hash alone.
///
/// # Errors
/// When the text cannot be read, or not exactly one key has the id.
pub fn gives_secret(text: &str, id: &KeyId) -> Result<bool, EditError> {
    model::has_field(&model::read(text)?, id, "secret")
}

/// Makes one change, of ended secrets only the first; and whether there may be more to do.
fn apply_once(text: &str, change: &Edit) -> Result<(String, bool), EditError> {
    let marks = Marks::parse(text)?;
    let before = model::read(text)?;
    let Some(step) = model::step(&before, change)? else { return Ok((text.to_owned(), false)) };
    let edited = make(text, &marks, before, &step)?;
    Ok((edited, matches!(change, Edit::DropEnded { .. })))
}

/// The text after a step, if it holds what it should then.
fn make(text: &str, marks: &Marks, before: Value, step: &PathStep<'_>) -> Result<String, EditError> {
    let edited = edit::edit(text, marks, step)?;
    let expected = model::after(before, step);
    if expected.is_none() || model::read(&edited).ok() != expected {
        return Err(EditError::Entangled);
    }
    Ok(edited)
}

/// A change as the text and the model see it: fields are named by their path, keys and others by their place.
enum PathStep<'change> {
    Create {
        list: &'static str,
        entry: Value,
    },
    /// Behind others that are there.
    Append {
        list: &'static str,
        entries: Vec<Value>,
    },
    Set {
        entry: Entry,
        path: Path<'change>,
        value: Value,
    },
    Clear {
        entry: Entry,
        path: Path<'change>,
    },
    Push {
        entry: Entry,
        path: Path<'change>,
        element: Value,
    },
    Replace {
        entry: Entry,
        path: Path<'change>,
        element: usize,
        value: Value,
    },
    Drop {
        entry: Entry,
        path: Path<'change>,
        element: usize,
    },
    Delete(Entry),
}

/// What stands at a place of one of the file's lists.
#[derive(Clone, Copy)]
struct Entry {
    list: &'static str,
    place: usize,
}

/// The list that every keys file has.
const KEYS: &str = "keys";

impl Holder {
    fn list(&self) -> &'static str {
        match self {
            Self::Team(_) => "teams",
            Self::Owner(_) => "owners",
        }
    }

    fn id(&self) -> &str {
        let (Self::Team(id) | Self::Owner(id)) = self;
        id
    }
}

#[cfg(test)]
mod tests;
