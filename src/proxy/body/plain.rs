//! A request's body as its bytes come: undone where it is encoded, counted, and no longer than is taken.

use bytes::{Bytes, BytesMut};
use keymeter_core::{body::BodyError, rejection::Rejection};

use crate::{
    admission::{BodyRoom, NoRoom},
    encoding::{DecodeError, Decoder},
};

/// The plain body, as far as it has come.
pub(super) struct PlainBody<'room> {
    bytes: BytesMut,
    decoder: Option<Decoder>,
    /// The most that comes.
    most: u64,
    /// The most that is taken of what was decoded.
    most_decoded: u64,
    room: &'room mut BodyRoom,
}

/// So many pieces are decoded before others on the thread have their turn: a few bytes may come to very many.
const TURN: usize = 16;

impl<'room> PlainBody<'room> {
    /// A body of `most` bytes as they come, and of `most_decoded` where there is something to undo, to be counted in `room`.
    pub fn new(decoder: Option<Decoder>, most: u64, most_decoded: u64, room: &'room mut BodyRoom) -> Self {
        Self { bytes: BytesMut::with_capacity(first_capacity(most)), decoder, most, most_decoded, room }
    }

    /// The next bytes came.
    pub async fn add(&mut self, chunk: &[u8]) -> Result<(), Rejection> {
        let Some(decoder) = &mut self.decoder else {
            let more = further_capacity(self.bytes.len(), chunk.len(), self.most);
            self.bytes.reserve(more);
            return keep(&mut self.bytes, chunk, self.room);
        };
        let (mut rest, mut pieces) = (chunk, 0_usize);
        while let Some(piece) = decoder.next_piece(&mut rest).map_err(broken)? {
            let total = (self.bytes.len() as u64).saturating_add(piece.len() as u64);
            if total > self.most_decoded {
                return Err(Rejection::BodyTooLarge { max: self.most_decoded });
            }
            keep(&mut self.bytes, piece, self.room)?;
            pieces += 1;
            if pieces.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// All of it came.
    pub fn finish(self) -> Result<Bytes, Rejection> {
        if self.decoder.is_some_and(|decoder| !decoder.is_whole() || decoder.has_trailing()) {
            return Err(Rejection::InvalidBody(BodyError::ContentCoding));
        }
        Ok(self.bytes.freeze())
    }
}

fn keep(bytes: &mut BytesMut, piece: &[u8], room: &mut BodyRoom) -> Result<(), Rejection> {
    room.take(piece.len() as u64).map_err(|NoRoom| Rejection::Overloaded)?;
    bytes.extend_from_slice(piece);
    Ok(())
}

fn broken(_: DecodeError) -> Rejection {
    Rejection::InvalidBody(BodyError::ContentCoding)
}

/// What memory a body of `most` bytes at most gets before they come: so little that nobody who announces bodies and does not
/// send them holds much of it, for it is not counted. The rest comes as the bytes do.
fn first_capacity(most: u64) -> usize {
    const MOST: usize = 4096;
    usize::try_from(most).map_or(MOST, |most| most.min(MOST))
}

/// What further memory a body of `most` bytes at most gets when `coming` come after `held`: as much as is still to come, so that
/// nothing is copied again, but no more than four times what it has sent.
fn further_capacity(held: usize, coming: usize, most: u64) -> usize {
    let left = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(held);
    left.min(held.saturating_mul(3).saturating_add(coming.saturating_mul(4))).max(coming)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_gets_memory_for_what_is_to_come_but_not_far_beyond_what_came() {
        for (held, coming, most, expected) in [
            (0, 100, 100, 100),
            (0, 65_536, 200_000, 200_000),
            (0, 65_536, 32 << 20, 4 * 65_536),
            (65_536, 65_536, 32 << 20, 7 * 65_536),
            (65_536, 10, u64::MAX, 3 * 65_536 + 40),
            (90, 20, 100, 20),
        ] {
            assert_eq!(further_capacity(held, coming, most), expected, "{held} {coming} {most}");
        }
    }

    #[test]
    fn what_is_announced_takes_next_to_no_memory() {
        assert_eq!([0, 100, 4096].map(first_capacity), [0, 100, 4096]);
        assert!([1 << 16, 32 << 20, u64::MAX].into_iter().all(|most| first_capacity(most) <= 4096));
    }
}
