//! What was used of quotas, as bytes. The uses of one key, team or owner follow its name; several such groups are a payload.
//! Equal quotas are equal bytes, so uses are summed without being read in full.

use std::time::Duration;

use jiff::Timestamp;
use keymeter_core::limit::{QuotaName, QuotaSpan, QuotaUnit, Scope, SlidingLength, Slot};

use crate::journal::frame::LONGEST;

/// What was used of one quota in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use<'bytes> {
    /// The models and the name of the quota as they are written.
    quota: &'bytes [u8],
    /// Of which models, for those within a key.
    pub models: Option<&'bytes str>,
    /// Which of the quotas.
    pub name: QuotaName,
    /// Where it counts.
    pub slot: Slot,
    /// How much.
    pub amount: u64,
}

impl Use<'_> {
    fn counts(&self, now: Timestamp) -> bool {
        self.name.span.leaves(self.slot) > now
    }
}

/// The name of a key, a team or an owner. What is used of some models is the key's.
pub fn name(scope: Scope, id: &str) -> Vec<u8> {
    let tag = match scope {
        Scope::Team => b't',
        Scope::Owner => b'o',
        Scope::Key | Scope::Model => b'k',
    };
    [&[tag], id.as_bytes()].concat()
}

/// Whose name it is.
pub fn named(name: &[u8]) -> Option<(Scope, &str)> {
    let (tag, id) = name.split_first()?;
    let scope = match tag {
        b't' => Scope::Team,
        b'o' => Scope::Owner,
        b'k' => Scope::Key,
        _ => return None,
    };
    Some((scope, str::from_utf8(id).ok()?))
}

/// Adds a use to `uses`.
pub fn push(uses: &mut Vec<u8>, models: Option<&str>, name: QuotaName, slot: Slot, amount: u64) {
    put(uses, models.map_or(0, |models| models.len() as u64 + 1));
    uses.extend(models.unwrap_or_default().as_bytes());
    uses.push(match name.unit {
        QuotaUnit::Requests => 0,
        QuotaUnit::Tokens => 1,
        QuotaUnit::OutputTokens => 2,
        QuotaUnit::Usd => 3,
    });
    let span = match name.span {
        QuotaSpan::Day => 0,
        QuotaSpan::Week => 1,
        QuotaSpan::Month => 2,
        QuotaSpan::Length(length) => length.seconds(),
    };
    put(uses, span.into());
    put_amount(uses, slot, amount);
}

/// The uses in `bytes`, up to what is none.
pub fn each(bytes: &[u8]) -> impl Iterator<Item = Use<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || take_use(&mut rest))
}

/// Whether all that is in `uses` still counts at `now`.
pub fn all_count(uses: &[u8], now: Timestamp) -> bool {
    each(uses).all(|used| used.counts(now))
}

/// Both together, without what counts no longer at `now`.
pub fn merged(one: &[u8], another: &[u8], now: Timestamp) -> Vec<u8> {
    let mut all: Vec<_> = each(one).chain(each(another)).filter(|used| used.counts(now)).collect();
    all.sort_unstable_by_key(|used| (used.quota, used.slot));
    let mut merged = Vec::with_capacity(one.len() + another.len());
    let mut all = all.into_iter().peekable();
    while let Some(mut used) = all.next() {
        while let Some(same) = all.next_if(|next| next.quota == used.quota && next.slot == used.slot) {
            used.amount = used.amount.saturating_add(same.amount);
        }
        merged.extend(used.quota);
        put_amount(&mut merged, used.slot, used.amount);
    }
    merged
}

/// The groups of a payload, up to what is none: each a name and its uses.
pub fn groups(payload: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = payload;
    std::iter::from_fn(move || Some((take_bytes(&mut rest)?, take_bytes(&mut rest)?)))
}

/// Packs groups into payloads.
#[derive(Default)]
pub struct Packer {
    payload: Vec<u8>,
}

/// The uses of one name in a payload take no more than this, so that any name of half of it fits beside them.
const MOST_USES: usize = LONGEST * 2 / 3;

impl Packer {
    /// Adds a group, in parts if it is long. Payloads that are full are passed to `done` first.
    pub fn push<E>(&mut self, name: &[u8], uses: &[u8], mut done: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut rest = uses;
        while !rest.is_empty() {
            let (part, after) = parted(rest);
            if !self.payload.is_empty() && self.payload.len() + name.len() + part.len() + 8 > LONGEST {
                self.finish(&mut done)?;
            }
            for bytes in [name, part] {
                put(&mut self.payload, bytes.len() as u64);
                self.payload.extend(bytes);
            }
            rest = after;
        }
        Ok(())
    }

    /// The size of the payload that is open.
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// Passes the payload that is open to `done`, if there is one.
    pub fn finish<E>(&mut self, done: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let finished = if self.payload.is_empty() { Ok(()) } else { done(&self.payload) };
        self.payload.clear();
        finished
    }
}

/// The uses that fit into one payload, and those after them.
fn parted(uses: &[u8]) -> (&[u8], &[u8]) {
    if uses.len() <= MOST_USES {
        return (uses, &[]);
    }
    let mut rest = uses;
    let mut end = 0;
    while take_use(&mut rest).is_some() && uses.len() - rest.len() <= MOST_USES {
        end = uses.len() - rest.len();
    }
    // What is no use is left out: nobody could read it.
    if end == 0 { (&[], &[]) } else { uses.split_at(end) }
}

fn take_use<'bytes>(rest: &mut &'bytes [u8]) -> Option<Use<'bytes>> {
    let start = *rest;
    let models = match take(rest)?.checked_sub(1) {
        None => None,
        Some(length) => Some(str::from_utf8(take_exactly(rest, length)?).ok()?),
    };
    let unit = match take_exactly(rest, 1)? {
        [0] => QuotaUnit::Requests,
        [1] => QuotaUnit::Tokens,
        [2] => QuotaUnit::OutputTokens,
        [3] => QuotaUnit::Usd,
        _ => return None,
    };
    let span = match take(rest)? {
        0 => QuotaSpan::Day,
        1 => QuotaSpan::Week,
        2 => QuotaSpan::Month,
        seconds => QuotaSpan::Length(SlidingLength::new(Duration::from_secs(seconds))?),
    };
    let (quota, _) = start.split_at_checked(start.len() - rest.len())?;
    let slot = take(rest)?;
    let slot = (slot >> 1).cast_signed() ^ -(slot & 1).cast_signed();
    Some(Use { quota, models, name: QuotaName { unit, span }, slot, amount: take(rest)? })
}

fn put_amount(uses: &mut Vec<u8>, slot: Slot, amount: u64) {
    // A slot below 0 is small, too.
    put(uses, ((slot << 1) ^ (slot >> 63)).cast_unsigned());
    put(uses, amount);
}

/// Writes a number, seven bits a byte, the lowest first.
pub fn put(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Reads a number that [`put`] wrote.
pub fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take_bytes<'bytes>(rest: &mut &'bytes [u8]) -> Option<&'bytes [u8]> {
    let length = take(rest)?;
    take_exactly(rest, length)
}

fn take_exactly<'bytes>(rest: &mut &'bytes [u8], length: u64) -> Option<&'bytes [u8]> {
    let (taken, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(taken)
}
