//! Metrics that are read at each scrape: how much of its limits a key uses, the balances of wallets, and dropped log lines. Other
//! modules know them, and give plain numbers.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use keymeter_core::{
    key::KeyId,
    limit::{LimitName, Scope, ScopeLimits},
    money::Usd,
};

use super::{KeySeries, key::escape};

/// How much of each limit is taken: 1 is all of it, more is owed.
pub type Shares = Vec<(LimitName, f64)>;

/// How much of its limits a team or an owner has taken.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopeShares {
    /// Which of the two it is.
    pub scope: Scope,
    /// Its id.
    pub id: Arc<str>,
    /// How much of each.
    pub shares: Shares,
}

/// Wallets, and what is known to be in them.
pub type Balances = Vec<(Arc<str>, Usd)>;

const SHARE: &str = "keymeter_key_limit_used_ratio";
const SCOPE_SHARE: &str = "keymeter_scope_limit_used_ratio";
const BALANCE: &str = "keymeter_wallet_balance_usd";
const DROPPED: &str = "keymeter_log_lines_dropped_total";

impl KeySeries {
    /// Adds to `text` how much of its limits each key with its own series uses, as `shares` says.
    pub fn write_shares(&self, text: &mut String, shares: impl Fn(&KeyId, &ScopeLimits) -> Option<Shares>) {
        let lines = self.all().into_iter().filter_map(|key| {
            let id = key.id()?;
            Some((id.clone(), shares(id, &key.limits())?))
        });
        let help = "How much of a key's limit is used now: 1 is all of it; above 1, more was used than was reserved.";
        written(text, (SHARE, "gauge"), help, |text| {
            lines.into_iter().try_for_each(|(id, shares)| {
                shares.into_iter().try_for_each(|(limit, share)| {
                    writeln!(text, "{SHARE}{{key_id=\"{}\",limit=\"{limit}\"}} {}", id.as_str(), rounded(share))
                })
            })
        });
    }

    /// Adds to `text` how much of their limits teams and owners have taken, of as many as there may be keys.
    pub fn write_scope_shares(&self, text: &mut String, mut scopes: Vec<ScopeShares>) {
        scopes.sort_unstable_by(|one, other| (one.scope as u8, &one.id).cmp(&(other.scope as u8, &other.id)));
        scopes.truncate(self.max());
        let help = "How much of a team's or an owner's limit is used now, by all of its keys: 1 is all of it.";
        written(text, (SCOPE_SHARE, "gauge"), help, |text| {
            scopes.iter().try_for_each(|ScopeShares { scope, id, shares }| {
                shares.iter().try_for_each(|(limit, share)| {
                    write!(text, "{SCOPE_SHARE}{{scope=\"{}\",id=\"", scope.as_str())?;
                    escape(text, id);
                    writeln!(text, "\",limit=\"{limit}\"}} {}", rounded(*share))
                })
            })
        });
    }

    /// Adds to `text` the balances of wallets, of as many as there may be keys.
    pub fn write_balances(&self, text: &mut String, mut balances: Balances) {
        balances.sort_unstable();
        balances.truncate(self.max());
        let help = "The balance of a wallet in US dollars, as last received, less what this gateway has charged since.";
        written(text, (BALANCE, "gauge"), help, |text| {
            balances.iter().try_for_each(|(wallet, balance)| {
                write!(text, "{BALANCE}{{wallet=\"")?;
                escape(text, wallet);
                writeln!(text, "\"}} {balance}")
            })
        });
    }
}

/// Adds to `text` how many lines the logs have dropped.
pub fn write_dropped_lines(text: &mut String, access: u64, process: u64) {
    let help = "Lines that were dropped because their reader is too slow, by log: access or process.";
    written(text, (DROPPED, "counter"), help, |text| {
        [("access", access), ("process", process)]
            .into_iter()
            .try_for_each(|(log, lines)| writeln!(text, "{DROPPED}{{log=\"{log}\"}} {lines}"))
    });
}

/// One metric with its lines, if it has some.
fn written(
    text: &mut String,
    (metric, kind): (&str, &str),
    help: &str,
    lines: impl FnOnce(&mut String) -> fmt::Result,
) {
    let start = text.len();
    let head = write!(text, "# HELP {metric} {help}\n# TYPE {metric} {kind}\n");
    let end = text.len();
    // Writing to a `String` does not fail.
    let _ = head.and_then(|()| lines(text));
    if text.len() == end {
        text.truncate(start);
    }
}

/// A share to a millionth, so that it takes few bytes.
fn rounded(share: f64) -> f64 {
    (share * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wallets_name_is_escaped_and_their_number_bounded() {
        let series = Arc::new(KeySeries::new(2));
        let wallet = |name: &str, nanos| (Arc::from(name), Usd::from_nanos(nanos));
        let mut text = String::new();
        series.write_balances(&mut text, vec![wallet("c", 1), wallet("b\"}", -50_000_000), wallet("a", 1_500_000_000)]);
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [r#"keymeter_wallet_balance_usd{wallet="a"} 1.5"#, r#"keymeter_wallet_balance_usd{wallet="b\"}"} -0.05"#]
        );
    }

    #[test]
    fn a_key_has_a_share_of_each_limit_that_it_has() {
        let series = Arc::new(KeySeries::new(1));
        let own = series.of(&"key_a".parse().unwrap());
        let folded = series.of(&"key_b".parse().unwrap());
        let mut text = String::new();
        let quota = LimitName::Quota("usd_per_month".parse().unwrap());
        let shares =
            vec![(LimitName::RequestsPerMinute, 1.0 / 3.0), (LimitName::ConcurrentRequests, 2.0), (quota, 0.5)];
        series.write_shares(&mut text, |_, _| Some(shares.clone()));
        let teams = [("r\"d", 0.25), ("a", 1.0)];
        let of_team = |(id, share)| ScopeShares { scope: Scope::Team, id: Arc::from(id), shares: vec![(quota, share)] };
        series.write_scope_shares(&mut text, teams.map(of_team).into());
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                r#"keymeter_key_limit_used_ratio{key_id="key_a",limit="requests_per_minute"} 0.333333"#,
                r#"keymeter_key_limit_used_ratio{key_id="key_a",limit="concurrent_requests"} 2"#,
                r#"keymeter_key_limit_used_ratio{key_id="key_a",limit="usd_per_month"} 0.5"#,
                r#"keymeter_scope_limit_used_ratio{scope="team",id="a",limit="usd_per_month"} 1"#,
            ]
        );
        drop((own, folded));
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        let mut text = String::new();
        let series = Arc::new(KeySeries::new(1));
        series.write_balances(&mut text, Vec::new());
        series.write_shares(&mut text, |_, _| None);
        assert_eq!(text, "");
    }
}
