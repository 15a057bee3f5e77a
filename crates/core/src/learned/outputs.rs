//! How long the last answers of a model were, and the longest that is to be expected: of one key, and of a crowd of keys.

use super::key_tag::KeyTag;

/// The last outputs, of which every 16th makes the percentile be found anew; while there are few, each does.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    ring: Vec<u32>,
    next: usize,
    unseen: usize,
    percentile: Option<u32>,
}

const RING: usize = 256;
/// So many outputs say what is to be expected of the next.
const ENOUGH: usize = 20;
/// So many say something beside those of other keys.
const SOME: usize = 5;
const EVERY: usize = 16;

impl Outputs {
    /// Takes in one output. Says whether the percentile was found anew.
    pub fn push(&mut self, output: u64) -> bool {
        let output = u32::try_from(output).unwrap_or(u32::MAX);
        match self.ring.get_mut(self.next) {
            Some(oldest) => *oldest = output,
            None => self.ring.push(output),
        }
        self.next = (self.next + 1) % RING;
        self.unseen += 1;
        let is_due = self.unseen >= EVERY || (SOME..=ENOUGH).contains(&self.ring.len());
        if is_due {
            self.unseen = 0;
            self.percentile = self.find();
        }
        is_due
    }

    /// The 95th percentile, where there are enough outputs to expect no more.
    pub fn expected(&self) -> Option<u32> {
        self.percentile.filter(|_| self.ring.len() >= ENOUGH)
    }

    /// The same where there are some outputs.
    pub fn percentile(&self) -> Option<u32> {
        self.percentile
    }

    fn find(&self) -> Option<u32> {
        percentile_of(&mut self.ring.clone(), 0)
    }
}

/// The 95th percentile by nearest rank, the `odd` greatest left out.
fn percentile_of(outputs: &mut [u32], odd: usize) -> Option<u32> {
    let rank = (outputs.len() * 95).div_ceil(100).min(outputs.len().saturating_sub(odd)).checked_sub(1)?;
    // The rank is below the length, which is not 0.
    let (_, percentile, _) = outputs.select_nth_unstable(rank);
    Some(*percentile)
}

/// The last output of each of the keys that were heard last: what many keys say with one answer each, of which none says
/// more than any other.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    last: Vec<(KeyTag, u32)>,
    next: usize,
    percentile: Option<u32>,
}

const CROWD: usize = 64;

impl Crowd {
    /// Takes in one output of a key. Says whether something else is to be expected now.
    pub fn push(&mut self, key: KeyTag, output: u64) -> bool {
        let output = u32::try_from(output).unwrap_or(u32::MAX);
        if let Some((_, last)) = self.last.iter_mut().find(|(other, _)| *other == key) {
            *last = output;
        } else if let Some(oldest) = self.last.get_mut(self.next) {
            *oldest = (key, output);
            self.next = (self.next + 1) % CROWD;
        } else {
            self.last.push((key, output));
            self.next = self.last.len() % CROWD;
        }
        let mut outputs = [0; CROWD];
        outputs.iter_mut().zip(&self.last).for_each(|(place, (_, output))| *place = *output);
        let outputs = outputs.get_mut(..self.last.len()).filter(|outputs| outputs.len() >= SOME);
        let percentile = outputs.and_then(|outputs| percentile_of(outputs, 1));
        std::mem::replace(&mut self.percentile, percentile) != percentile
    }

    /// Whether another key's output takes the place of the oldest.
    pub fn is_full(&self) -> bool {
        self.last.len() >= CROWD
    }

    /// The 95th percentile, where there are some keys. The greatest of all, which is one key's alone, never is.
    pub fn expected(&self) -> Option<u32> {
        self.percentile
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(outputs: impl IntoIterator<Item = u64>) -> Outputs {
        let mut all = Outputs::default();
        for output in outputs {
            let _ = all.push(output);
        }
        all
    }

    #[test]
    fn the_95th_percentile_of_twenty_and_more_is_expected() {
        assert_eq!(of(1..20).expected(), None, "19 are too few");
        assert_eq!(of(1..21).expected(), Some(19), "the 19th of 20");
        let expected = of(1..=256).expected().unwrap();
        assert!((228..=244).contains(&expected), "the 244th of 256, or as it was 15 outputs ago: {expected}");
    }

    #[test]
    fn of_few_outputs_the_percentile_is_the_longest() {
        assert_eq!(of(1..5).percentile(), None);
        assert_eq!(of([9, 1, 2, 3, 4]).percentile(), Some(9));
    }

    #[test]
    fn old_outputs_are_forgotten() {
        let outputs = of([9000; 500].into_iter().chain([10; RING + EVERY]));
        assert_eq!((outputs.expected(), outputs.ring.len()), (Some(10), RING));
    }

    #[test]
    fn the_percentile_is_found_anew_every_16_outputs() {
        let mut outputs = of([1; ENOUGH]);
        (1..EVERY).for_each(|_| assert!(!outputs.push(50)));
        assert_eq!(outputs.expected(), Some(1));
        assert!(outputs.push(50));
        assert_eq!(outputs.expected(), Some(50));
    }

    #[test]
    fn of_a_crowd_each_key_says_one_output() {
        let (mut crowd, key) = (Crowd::default(), |number| KeyTag::from_number(number));
        (0..500).for_each(|_| assert!(!crowd.push(key(1), 9000)));
        (2..5).for_each(|number| assert!(!crowd.push(key(number), 10)));
        assert_eq!(crowd.expected(), None, "4 keys are too few");
        assert!(crowd.push(key(5), 20));
        assert_eq!(crowd.expected(), Some(20), "the greatest is one key's alone");
        for number in 6..=40 {
            let _ = crowd.push(key(number), 10);
        }
        assert_eq!(crowd.expected(), Some(10), "the 38th of 40");
        for number in 100..400 {
            let _ = crowd.push(key(number), 30);
        }
        assert_eq!((crowd.expected(), crowd.last.len()), (Some(30), CROWD), "the last are heard");
    }

    #[test]
    fn one_odd_output_changes_nothing() {
        assert_eq!(of([u64::MAX].into_iter().chain([100; 40])).expected(), Some(100));
    }
}
