//! The uses of many names in one row of bytes, with a table of where each stands: no allocation a name.

use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use super::uses;

/// Names with what was used of their quotas.
#[derive(Default)]
pub struct Arena {
    hasher: RandomState,
    /// Blocks, one behind the other.
    bytes: Vec<u8>,
    /// Where a name's block begins, plus one; 0 where there is none. At least a quarter is free.
    table: Vec<u32>,
    /// The places of the table that are taken.
    taken: usize,
    /// The bytes of blocks that hold nothing any more.
    unused: usize,
}

/// A block: the lengths of its name and its uses, the name, and the uses with room behind them.
#[derive(Clone, Copy)]
struct Block {
    start: usize,
    name: usize,
    uses: usize,
}

const NAME_LENGTH: usize = size_of::<u16>();
const HEAD: usize = NAME_LENGTH + size_of::<u32>();

/// So many unused bytes are not worth tidying up.
const LITTLE: usize = 64 * 1024;

impl Arena {
    /// An arena that hashes as others do.
    pub fn new(hasher: RandomState) -> Self {
        Self { hasher, ..Self::default() }
    }

    /// Adds what was used by a name, apart from what counts no longer at `now`. Its hash is the hasher's.
    pub fn add(&mut self, hash: u64, name: &[u8], more: &[u8], now: Timestamp) {
        let Some(block) = self.find(hash, name).and_then(|place| self.block_at(place)) else {
            if uses::all_count(more, now) {
                self.insert(hash, name, more);
            } else {
                self.insert(hash, name, &uses::merged(more, &[], now));
            }
            return;
        };
        let all = uses::merged(self.uses(block), more, now);
        if all.len() <= roomy(block.uses) {
            self.rewrite(block, &all);
        } else {
            self.rewrite(block, &[]);
            self.insert(hash, name, &all);
        }
        self.tidy();
    }

    /// Takes out what was used by a name; nothing if that is nothing.
    pub fn take(&mut self, hash: u64, name: &[u8]) -> Vec<u8> {
        let Some(block) = self.find(hash, name).and_then(|place| self.block_at(place)) else { return Vec::new() };
        let uses = self.uses(block).to_vec();
        self.rewrite(block, &[]);
        self.tidy();
        uses
    }

    /// The hash of a name.
    pub fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Lets go of what counts no longer at `now`.
    pub fn sweep(&mut self, now: Timestamp) {
        for place in 0..self.table.len() {
            let Some(block) = self.block_at(place) else { continue };
            if !uses::all_count(self.uses(block), now) {
                let left = uses::merged(self.uses(block), &[], now);
                self.rewrite(block, &left);
            }
        }
        self.tidy();
    }

    /// Each name with its uses, in the order of the names.
    pub fn sorted(&self) -> Vec<(&[u8], &[u8])> {
        let blocks = (0..self.table.len()).filter_map(|place| self.block_at(place));
        let mut all: Vec<_> = blocks.map(|block| (self.name(block), self.uses(block))).collect();
        all.sort_unstable();
        all
    }

    fn insert(&mut self, hash: u64, name: &[u8], uses: &[u8]) {
        if uses.is_empty() {
            return;
        }
        if (self.taken + 1) * 4 > self.table.len() * 3 {
            self.enlarge_table();
        }
        // A longer name than any, or more than 4 GiB: neither is of a key.
        let (Ok(start), Ok(name_length), Ok(uses_length)) =
            (u32::try_from(self.bytes.len() + 1), u16::try_from(name.len()), u32::try_from(uses.len()))
        else {
            tracing::error!("what is used of a quota cannot be kept: it is too much");
            return;
        };
        let place = self.find(hash, name);
        let Some(entry) = place.and_then(|place| self.table.get_mut(place)) else { return };
        self.taken += usize::from(*entry == 0);
        *entry = start;
        let size = HEAD + name.len() + roomy(uses.len());
        if self.bytes.capacity() - self.bytes.len() < size {
            self.bytes.reserve_exact(size.max(self.bytes.len() / 8));
        }
        let end = self.bytes.len() + size;
        self.bytes.extend_from_slice(&name_length.to_le_bytes());
        self.bytes.extend_from_slice(&uses_length.to_le_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(uses);
        self.bytes.resize(end, 0);
    }

    /// The place of a name in the table, or the one where it would go; `None` while there is no table.
    fn find(&self, hash: u64, name: &[u8]) -> Option<usize> {
        let mask = self.table.len().checked_sub(1)?;
        let mut place = first_place(hash, mask);
        loop {
            match self.block_of(*self.table.get(place)?) {
                Some(block) if self.name(block) != name => place = (place + 1) & mask,
                _ => return Some(place),
            }
        }
    }

    /// The block of a place in the table that holds something.
    fn block_at(&self, place: usize) -> Option<Block> {
        self.table.get(place).and_then(|entry| self.block_of(*entry)).filter(|block| block.uses > 0)
    }

    fn block_of(&self, entry: u32) -> Option<Block> {
        let start = usize::try_from(entry.checked_sub(1)?).ok()?;
        let (name, rest) = self.bytes.get(start..)?.split_first_chunk()?;
        let (uses, _) = rest.split_first_chunk()?;
        let (name, uses) = (u16::from_le_bytes(*name), u32::from_le_bytes(*uses));
        Some(Block { start, name: name.into(), uses: usize::try_from(uses).ok()? })
    }

    fn name(&self, block: Block) -> &[u8] {
        let start = block.start + HEAD;
        self.bytes.get(start..start + block.name).unwrap_or_default()
    }

    fn uses(&self, block: Block) -> &[u8] {
        let start = block.start + HEAD + block.name;
        self.bytes.get(start..start + block.uses).unwrap_or_default()
    }

    /// Puts other uses, which take no more room, in the place of a block's.
    fn rewrite(&mut self, block: Block, uses: &[u8]) {
        let length = u32::try_from(uses.len()).unwrap_or_default().to_le_bytes();
        let (at_length, at_uses) = (block.start + NAME_LENGTH, block.start + HEAD + block.name);
        for (start, new) in [(at_length, &length[..]), (at_uses, uses)] {
            if let Some(old) = self.bytes.get_mut(start..start + new.len()) {
                old.copy_from_slice(new);
            }
        }
        let kept = if uses.is_empty() { 0 } else { HEAD + block.name + roomy(uses.len()) };
        self.unused += HEAD + block.name + roomy(block.uses) - kept;
    }

    /// Moves all together, once more than half of it is unused.
    fn tidy(&mut self) {
        if self.unused <= LITTLE.max(self.bytes.len() / 2) {
            return;
        }
        let mut tidied = Self::new(self.hasher.clone());
        tidied.bytes.reserve_exact(self.bytes.len().saturating_sub(self.unused));
        for place in 0..self.table.len() {
            if let Some(block) = self.block_at(place) {
                let name = self.name(block);
                tidied.insert(self.hash(name), name, self.uses(block));
            }
        }
        *self = tidied;
    }

    /// Twice the table, without the names that hold nothing any more.
    fn enlarge_table(&mut self) {
        let size = (self.table.len() * 2).max(16);
        let mut table = vec![0; size];
        self.taken = 0;
        for place in 0..self.table.len() {
            let Some(block) = self.block_at(place) else { continue };
            let mut new = first_place(self.hash(self.name(block)), size - 1);
            while table.get(new).is_some_and(|entry| *entry != 0) {
                new = (new + 1) & (size - 1);
            }
            if let (Some(entry), Some(start)) = (table.get_mut(new), self.table.get(place)) {
                *entry = *start;
                self.taken += 1;
            }
        }
        self.table = table;
    }
}

/// Where in a table a hash is looked for first.
fn first_place(hash: u64, mask: usize) -> usize {
    usize::try_from(hash & mask as u64).unwrap_or_default()
}

/// The room of so many bytes of uses: a little more, so that what is added now and then does not move them each time.
fn roomy(length: usize) -> usize {
    length.next_multiple_of((length.next_power_of_two() / 8).max(8))
}
