//! Whose request teaches, without the key's id.

use crate::key::KeyId;

/// Who teaches and is estimated: a number that stands for a key's id, and is the same wherever the id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyTag(u64);

impl KeyTag {
    /// The tag of the key with this id.
    #[must_use]
    pub fn of(id: &KeyId) -> Self {
        Self::from_text(id.as_str())
    }

    /// FNV-1a. 0 is nobody's.
    pub(super) fn from_text(text: &str) -> Self {
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(hash.max(1))
    }

    #[cfg(test)]
    pub(super) const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_tell_ids_apart_and_none_is_nobodys() {
        assert_ne!(KeyTag::from_text("key_a"), KeyTag::from_text("key_b"));
        assert_eq!(KeyTag::from_text("").number(), 0xcbf2_9ce4_8422_2325);
    }
}
