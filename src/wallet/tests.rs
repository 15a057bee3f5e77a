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
    purse.reserve(usd(cost), Trust::WhileItLasts, now)
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
    assert_eq!(reserve(&purse, "0.2", at(0)).unwrap_err(), Short::Ask(usd("0.2")));
    assert_eq!(purse.reserve(usd("0.2"), Trust::ForWantOfBetter, at(0)).unwrap_err(), Short::Empty);
}

#[test]
fn an_allowance_that_ran_out_is_asked_for_again_and_spent_if_nobody_answers() {
    let purse = purse(&word("10", "2", "0"));
    reserve(&purse, "0.5", at(0)).unwrap().settle(usd("0.5"));
    assert!(reserve(&purse, "0.5", at(59)).is_ok());
    assert_eq!(
        reserve(&purse, "0.5", at(60)).unwrap_err(),
        Short::Ask(usd("2")),
        "the spent, the cost, twice the spent"
    );
    let last = purse.reserve(usd("1.5"), Trust::ForWantOfBetter, at(3600)).unwrap();
    assert_eq!(purse.reserve(usd("0.01"), Trust::ForWantOfBetter, at(3600)).unwrap_err(), Short::Empty);
    last.settle(usd("1.5"));
}

#[test]
fn an_allowance_that_is_used_is_renewed_before_its_end() {
    let purse = purse(&word("10", "2", "0"));
    assert_eq!(purse.wish(at(50)), None, "nobody uses it");
    reserve(&purse, "0.5", at(1)).unwrap().settle(usd("0.5"));
    assert_eq!(purse.wish(at(20)), None, "there is enough, and time");
    assert_eq!(purse.wish(at(40)), Some(usd("1.5")));
    purse.hear(&word("9.5", "2.5", "0.5"), at(40));
    reserve(&purse, "1.9", at(41)).unwrap().settle(usd("1.9"));
    assert_eq!(purse.wish(at(42)), Some(usd("5.7")), "there is less than was spent since");
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
fn where_nobody_grants_anything_the_balance_is_there_to_be_spent() {
    let purse = purse(&Word { balance: usd("0.03"), allowance: None });
    reserve(&purse, "0.02", at(0)).unwrap().settle(usd("0.02"));
    assert_eq!(reserve(&purse, "0.02", at(0)).unwrap_err(), Short::Empty);
    purse.hear(&Word { balance: usd("0.01"), allowance: None }, at(9));
    assert_eq!(purse.left(), usd("0.01"), "what was spent is no longer in the balance");
    assert_eq!(purse.wish(at(100)), None);
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
                    match purse.reserve(Usd::from_nanos(cost), Trust::WhileItLasts, at(clock)) {
                        Ok(hold) => running.push((hold, cost)),
                        Err(Short::Ask(wanted)) => purse.hear(&keeper.word(wanted.nanos()), at(clock)),
                        Err(Short::Empty) => {}
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
                Step::Renew => if let Some(wanted) = purse.wish(at(clock)) {
                    purse.hear(&keeper.word(wanted.nanos()), at(clock));
                },
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
