//! Throttling of bad keys by address, before they cost a look-up. Attempts are counted in a sketch, so that memory is
//! bounded for any traffic. Cells of a sketch are shared, so that one address may be throttled for another's attempts:
//! the sketch is therefore asked about unknown keys only, never about a known key. A key that is new to the process looks
//! unknown until it is looked up, so some throttled keys are looked up all the same.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use pingora_limits::rate::Rate;

/// Counts the bad keys of each address.
pub struct AuthThrottle {
    bad_keys: Rate,
    /// Bad keys within one span of time, from which on an address is throttled for the rest of it.
    most: isize,
    /// Look-ups that were throttled or let through in spite of it.
    throttled: AtomicU64,
}

/// Of so many look-ups that are throttled, one is made. Whoever has a good key and tries again each second comes through
/// within seconds, and a flood costs the key service a tenth of itself at most.
const ONE_LOOK_UP_OF: u64 = 10;

/// Bad keys that an address may send to a gateway in a second before it is throttled. Programs with an old
/// key and a retry loop stay below it; guessing is hopeless at any rate.
const BAD_KEYS_PER_SECOND: isize = 20;

/// The sketch's rows, each with its own hash, and the cells of a row: 1 MiB in all. A count is never too small; it is too
/// large by more than e / 16,384 of all bad keys of the second with a probability of e⁻⁴ (1.8 %) at most (Cormode and
/// Muthukrishnan, "An improved data stream summary", 2005). So 100,000 bad keys a second, from whatever addresses, throttle
/// 1 in 55 addresses that sent fewer than 4, and none whose key is known.
const ROWS: usize = 4;
const CELLS: usize = 16_384;

impl Default for AuthThrottle {
    fn default() -> Self {
        Self::new(BAD_KEYS_PER_SECOND, Duration::from_secs(1))
    }
}

impl AuthThrottle {
    /// Throttles an address that sends `most` bad keys within a `span`, until the next one begins.
    #[must_use]
    pub fn new(most: isize, span: Duration) -> Self {
        Self { bad_keys: Rate::new_with_estimator_config(span, ROWS, CELLS), most, throttled: AtomicU64::new(0) }
    }

    /// A bad key came from `address`.
    pub fn bad_key(&self, address: IpAddr) {
        self.bad_keys.observe(&household(address), 1);
    }

    /// Whether `address` sent too many bad keys in this span.
    #[must_use]
    pub fn is_throttled(&self, address: IpAddr) -> bool {
        self.bad_keys.observe(&household(address), 0) >= self.most
    }

    /// Whether a look-up from a throttled address is made in spite of it: one of each ten is, and not always the same one,
    /// so that nobody misses it for coming in turn with a flood.
    #[must_use]
    pub fn may_look_up(&self) -> bool {
        let number = self.throttled.fetch_add(1, Ordering::Relaxed);
        number % ONE_LOOK_UP_OF == mixed(number / ONE_LOOK_UP_OF + 1) % ONE_LOOK_UP_OF
    }
}

/// A number of which all bits depend on all of `seed`'s (the finalizer of `SplitMix64`).
fn mixed(seed: u64) -> u64 {
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The addresses that one subscriber can choose from: an IPv4 address, or an IPv6 /64.
fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => match six.to_ipv4_mapped() {
            Some(four) => IpAddr::V4(four),
            None => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() >> 64 << 64)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_throttled_after_its_bad_keys_and_another_is_not() {
        let strangers = AuthThrottle::default();
        let (bad, good): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..BAD_KEYS_PER_SECOND {
            strangers.bad_key(bad);
        }
        assert!(strangers.is_throttled(bad));
        assert!(!strangers.is_throttled(good));
    }

    #[test]
    fn one_of_ten_look_ups_that_are_throttled_is_made() {
        let strangers = AuthThrottle::default();
        for _ in 0..100 {
            assert_eq!((0..10).filter(|_| strangers.may_look_up()).count(), 1);
        }
    }

    #[test]
    fn whoever_comes_in_turn_with_a_flood_comes_through() {
        for others in 0..30 {
            for start in 0..10 {
                let strangers = AuthThrottle::default();
                (0..start).for_each(|_| _ = strangers.may_look_up());
                let is_through = |_: &u32| {
                    (0..others).for_each(|_| _ = strangers.may_look_up());
                    strangers.may_look_up()
                };
                let tries = (1..1000).find(is_through).unwrap();
                assert!(tries <= 80, "after {tries} tries, with {others} others between them");
            }
        }
    }

    #[test]
    fn a_flood_from_everywhere_throttles_few_others() {
        let strangers = AuthThrottle::default();
        for number in 0..100_000_u32 {
            strangers.bad_key(IpAddr::V4((0x0A00_0000 + number).into()));
        }
        let others = (0..1000_u32).map(|number| IpAddr::V4((0xC000_0200 + number).into()));
        let throttled = others.filter(|address| strangers.is_throttled(*address)).count();
        assert!(throttled <= 30, "{throttled} of 1000");
    }

    #[test]
    fn a_subscribers_addresses_count_together() {
        let same = |one: &str, other: &str| household(one.parse().unwrap()) == household(other.parse().unwrap());
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
    }
}
