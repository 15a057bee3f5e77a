//! A number as its bytes pass: as much of its value as a count or a duration needs.

/// A number as far as it is read.
#[derive(Clone, Copy)]
pub(super) struct Number {
    whole: u64,
    nanos: u32,
    /// What the next decimal is worth, in billionths.
    weight: u32,
    form: Form,
}

/// What a complete number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Whole(u64),
    /// The whole part, and the rest in billionths, what is smaller cut off.
    Decimal(u64, u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// No digit has come yet.
    Empty,
    Whole,
    Decimal,
    /// It has a sign, an exponent, more digits than fit, or is no number.
    Other,
}

impl Default for Number {
    fn default() -> Self {
        Self { whole: 0, nanos: 0, weight: 100_000_000, form: Form::Empty }
    }
}

impl Number {
    pub(super) fn push(&mut self, byte: u8) {
        match (self.form, byte) {
            (Form::Empty | Form::Whole, b'0'..=b'9') => {
                let shifted = self.whole.checked_mul(10).and_then(|whole| whole.checked_add(u64::from(byte - b'0')));
                self.form = if shifted.is_some() { Form::Whole } else { Form::Other };
                self.whole = shifted.unwrap_or(0);
            }
            (Form::Whole, b'.') => self.form = Form::Decimal,
            (Form::Decimal, b'0'..=b'9') => {
                self.nanos += u32::from(byte - b'0') * self.weight;
                self.weight /= 10;
            }
            _ => self.form = Form::Other,
        }
    }

    /// Its value, if it is not negative and fits.
    pub(super) fn value(&self) -> Option<Value> {
        match self.form {
            Form::Whole => Some(Value::Whole(self.whole)),
            Form::Decimal => Some(Value::Decimal(self.whole, self.nanos)),
            Form::Empty | Form::Other => None,
        }
    }
}
