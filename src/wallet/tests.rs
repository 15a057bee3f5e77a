use proptest::prelude::*;

use super::*;

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

fn at(seconds: u64) -> Moment {
    Moment::from_nanos(seconds * 1_000_000_000)
}

fn word(balance: &str, granted: &str, counted: &str) -> Word {
    let lasts = Duration::from_secs(60);
    Word { balance: usd(balance), allowance: Some(Allowance { granted: usd(granted), counted: usd(counted), lasts }) }
}

fn purse(word: &Word) -> Arc<Purse> {
    let purse = Arc::new(Purse::new("team_a".into()));
    purse.hear(word, at(0));
    purse
}

fn reserve(purse: &Arc<Purse>, cost: &str, now: Moment) -> Result<Hold, Short> {
    purse.reserve(Cost::AtMost(usd(cost)), Trust::WhileItLasts, now)
}

#[test]
fn of_two_hundred_requests_at_once_those_run_that_the_balance_pays_for() {
    let purse = purse(&word("1", "1", "0"));
    let admitted: Vec<_> = (0..200).filter_map(|_| reserve(&purse, "0.1", at(0)).ok()).collect();
    assert_eq!(admitted.len(), 10);
    drop(admitted);
    assert_eq!(purse.left(), usd("1"), "what was not spent is there again");
}

#[test]
fn what_a_request_cost_is_gone_though_it_is_more_than_it_reserved() {
    let purse = purse(&word("1", "1", "0"));
    reserve(&purse, "0.1", at(0)).unwrap().settle(usd("0.7"));
    assert_eq!(purse.left(), usd("0.3"));
    assert_eq!(reserve(&purse, "0.31", at(0)).unwrap_err(), Short::Empty, "the keeper was asked just now");
    drop(reserve(&purse, "0.3", at(0)).unwrap());
}

#[test]
fn the_request_after_the_one_that_uses_the_wallet_up_is_refused() {
    let purse = purse(&word("1", "1", "0"));
    reserve(&purse, "0.1", at(0)).unwrap().settle(usd("0.949999999"));
    reserve(&purse, "0", at(0)).unwrap().settle(usd("0.000000001"));
    assert_eq!(reserve(&purse, "0.001", at(0)).unwrap_err(), Short::Empty, "exactly five cents are left");
    purse.hear(&word("5.05", "2", "0.95"), at(1));
    drop(reserve(&purse, "0.001", at(1)).unwrap());
}

#[test]
fn of_a_wallet_of_which_nothing_was_heard_the_keeper_is_asked() {
    let purse = Arc::new(Purse::new("ada".into()));
    assert_eq!(reserve(&purse, "0.2", at(0)).unwrap_err(), Short::Ask);
    assert_eq!(purse.reserve(Cost::AtMost(usd("0.2")), Trust::ForWantOfBetter, at(0)).unwrap_err(), Short::Empty);
}

#[test]
fn an_allowance_that_ran_out_is_asked_for_again_and_spent_if_nobody_answers() {
    let purse = purse(&word("10", "2", "0"));
    reserve(&purse, "0.5", at(0)).unwrap().settle(usd("0.5"));
    assert!(reserve(&purse, "0.5", at(59)).is_ok());
    assert_eq!(reserve(&purse, "0.5", at(60)).unwrap_err(), Short::Ask);
    let last = purse.reserve(Cost::AtMost(usd("1.5")), Trust::ForWantOfBetter, at(3600)).unwrap();
    assert_eq!(purse.reserve(Cost::AtMost(usd("0.01")), Trust::ForWantOfBetter, at(3600)).unwrap_err(), Short::Empty);
    last.settle(usd("1.5"));
}

fn wished(purse: &Purse, now: Moment) -> Option<(Usd, Usd)> {
    purse.wish(now).map(|wish| (wish.wanted, wish.granted))
}

#[test]
fn an_allowance_that_is_used_is_renewed_before_its_end() {
    let purse = purse(&word("10", "1.5", "0"));
    let hold = reserve(&purse, "0.5", at(1)).unwrap();
    assert_eq!(wished(&purse, at(20)), None, "there is enough, and time");
    assert_eq!(wished(&purse, at(40)), Some((usd("0.5"), usd("1.5"))));
    hold.settle(usd("0.5"));
    purse.hear(&word("9.5", "2.5", "0.5"), at(40));
    let hold = reserve(&purse, "1.9", at(41)).unwrap();
    assert_eq!(wished(&purse, at(42)), Some((usd("1.9"), usd("2.5"))), "there is less than is reserved");
    hold.settle(usd("1.9"));
    let _hold = reserve(&purse, "0.05", at(42)).unwrap();
    assert_eq!(wished(&purse, at(42)), Some((usd("5.75"), usd("2.5"))), "twice what was spent since");
}

#[test]
fn an_allowance_that_nobody_uses_goes_back_but_for_an_eighth_of_the_balance() {
    let purse = purse(&word("8", "4", "0"));
    reserve(&purse, "0.5", at(1)).unwrap().settle(usd("0.8"));
    assert_eq!(wished(&purse, Moment::from_nanos(1_400_000_000)), None, "not yet");
    assert_eq!(wished(&purse, at(2)), Some((usd("1.7"), usd("1.7"))), "0.8 is spent, and an eighth of 7.2 kept");
    assert_eq!(purse.left(), usd("0.9"));
    assert_eq!(wished(&purse, at(3)), None, "once");
    purse.hear(&word("7.2", "1.7", "0.8"), at(3));
    assert_eq!((purse.left(), wished(&purse, at(30))), (usd("0.9"), None));
}

#[test]
fn what_others_need_goes_back_at_once_but_for_what_runs() {
    let purse = purse(&word("8", "4", "0"));
    let _hold = reserve(&purse, "1.5", at(1)).unwrap();
    purse.recall();
    assert_eq!(wished(&purse, at(1)), Some((usd("1.5"), usd("1.5"))));
    assert_eq!(purse.left(), Usd::ZERO);
    let asking = purse.asking(Cost::AtMost(usd("1")));
    purse.hear(&word("8", "2.5", "0"), at(2));
    purse.recall();
    assert!(wished(&purse, at(2)).is_none_or(|(_, granted)| granted == usd("2.5")), "whoever asks needs it");
    drop(asking);
}

#[test]
fn what_probably_costs_more_than_there_is_runs_alone() {
    let purse = purse(&word("1", "0.5", "0"));
    let probably = |cost: &str, now| purse.reserve(Cost::Probably(usd(cost)), Trust::WhileItLasts, now);
    assert_eq!(probably("3", at(5)).unwrap_err(), Short::Ask, "more may be granted");
    purse.hear(&word("1", "1", "0"), at(5));
    let alone = probably("3", at(5)).unwrap();
    assert_eq!(probably("0.1", at(5)).unwrap_err(), Short::Empty);
    alone.settle(usd("0.2"));
    assert_eq!(purse.left(), usd("0.8"));
    let _small = probably("0.1", at(5)).unwrap();
    assert_eq!(probably("3", at(5)).unwrap_err(), Short::Empty, "it does not run alone");
}

#[test]
fn an_answer_that_was_overtaken_changes_nothing() {
    let purse = purse(&word("10", "2", "0"));
    reserve(&purse, "1", at(0)).unwrap().settle(usd("1"));
    purse.hear(&word("9", "3", "1"), at(2));
    purse.hear(&word("10", "2", "0"), at(1));
    assert_eq!(purse.left(), usd("2"));
}

#[test]
fn a_keeper_that_was_restored_from_a_backup_grants_anew() {
    let purse = purse(&word("10", "2", "0"));
    reserve(&purse, "1.5", at(0)).unwrap().settle(usd("1.5"));
    purse.hear(&word("8.5", "3", "1.5"), at(2));
    assert_eq!(purse.left(), usd("1.5"));
    purse.hear(&word("10", "2", "0"), at(4));
    assert_eq!(purse.left(), usd("2"), "what it has forgotten is not held against us");
}

#[test]
fn where_nobody_grants_anything_the_balance_is_there_to_be_spent() {
    let purse = purse(&Word { balance: usd("0.03"), allowance: None });
    reserve(&purse, "0.02", at(0)).unwrap().settle(usd("0.02"));
    assert_eq!(reserve(&purse, "0.02", at(0)).unwrap_err(), Short::Empty);
    purse.hear(&Word { balance: usd("0.01"), allowance: None }, at(9));
    assert_eq!(purse.left(), usd("0.01"), "what was spent is no longer in the balance");
    assert_eq!(wished(&purse, at(100)), None);
}

const CENT: i64 = 10_000_000;

/// One gateway and its keeper: what is done, one after another.
#[derive(Clone, Debug)]
enum Step {
    Begin(u32),
    End { which: usize, cost: u32 },
    Count,
    Renew,
    Credit(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..300_u32).prop_map(Step::Begin),
        4 => (any::<usize>(), 0..300_u32).prop_map(|(which, cost)| Step::End { which, cost }),
        2 => Just(Step::Count),
        2 => Just(Step::Renew),
        1 => (0..500_u32).prop_map(Step::Credit),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    /// Where no request costs more than it reserved, no balance is ever below zero, whenever records arrive and
    /// whatever is asked for; and with all counted the keeper and the purse know the same.
    #[test]
    fn a_balance_that_is_reserved_from_is_never_overdrawn(steps in steps()) {
        let mut keeper = Keeper { balance: 500 * CENT, granted: 0, counted: 0 };
        let purse = Arc::new(Purse::new("ada".into()));
        let (mut running, mut uncounted, mut clock) = (Vec::new(), 0_i64, 0_u64);
        for step in steps {
            clock += 2;
            match step {
                Step::Begin(cost) => {
                    let cost = i64::from(cost) * CENT;
                    match purse.reserve(Cost::AtMost(Usd::from_nanos(cost)), Trust::WhileItLasts, at(clock)) {
                        Ok(hold) => running.push((hold, cost)),
                        Err(Short::Ask) => {
                            let _asking = purse.asking(Cost::AtMost(Usd::from_nanos(cost)));
                            let wish = purse.question();
                            keeper.granted = keeper.granted.min(wish.granted.nanos());
                            purse.hear(&keeper.word(wish.wanted.nanos()), at(clock));
                        }
                        Err(Short::Wait | Short::Empty) => {}
                    }
                }
                Step::End { which, cost } if !running.is_empty() => {
                    let (hold, reserved) = running.swap_remove(which % running.len());
                    let cost = (i64::from(cost) * CENT).min(reserved);
                    hold.settle(Usd::from_nanos(cost));
                    uncounted += cost;
                }
                Step::End { .. } => {}
                Step::Count => keeper.count(std::mem::take(&mut uncounted)),
                Step::Renew => {
                    if let Some(wish) = purse.wish(at(clock)) {
                        keeper.granted = keeper.granted.min(wish.granted.nanos());
                        purse.hear(&keeper.word(wish.wanted.nanos()), at(clock));
                    }
                }
                Step::Credit(amount) => keeper.balance += i64::from(amount) * CENT,
            }
            prop_assert!(keeper.balance - uncounted >= 0, "overdrawn by what is not counted yet");
            prop_assert!(keeper.granted - keeper.counted <= keeper.balance, "more granted than there is");
        }
    }
}

/// The keeper of a wallet on which one gateway draws, in nano-dollars.
struct Keeper {
    balance: i64,
    granted: i64,
    counted: i64,
}

impl Keeper {
    fn word(&mut self, wanted: i64) -> Word {
        let outstanding = (self.granted - self.counted).max(wanted.min(self.balance));
        self.granted = self.counted + outstanding;
        let [granted, counted] = [self.granted, self.counted].map(Usd::from_nanos);
        let allowance = Allowance { granted, counted, lasts: Duration::from_secs(60) };
        Word { balance: Usd::from_nanos(self.balance), allowance: Some(allowance) }
    }

    fn count(&mut self, cost: i64) {
        self.balance -= cost;
        self.counted += cost;
    }
}
