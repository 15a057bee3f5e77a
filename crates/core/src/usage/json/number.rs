//! A number as its bytes pass: as much of its value as a count or a duration needs.

/// A number as far as it is read.
#[derive(Clone, Copy)]
pub(super) struct Number {
    /// Its digits, as many as fit.
    digits: u64,
    /// How many of them stand behind the point.
    decimals: u32,
    exponent: u32,
    is_small: bool,
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
    /// An exponent is to come, its sign first.
    Sign,
    Exponent,
    /// It is negative, has more digits than fit, or is no number.
    Other,
}

/// Billionths are this many decimals.
const NANOS: u32 = 9;

impl Default for Number {
    fn default() -> Self {
        Self { digits: 0, decimals: 0, exponent: 0, is_small: false, form: Form::Empty }
    }
}

impl Number {
    pub(super) fn push(&mut self, byte: u8) {
        self.form = match (self.form, byte) {
            (Form::Empty | Form::Whole, b'0'..=b'9') => {
                if self.digit(byte) {
                    Form::Whole
                } else {
                    Form::Other
                }
            }
            (Form::Whole, b'.') => Form::Decimal,
            (Form::Decimal, b'0'..=b'9') => {
                // Digits that do not fit any more are worth too little to matter.
                self.decimals += u32::from(self.digit(byte));
                Form::Decimal
            }
            (Form::Whole | Form::Decimal, b'e' | b'E') => Form::Sign,
            (Form::Sign, b'+' | b'-') => {
                self.is_small = byte == b'-';
                Form::Exponent
            }
            (Form::Sign | Form::Exponent, b'0'..=b'9') => {
                self.exponent = self.exponent.saturating_mul(10).saturating_add(u32::from(byte - b'0'));
                Form::Exponent
            }
            _ => Form::Other,
        };
    }

    /// Whether the digit fits; then it is added.
    fn digit(&mut self, byte: u8) -> bool {
        let shifted = self.digits.checked_mul(10).and_then(|digits| digits.checked_add(u64::from(byte - b'0')));
        self.digits = shifted.unwrap_or(self.digits);
        shifted.is_some()
    }

    /// Its value, if it is not negative and fits.
    pub(super) fn value(&self) -> Option<Value> {
        match self.form {
            Form::Whole => Some(Value::Whole(self.digits)),
            Form::Decimal | Form::Exponent => self.scaled(),
            Form::Empty | Form::Sign | Form::Other => None,
        }
    }

    /// The digits are worth their value times ten to some power.
    fn scaled(&self) -> Option<Value> {
        let exponent = i64::from(self.exponent) * if self.is_small { -1 } else { 1 };
        let power = exponent - i64::from(self.decimals) + i64::from(NANOS);
        let factor = |power: i64| u32::try_from(power).ok().and_then(|power| 10_u128.checked_pow(power));
        let digits = u128::from(self.digits);
        let nanos = if digits == 0 {
            0
        } else if power < 0 {
            factor(-power).map_or(0, |factor| digits / factor)
        } else {
            digits.checked_mul(factor(power)?)?
        };
        let billion = 10_u128.pow(NANOS);
        let rest = u32::try_from(nanos % billion).ok()?;
        Some(Value::Decimal(u64::try_from(nanos / billion).ok()?, rest))
    }
}
