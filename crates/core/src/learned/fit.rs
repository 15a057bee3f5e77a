//! Factors that are fitted to counts, one count after the other: each count is a sum of known parts, each times a factor
//! that is looked for. This is recursive least squares with a prior (a Kalman filter whose state stands still), of which a
//! count that is far off moves it only so far: a prompt to which its upstream added a page of its own spoils nothing, and
//! a template that has changed is followed all the same.

use super::makeup::Parts;

/// What is thought of the factors before anything was counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Prior<const N: usize> {
    pub values: [f64; N],
    /// How far off each value may well be: its standard deviation.
    pub spread: [f64; N],
    /// The least and the most that each can be, whatever is counted.
    pub bounds: [(f64, f64); N],
}

/// Factors and how sure they are.
#[derive(Clone, Debug)]
pub(super) struct Fit<const N: usize> {
    values: [f64; N],
    covariance: [[f64; N]; N],
    /// How many counts in a row were too far off, and on which side.
    far: i32,
}

/// By how much a count is off though all factors are right, as a share of it: texts differ.
const NOISE: f64 = 0.06;
/// A count that is further off than so many standard deviations is taken to be just as far.
const FAR: f64 = 2.5;
/// So many counts in a row may be far off for reasons of their own.
const ODD: i32 = 3;
/// What is forgotten with each count, as a share of what was unknown at first.
const FORGOTTEN: f64 = 0.002;

impl<const N: usize> Fit<N> {
    pub fn new(prior: &Prior<N>) -> Self {
        let mut covariance = [[0.0; N]; N];
        for (at, (row, spread)) in covariance.iter_mut().zip(prior.spread).enumerate() {
            if let Some(diagonal) = row.get_mut(at) {
                *diagonal = spread * spread;
            }
        }
        Self { values: prior.values, covariance, far: 0 }
    }

    pub fn values(&self) -> [f64; N] {
        self.values
    }

    /// Learns that what is known of a text and its varying parts, each times its factor, come to `count`. What makes no sense
    /// teaches nothing.
    pub fn learn(&mut self, prior: &Prior<N>, Parts { known, varying: parts }: &Parts<N>, count: f64) {
        let along: [f64; N] = self.covariance.map(|row| dot(&row, parts));
        let expected = known + dot(&self.values, parts);
        let noise = (NOISE * expected.min(count)).powi(2) + 1.0;
        let variance = dot(&along, parts).max(0.0) + noise;
        let off = count - expected;
        if !(variance.is_finite() && off.is_finite()) {
            return;
        }
        let furthest = FAR * variance.sqrt();
        let is_far = off.abs() > furthest;
        let step = off.clamp(-furthest, furthest) / variance;
        for ((value, along), (least, most)) in self.values.iter_mut().zip(along).zip(prior.bounds) {
            *value = (*value + along * step).clamp(least, most);
        }
        self.far = match (is_far, off > 0.0) {
            (false, _) => 0,
            (true, true) => self.far.max(0).saturating_add(1),
            (true, false) => self.far.min(0).saturating_sub(1),
        };
        if is_far {
            self.doubt(prior);
        } else {
            self.confirm(&along, variance);
        }
        self.forget(prior);
    }

    /// A count that fits leaves less unknown.
    fn confirm(&mut self, along: &[f64; N], variance: f64) {
        for (row, one) in self.covariance.iter_mut().zip(along) {
            for (cell, other) in row.iter_mut().zip(along) {
                *cell -= one * other / variance;
            }
        }
    }

    /// A count that does not fit says that what is known may be outdated: of each factor twice as much is unknown, but no
    /// more than at first; unless it is one of several in a row, of which none is odd.
    fn doubt(&mut self, prior: &Prior<N>) {
        let in_a_row = self.far.abs().clamp(ODD, 2 * ODD) - ODD;
        let most = 4.0_f64.powi(in_a_row);
        let mut at = 0;
        let scales = prior.spread.map(|spread| {
            let variance = self.covariance.get(at).and_then(|row| row.get(at)).copied().unwrap_or_default();
            at += 1;
            (most * spread * spread / variance.max(f64::MIN_POSITIVE)).clamp(1.0, 2.0 * most).sqrt()
        });
        for (row, one) in self.covariance.iter_mut().zip(scales) {
            row.iter_mut().zip(scales).for_each(|(cell, other)| *cell *= one * other);
        }
    }

    fn forget(&mut self, prior: &Prior<N>) {
        for (at, (row, spread)) in self.covariance.iter_mut().zip(prior.spread).enumerate() {
            if let Some(diagonal) = row.get_mut(at) {
                *diagonal = diagonal.max(0.0) + FORGOTTEN * spread * spread;
            }
        }
    }
}

/// The sum of all parts, each times its factor.
pub(super) fn dot<const N: usize>(factors: &[f64; N], parts: &[f64; N]) -> f64 {
    factors.iter().zip(parts).map(|(factor, part)| factor * part).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRIOR: Prior<3> =
        Prior { values: [0.0, 1.0, 1.0], spread: [10.0, 0.2, 0.5], bounds: [(-50.0, 500.0), (0.5, 3.0), (0.3, 4.0)] };

    fn predicted(fit: &Fit<3>, parts: &Parts<3>) -> f64 {
        parts.known + dot(&fit.values(), &parts.varying)
    }

    /// Counts of a model that adds 35 to what is known and takes 1.2 and 1.7 as much.
    fn count(text: u32, json: u32) -> (Parts<3>, f64) {
        let parts = Parts { known: 7.0, varying: [1.0, f64::from(text), f64::from(json)] };
        let count = 7.0 + dot(&[35.0, 1.2, 1.7], &parts.varying);
        (parts, count)
    }

    #[test]
    fn twenty_counts_are_enough() {
        let mut fit = Fit::new(&PRIOR);
        for round in 0..20 {
            let (parts, count) = count(10 + round * 37 % 200, if round % 3 == 0 { 100 + round } else { 0 });
            fit.learn(&PRIOR, &parts, count);
        }
        for (text, json) in [(8, 0), (150, 0), (1000, 0), (20, 110), (20, 200)] {
            let (parts, count) = count(text, json);
            let off = (predicted(&fit, &parts) - count).abs() / count;
            assert!(off < 0.08, "{text}, {json}: {} instead of {count}", predicted(&fit, &parts));
        }
    }

    #[test]
    fn one_odd_count_moves_little_and_a_lasting_change_is_followed() {
        let mut fit = Fit::new(&PRIOR);
        (0..60).for_each(|round| fit.learn(&PRIOR, &count(20 + round, 0).0, count(20 + round, 0).1));
        let (parts, right) = count(40, 0);
        fit.learn(&PRIOR, &parts, 12_000.0);
        assert!((predicted(&fit, &parts) - right).abs() < 0.25 * right, "{}", predicted(&fit, &parts));
        (0..5).for_each(|_| fit.learn(&PRIOR, &parts, right));
        assert!((predicted(&fit, &parts) - right).abs() < 0.08 * right, "{}", predicted(&fit, &parts));
        (0..12).for_each(|_| fit.learn(&PRIOR, &parts, right + 300.0));
        let changed = predicted(&fit, &parts);
        assert!((changed - right - 300.0).abs() < 0.08 * (right + 300.0), "{changed} instead of {}", right + 300.0);
    }

    proptest! {
        #[test]
        fn whatever_is_counted_factors_stay_finite_and_within_bounds(
            counts in prop::collection::vec(([0.0..1e7, 0.0..1e7, 0.0..1e7_f64], prop_oneof![0.0..1e6, Just(0.0), Just(1.8e19), Just(f64::NAN)]), 0..200),
        ) {
            let mut fit = Fit::new(&PRIOR);
            for (varying, count) in counts {
                let parts = Parts { known: 7.0, varying };
                fit.learn(&PRIOR, &parts, count);
                for (value, (least, most)) in fit.values().into_iter().zip(PRIOR.bounds) {
                    prop_assert!((least..=most).contains(&value), "{value}");
                }
                for at in 0..3 {
                    let variance = fit.covariance[at][at];
                    prop_assert!(variance.is_finite() && variance > 0.0, "{variance}");
                }
            }
        }
    }
}
