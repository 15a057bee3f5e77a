//! Decimal digits, written from the last one on and without allocating: for every answer's headers and for amounts of
//! money.

/// Text of up to `MOST` bytes of ASCII, which grows at its front.
pub struct Digits<const MOST: usize> {
    bytes: [u8; MOST],
    start: usize,
}

impl<const MOST: usize> Digits<MOST> {
    /// No text yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; MOST], start: MOST }
    }

    /// Puts a character of ASCII before the others. One for which there is no room is left out.
    pub fn put(&mut self, character: u8) {
        if let Some(start) = self.start.checked_sub(1)
            && let Some(place) = self.bytes.get_mut(start)
        {
            *place = character;
            self.start = start;
        }
    }

    /// Puts a number before the rest, with no zeros before it.
    pub fn number(&mut self, number: u64) {
        let mut rest = number;
        loop {
            self.digit(rest);
            rest /= 10;
            if rest == 0 {
                return;
            }
        }
    }

    /// Puts the last digit of `number` before the rest.
    pub fn digit(&mut self, number: u64) {
        // It is below 10.
        self.put(b'0' + (number % 10) as u8);
    }

    /// What was put, from the first character on.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// The same as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl<const MOST: usize> Default for Digits<MOST> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_written_as_rust_writes_it(number: u64) {
            let mut digits = Digits::<20>::new();
            digits.number(number);
            prop_assert_eq!(digits.as_str(), number.to_string());
        }
    }

    #[test]
    fn what_has_no_room_is_left_out() {
        let mut digits = Digits::<2>::new();
        digits.number(123);
        assert_eq!(digits.as_str(), "23");
    }
}
