//! A key or a short string of a document, kept only as far as a reader can be looking for it.

/// At most `N` bytes; what is longer is nobody's, and reads as nothing.
#[derive(Clone, Copy)]
pub(super) struct Word<const N: usize> {
    bytes: [u8; N],
    length: usize,
    too_long: bool,
}

impl<const N: usize> Default for Word<N> {
    fn default() -> Self {
        Self { bytes: [0; N], length: 0, too_long: false }
    }
}

impl<const N: usize> Word<N> {
    pub(super) fn clear(&mut self) {
        self.length = 0;
        self.too_long = false;
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        match self.bytes.get_mut(self.length..self.length + piece.len()) {
            Some(place) => {
                place.copy_from_slice(piece);
                self.length += piece.len();
            }
            None => self.too_long = true,
        }
    }

    /// Whether nothing was pushed.
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0 && !self.too_long
    }

    pub(super) fn bytes(&self) -> &[u8] {
        if self.too_long { &[] } else { self.bytes.get(..self.length).unwrap_or_default() }
    }
}
