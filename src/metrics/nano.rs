//! A counter of money that is exact: integer nano-dollars inside, turned into Prometheus'
//! number only when it is scraped.

use std::{
    cmp::Ordering,
    ops::{AddAssign, SubAssign},
    sync::atomic::{AtomicI64, Ordering::Relaxed},
};

use prometheus::core::{Atomic, Number};

/// An amount of nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nano(pub i64);

impl Number for Nano {
    fn from_i64(dollars: i64) -> Self {
        Self(dollars.saturating_mul(1_000_000_000))
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats; the sum itself stays exact")]
    fn into_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl PartialOrd for Nano {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.0.partial_cmp(&other.0)
    }
}

impl AddAssign for Nano {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

impl SubAssign for Nano {
    fn sub_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_sub(other.0);
    }
}

/// An amount that many threads add to.
pub struct AtomicNano(AtomicI64);

impl Atomic for AtomicNano {
    type T = Nano;

    fn new(value: Nano) -> Self {
        Self(AtomicI64::new(value.0))
    }

    fn set(&self, value: Nano) {
        self.0.store(value.0, Relaxed);
    }

    fn get(&self) -> Nano {
        Nano(self.0.load(Relaxed))
    }

    fn inc_by(&self, amount: Nano) {
        self.0.fetch_add(amount.0, Relaxed);
    }

    fn dec_by(&self, amount: Nano) {
        self.0.fetch_sub(amount.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_small_amounts_add_up() {
        let sum = AtomicNano::new(Nano(0));
        for _ in 0..1_000_000 {
            sum.inc_by(Nano(1));
        }
        assert_eq!(sum.get(), Nano(1_000_000));
        assert!((sum.get().into_f64() - 0.001).abs() < f64::EPSILON);
    }
}
