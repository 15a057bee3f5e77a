//! Consistent hashing: which replica is the home of a request that should find its prompt cached. The choice of a replica
//! asks the ring for the home, and for those that come next where the home is full or down.

use std::mem;

use sha2::{Digest, Sha256};

/// The replicas of one upstream on a ring. Each stands at points that follow from its name alone, the more the heavier it
/// is; a request belongs to the first point at or after its hash. So a replica that comes takes its share from the others
/// and moves nothing between them, and one that goes leaves its share to them.
///
/// Pools of more than 2,600 in weight have fewer points for each, to keep a ring within some 4 MB. There, a replica moves
/// more than its share if the whole weight passes the next power of two with it.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Ordered by where they are.
    points: Vec<Point>,
    replicas: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    at: u64,
    /// The replica's.
    place: usize,
}

/// For each 1 of weight. A share is then some 10 percent off, and less for a heavier replica.
const POINTS: u64 = 100;
/// On one ring, unless there are more replicas than that.
const MOST_POINTS: u64 = 1 << 18;

impl Ring {
    /// A ring of replicas, each with its name and weight. A weight of 0 counts as 1.
    #[must_use]
    pub fn new(replicas: impl IntoIterator<Item = (impl AsRef<str>, u32)>) -> Self {
        let seeded = |(name, weight): (_, u32)| (seed(AsRef::as_ref(&name)), POINTS * u64::from(weight.max(1)));
        let replicas: Vec<(u64, u64)> = replicas.into_iter().map(seeded).collect();
        let wanted = replicas.iter().fold(0_u64, |sum, (_, points)| sum.saturating_add(*points));
        let halvings = (0..u64::BITS).find(|halvings| wanted >> halvings <= MOST_POINTS).unwrap_or_default();
        let of_replica = |(place, &(seed, points)): (usize, &(u64, u64))| {
            let count = (points >> halvings).max(1);
            (1..=count).map(move |number| Point { at: scatter(seed, number), place })
        };
        let mut points: Vec<Point> = replicas.iter().enumerate().flat_map(of_replica).collect();
        points.sort_unstable();
        Self { points, replicas: replicas.len() }
    }

    /// The places of all replicas, in the order given, each once: the home of `hash` first, and then those that follow on
    /// the ring.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let home = self.points.partition_point(|point| point.at < hash);
        let (before, after) = self.points.split_at(home);
        let mut seen = vec![false; self.replicas];
        let mut is_new = move |place: usize| seen.get_mut(place).is_some_and(|seen| !mem::replace(seen, true));
        let places = after.iter().chain(before).map(|point| point.place);
        places.filter(move |place| is_new(*place)).take(self.replicas)
    }
}

/// Where the points of a name begin.
fn seed(name: &str) -> u64 {
    AffinityHash::new().add_part(name.as_bytes()).finish()
}

/// `SplitMix64`, whose numbers are spread evenly whatever the seed is.
fn scatter(seed: u64, number: u64) -> u64 {
    let mixed = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What a request is known by on the ring: a hash of its parts, such as a model and a text. It is the same on every
/// machine and in every version, so that gateways beside each other send a request to the same home.
#[derive(Clone, Debug, Default)]
#[must_use = "a hash is what `finish` returns"]
pub struct AffinityHash(Sha256);

impl AffinityHash {
    /// The hash of no parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part. Where one part ends and the next begins makes a difference.
    pub fn add_part(mut self, part: &[u8]) -> Self {
        // No machine has slices of more than 64 bits in length.
        self.0.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(part);
        self
    }

    /// The hash of what was added.
    #[must_use]
    pub fn finish(self) -> u64 {
        self.0.finalize().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn hash(number: u64) -> u64 {
        scatter(0, number)
    }

    fn home<'a>(replicas: &'a [(String, u32)], ring: &Ring, hash: u64) -> &'a str {
        &replicas[ring.walk(hash).next().unwrap()].0
    }

    fn ring(replicas: &[(String, u32)]) -> Ring {
        Ring::new(replicas.iter().map(|(name, weight)| (name, *weight)))
    }

    #[test]
    fn nobody_lives_on_an_empty_ring() {
        assert_eq!(Ring::new([("", 0); 0]).walk(1).next(), None);
    }

    #[test]
    fn the_ring_closes() {
        let ring = Ring::new([("a", 1), ("b", 1)]);
        for hash in [0, ring.points.last().unwrap().at + 1, u64::MAX] {
            assert_eq!(ring.walk(hash).next(), Some(ring.points[0].place));
        }
        assert_eq!(ring.walk(ring.points[7].at).next(), Some(ring.points[7].place));
    }

    #[test]
    fn two_of_one_name_are_both_found() {
        let ring = Ring::new([("a", 1), ("a", 1), ("b", 1)]);
        assert_eq!(ring.walk(5).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2]));
    }

    #[test]
    fn where_a_part_ends_makes_a_difference() {
        let of = |parts: &[&str]| {
            parts.iter().fold(AffinityHash::new(), |hash, part| hash.add_part(part.as_bytes())).finish()
        };
        let all = [of(&[]), of(&[""]), of(&["abc"]), of(&["ab", "c"]), of(&["a", "bc"]), of(&["abc", ""])];
        assert_eq!(BTreeSet::from(all).len(), all.len());
        assert_eq!(of(&["ab", "c"]), 4_894_961_262_789_525_962, "the same on every machine and in every version");
    }

    #[test]
    fn heavy_pools_stay_small_and_keep_their_shares() {
        let ring = Ring::new([("a", u32::MAX), ("b", u32::MAX / 3), ("c", 1)]);
        assert!(ring.points.len() <= 1 + (1 << 18), "{}", ring.points.len());
        let counts = [0, 1, 2].map(|place| ring.points.iter().filter(|point| point.place == place).count());
        assert!(counts[0].abs_diff(3 * counts[1]) <= 3 && counts[2] == 1, "{counts:?}");
        let many = Ring::new((0..=1 << 18).map(|number| (number.to_string(), 1)));
        assert_eq!(many.points.len(), (1 << 18) + 1);
    }

    fn any_replicas(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(String, u32)>> {
        let named = |replicas: BTreeMap<String, u32>| replicas.into_iter().collect::<Vec<_>>();
        prop::collection::btree_map("[a-z0-9.:]{1,12}", 1_u32..5, count).prop_map(named).prop_shuffle()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_replica_is_found_once(replicas in any_replicas(0..20), hash in any::<u64>()) {
            let walk: Vec<usize> = ring(&replicas).walk(hash).collect();
            prop_assert_eq!(walk.len(), replicas.len());
            prop_assert_eq!(walk.into_iter().collect::<BTreeSet<_>>().len(), replicas.len());
        }

        #[test]
        fn shares_follow_the_weights(replicas in any_replicas(1..8)) {
            let ring = ring(&replicas);
            let mut counts = vec![0.0; replicas.len()];
            (0..10_000).for_each(|number| counts[ring.walk(hash(number)).next().unwrap()] += 1.0);
            let weight: u32 = replicas.iter().map(|(_, weight)| weight).sum();
            for ((name, own), count) in replicas.iter().zip(counts) {
                let expected = 10_000.0 * f64::from(*own) / f64::from(weight);
                prop_assert!((0.5..1.6).contains(&(count / expected)), "{name}: {count} instead of {expected}");
            }
        }

        #[test]
        fn one_that_comes_or_goes_moves_its_own_share_only(replicas in any_replicas(2..12), seed in any::<u64>()) {
            let (last, others) = replicas.split_last().unwrap();
            let (with, without) = (ring(&replicas), ring(others));
            for number in 0..500 {
                let hash = hash(seed.wrapping_add(number));
                let (before, after) = (home(others, &without, hash), home(&replicas, &with, hash));
                prop_assert!(before == after || after == last.0, "from {before} to {after}");
                // Nor does the order of the others change, where the home is full.
                let names = |replicas: &[(String, u32)], ring: &Ring| -> Vec<String> {
                    ring.walk(hash).map(|place| replicas[place].0.clone()).collect()
                };
                let mut rest = names(&replicas, &with);
                rest.retain(|name| *name != last.0);
                prop_assert_eq!(rest, names(others, &without));
            }
        }

        #[test]
        fn the_order_given_makes_no_difference(replicas in any_replicas(1..12), hash in any::<u64>()) {
            let reversed: Vec<_> = replicas.iter().rev().cloned().collect();
            prop_assert_eq!(home(&replicas, &ring(&replicas), hash), home(&reversed, &ring(&reversed), hash));
        }
    }
}
