//! The format of what a journal keeps: each payload follows its length and a checksum, so that what a crash, a full disk
//! or a truncation left behind is told from a whole one.

/// The longest payload.
pub const LONGEST: usize = 64 * 1024 - 1;

/// The size of what precedes a payload: its length, and the CRC-32 of that length and the payload, both little-endian.
const HEAD: usize = 8;

/// `payload` in a frame; `None` if it is empty or longer than [`LONGEST`].
#[must_use]
pub fn framed(payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok()?.to_le_bytes();
    if payload.is_empty() || payload.len() > LONGEST {
        return None;
    }
    let checksum = checksum(length, payload).to_le_bytes();
    Some([&length, &checksum, payload].concat())
}

/// The payloads of the whole frames at the beginning of `bytes`.
#[must_use]
pub fn frames(bytes: &[u8]) -> Frames<'_> {
    Frames { rest: bytes, read: 0 }
}

/// Reads frame after frame, up to the first that is not whole.
#[derive(Clone, Debug)]
pub struct Frames<'segment> {
    rest: &'segment [u8],
    read: usize,
}

impl Frames<'_> {
    /// The size of the frames that were read so far.
    #[must_use]
    pub fn read(&self) -> usize {
        self.read
    }
}

impl<'segment> Iterator for Frames<'segment> {
    type Item = &'segment [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (stated, rest) = rest.split_first_chunk::<4>()?;
        let size = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        if !(1..=LONGEST).contains(&size) {
            return None;
        }
        let (payload, rest) = rest.split_at_checked(size)?;
        if checksum(*length, payload) != u32::from_le_bytes(*stated) {
            return None;
        }
        self.rest = rest;
        self.read += HEAD + size;
        Some(payload)
    }
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(payloads: &[Vec<u8>]) -> Vec<u8> {
        payloads.iter().flat_map(|payload| framed(payload).unwrap()).collect()
    }

    /// The payloads whose frames end within the first `length` bytes.
    fn whole(payloads: &[Vec<u8>], length: usize) -> usize {
        let ends = payloads.iter().scan(0, |end, payload| {
            *end += HEAD + payload.len();
            Some(*end)
        });
        ends.take_while(|end| *end <= length).count()
    }

    #[test]
    fn what_is_empty_or_too_long_has_no_frame() {
        assert_eq!(framed(b""), None);
        assert_eq!(framed(&vec![b'a'; LONGEST + 1]), None);
        let longest = vec![b'a'; LONGEST];
        assert_eq!(frames(&framed(&longest).unwrap()).collect::<Vec<_>>(), [&longest[..]]);
        assert_eq!(frames(&[0; 4096]).count(), 0, "preallocated room holds no frames");
    }

    fn any_payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(1_u8.., 1..60), 0..12)
    }

    proptest! {
        #[test]
        fn any_truncation_leaves_what_stands_whole_before_it(payloads in any_payloads(), cut: prop::sample::Index) {
            let mut bytes = written(&payloads);
            bytes.truncate(cut.index(bytes.len() + 1));
            let expected = whole(&payloads, bytes.len());
            prop_assert!(frames(&bytes).eq(payloads.iter().take(expected)));
            // The rest of a preallocated segment.
            bytes.resize(bytes.len() + 300, 0);
            prop_assert!(frames(&bytes).eq(payloads.iter().take(expected)));
        }

        #[test]
        fn a_garbage_tail_adds_nothing(payloads in any_payloads(), tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let whole = written(&payloads);
            let bytes = [whole.clone(), tail].concat();
            let mut reader = frames(&bytes);
            prop_assert!(reader.by_ref().eq(payloads.iter()));
            prop_assert_eq!(reader.read(), whole.len());
        }

        #[test]
        fn one_wrong_byte_ends_the_reading_there(
            payloads in any_payloads(), place: prop::sample::Index, mask in 1_u8..,
        ) {
            let mut bytes = written(&payloads);
            prop_assume!(!bytes.is_empty());
            let place = place.index(bytes.len());
            bytes[place] ^= mask;
            prop_assert!(frames(&bytes).eq(payloads.iter().take(whole(&payloads, place))));
        }
    }
}
