use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::clock::MonotonicTime;

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

fn at(seconds: u64) -> MonotonicTime {
    MonotonicTime::from_nanos(seconds * 1_000_000_000)
}

/// Later than all before it.
fn word(balance: &str, granted: &str, counted: &str) -> BalanceUpdate {
    thread_local! {
        static VERSION: std::cell::Cell<u64> = const { std::cell::Cell::new(100) };
    }
    numbered(VERSION.replace(VERSION.get() + 1), balance, granted, counted)
}

fn numbered(version: u64, balance: &str, granted: &str, counted: &str) -> BalanceUpdate {
    let lasts = Duration::from_mins(1);
    let allowance = Allowance { version, granted: usd(granted), counted: usd(counted), lasts };
    BalanceUpdate { balance: usd(balance), allowance: Some(allowance) }
}

fn wallet(word: &BalanceUpdate) -> Arc<WalletAllowance> {
    let wallet = Arc::new(WalletAllowance::new("team_a".into()));
    wallet.update(word, at(0));
    wallet
}

fn reserve(wallet: &Arc<WalletAllowance>, cost: &str, now: MonotonicTime) -> Result<Hold, AllowanceError> {
    wallet.reserve(Cost::AtMost(usd(cost)), StalePolicy::WhileItLasts, now)
}

#[test]
fn of_two_hundred_requests_at_once_those_run_that_the_balance_pays_for() {
    let wallet = wallet(&word("1", "1", "0"));
    let admitted: Vec<_> = (0..200).filter_map(|_| reserve(&wallet, "0.1", at(0)).ok()).collect();
    assert_eq!(admitted.len(), 10);
    drop(admitted);
    assert_eq!(wallet.left(), usd("1"), "what was not spent is there again");
}

#[test]
fn what_a_request_cost_is_gone_though_it_is_more_than_it_reserved() {
    let wallet = wallet(&word("1", "1", "0"));
    reserve(&wallet, "0.1", at(0)).unwrap().settle(usd("0.7"));
    assert_eq!(wallet.left(), usd("0.3"));
    assert_eq!(
        reserve(&wallet, "0.31", at(0)).unwrap_err(),
        AllowanceError::Empty,
        "the accounting service was asked just now"
    );
    drop(reserve(&wallet, "0.3", at(0)).unwrap());
}

#[test]
fn the_request_after_the_one_that_uses_the_wallet_up_is_refused() {
    let wallet = wallet(&word("1", "1", "0"));
    reserve(&wallet, "0.1", at(0)).unwrap().settle(usd("0.949999999"));
    reserve(&wallet, "0", at(0)).unwrap().settle(usd("0.000000001"));
    assert_eq!(reserve(&wallet, "0.001", at(0)).unwrap_err(), AllowanceError::Empty, "exactly five cents are left");
    wallet.update(&word("5.05", "2", "0.95"), at(1));
    drop(reserve(&wallet, "0.001", at(1)).unwrap());
}

#[test]
fn of_a_wallet_of_which_nothing_is_known_the_accounting_service_is_asked() {
    let wallet = Arc::new(WalletAllowance::new("ada".into()));
    assert_eq!(reserve(&wallet, "0.2", at(0)).unwrap_err(), AllowanceError::Ask);
    assert_eq!(
        wallet.reserve(Cost::AtMost(usd("0.2")), StalePolicy::ForWantOfBetter, at(0)).unwrap_err(),
        AllowanceError::Empty
    );
}

#[test]
fn an_allowance_that_ran_out_is_asked_for_again_and_spent_if_nobody_answers() {
    let wallet = wallet(&word("10", "2", "0"));
    reserve(&wallet, "0.5", at(0)).unwrap().settle(usd("0.5"));
    assert!(reserve(&wallet, "0.5", at(59)).is_ok());
    assert_eq!(reserve(&wallet, "0.5", at(60)).unwrap_err(), AllowanceError::Ask);
    let last = wallet.reserve(Cost::AtMost(usd("1.5")), StalePolicy::ForWantOfBetter, at(3600)).unwrap();
    assert_eq!(
        wallet.reserve(Cost::AtMost(usd("0.01")), StalePolicy::ForWantOfBetter, at(3600)).unwrap_err(),
        AllowanceError::Empty
    );
    last.settle(usd("1.5"));
}

fn requested(wallet: &WalletAllowance, now: MonotonicTime) -> Option<(Usd, Usd)> {
    wallet.request(now).map(|request| (request.wanted, request.granted))
}

#[test]
fn an_allowance_that_is_used_is_renewed_before_its_end() {
    let wallet = wallet(&word("10", "1.5", "0"));
    let hold = reserve(&wallet, "0.5", at(1)).unwrap();
    assert_eq!(requested(&wallet, at(20)), None, "there is enough, and time");
    assert_eq!(requested(&wallet, at(40)), Some((usd("0.5"), usd("1.5"))));
    hold.settle(usd("0.5"));
    wallet.update(&word("9.5", "2.5", "0.5"), at(40));
    let hold = reserve(&wallet, "1.9", at(41)).unwrap();
    assert_eq!(requested(&wallet, at(42)), Some((usd("1.9"), usd("2.5"))), "there is less than is reserved");
    hold.settle(usd("1.9"));
    let _hold = reserve(&wallet, "0.05", at(42)).unwrap();
    assert_eq!(requested(&wallet, at(42)), Some((usd("5.75"), usd("2.5"))), "twice what was spent since");
}

#[test]
fn an_allowance_that_nobody_uses_goes_back_but_for_an_eighth_of_the_balance() {
    let wallet = wallet(&word("8", "4", "0"));
    reserve(&wallet, "0.5", at(1)).unwrap().settle(usd("0.8"));
    assert_eq!(requested(&wallet, MonotonicTime::from_nanos(1_400_000_000)), None, "not yet");
    assert_eq!(requested(&wallet, at(2)), Some((usd("1.7"), usd("1.7"))), "0.8 is spent, and an eighth of 7.2 kept");
    assert_eq!(wallet.left(), usd("0.9"));
    assert_eq!(requested(&wallet, at(3)), None, "once");
    wallet.update(&word("7.2", "1.7", "0.8"), at(3));
    assert_eq!((wallet.left(), requested(&wallet, at(30))), (usd("0.9"), None));
}

#[test]
fn what_others_need_goes_back_at_once_but_for_what_runs() {
    let wallet = wallet(&word("8", "4", "0"));
    let _hold = reserve(&wallet, "1.5", at(1)).unwrap();
    wallet.recall();
    assert_eq!(requested(&wallet, at(1)), Some((usd("1.5"), usd("1.5"))));
    assert_eq!(wallet.left(), Usd::ZERO);
    let asking = wallet.asking(Cost::AtMost(usd("1")));
    wallet.update(&word("8", "2.5", "0"), at(2));
    wallet.recall();
    assert!(requested(&wallet, at(2)).is_none_or(|(_, granted)| granted == usd("2.5")), "whoever asks needs it");
    drop(asking);
}

#[test]
fn what_probably_costs_more_than_there_is_runs_alone() {
    let wallet = wallet(&word("1", "0.5", "0"));
    let probably = |cost: &str, now| wallet.reserve(Cost::Probably(usd(cost)), StalePolicy::WhileItLasts, now);
    assert_eq!(probably("3", at(5)).unwrap_err(), AllowanceError::Ask, "more may be granted");
    wallet.update(&word("1", "1", "0"), at(5));
    let alone = probably("3", at(5)).unwrap();
    assert_eq!(probably("0.1", at(5)).unwrap_err(), AllowanceError::Empty);
    alone.settle(usd("0.2"));
    assert_eq!(wallet.left(), usd("0.8"));
    let _small = probably("0.1", at(5)).unwrap();
    assert_eq!(probably("3", at(5)).unwrap_err(), AllowanceError::Empty, "it does not run alone");
}

#[test]
fn an_answer_that_was_overtaken_changes_nothing() {
    let wallet = wallet(&numbered(1, "10", "2", "0"));
    reserve(&wallet, "1", at(0)).unwrap().settle(usd("1"));
    wallet.update(&numbered(3, "9", "3", "1"), at(1));
    wallet.update(&numbered(2, "10", "2.5", "0"), at(2));
    assert_eq!(wallet.left(), usd("2"), "though it was asked for later");
    wallet.update(&numbered(3, "9", "3", "0.5"), at(3));
    assert_eq!(wallet.left(), usd("2"), "and so does one that knows of fewer requests");
}

#[test]
fn what_was_given_back_is_not_there_again_by_a_word_from_before() {
    let wallet = wallet(&numbered(1, "8", "4", "0"));
    wallet.recall();
    assert_eq!(requested(&wallet, at(1)), Some((Usd::ZERO, Usd::ZERO)));
    wallet.update(&numbered(1, "8", "4", "0"), at(2));
    assert_eq!(wallet.left(), Usd::ZERO, "the accounting service did not know yet");
    wallet.update(&numbered(2, "8", "1", "0"), at(2));
    assert_eq!(wallet.left(), usd("1"));
}

#[test]
fn what_the_accounting_service_has_forgotten_is_taken_for_on_its_way() {
    let wallet = wallet(&word("10", "2", "0"));
    reserve(&wallet, "1.5", at(0)).unwrap().settle(usd("1.5"));
    wallet.update(&word("8.5", "3", "1.5"), at(2));
    // It was restored from a backup.
    wallet.update(&word("10", "2", "0"), at(4));
    assert_eq!(wallet.left(), usd("0.5"));
    assert_eq!(wallet.question().wanted, usd("1.5"), "and is asked for beside what is needed");
}

#[test]
fn where_nobody_grants_anything_the_balance_is_there_to_be_spent() {
    let wallet = wallet(&BalanceUpdate { balance: usd("0.03"), allowance: None });
    reserve(&wallet, "0.02", at(0)).unwrap().settle(usd("0.02"));
    assert_eq!(reserve(&wallet, "0.02", at(0)).unwrap_err(), AllowanceError::Empty);
    wallet.update(&BalanceUpdate { balance: usd("0.01"), allowance: None }, at(9));
    assert_eq!(wallet.left(), usd("0.01"), "what was spent is no longer in the balance");
    assert_eq!(requested(&wallet, at(100)), None);
}

const CENT: i64 = 10_000_000;

/// Two gateways, their accounting service, and what is on its way between them: what is done, one after another. Messages arrive in any
/// order, and late ones too.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin {
        gateway: usize,
        cost: u32,
    },
    End {
        which: usize,
        cost: u32,
    },
    /// Records arrive, of the oldest requests.
    Count {
        gateway: usize,
        requests: usize,
    },
    /// What is requested for in advance, and what is given back, goes on its way.
    AllowanceRequest(usize),
    LookUp(usize),
    Recall(usize),
    /// A message arrives at the accounting service, and the answer goes on its way.
    Ask(usize),
    /// An answer arrives.
    Answer(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gateway = || 0..2_usize;
    let step = prop_oneof![
        4 => (gateway(), 0..300_u32).prop_map(|(gateway, cost)| Step::Begin { gateway, cost }),
        3 => (any::<usize>(), 0..300_u32).prop_map(|(which, cost)| Step::End { which, cost }),
        2 => (gateway(), 0..4_usize).prop_map(|(gateway, requests)| Step::Count { gateway, requests }),
        3 => gateway().prop_map(Step::AllowanceRequest),
        1 => gateway().prop_map(Step::LookUp),
        1 => gateway().prop_map(Step::Recall),
        5 => any::<usize>().prop_map(Step::Ask),
        5 => any::<usize>().prop_map(Step::Answer),
    ];
    proptest::collection::vec(step, 1..300)
}

/// What is on its way: of which gateway, asked when, and what.
type Message<T> = (usize, MonotonicTime, T);

#[derive(Default)]
struct World {
    wallets: Vec<Arc<WalletAllowance>>,
    grants: Vec<Grant>,
    balance: i64,
    running: Vec<(usize, Hold, i64)>,
    uncounted: Vec<std::collections::VecDeque<i64>>,
    asked: Vec<Message<Option<AllowanceRequest>>>,
    answers: Vec<Message<(BalanceUpdate, Option<AllowanceRequest>)>>,
    clock: u64,
}

impl World {
    fn new() -> Self {
        let wallets = ["ada", "ada"].map(|id| Arc::new(WalletAllowance::new(id.into()))).to_vec();
        let (grants, uncounted) = (vec![Grant::none(); 2], vec![std::collections::VecDeque::new(); 2]);
        Self { wallets, grants, balance: 500 * CENT, uncounted, ..Self::default() }
    }

    /// A tenth of a second a step: no allowance runs out within a case.
    fn now(&self) -> (MonotonicTime, jiff::Timestamp) {
        (
            MonotonicTime::from_nanos(self.clock * 100_000_000),
            jiff::Timestamp::from_millisecond(i64::try_from(self.clock).unwrap() * 100).unwrap(),
        )
    }

    fn step(&mut self, step: Step) {
        self.clock += 1;
        let (moment, date) = self.now();
        match step {
            Step::Begin { gateway, cost } => {
                let cost = i64::from(cost) * CENT;
                let at_most = Cost::AtMost(Usd::from_nanos(cost));
                match self.wallets[gateway].reserve(at_most, StalePolicy::WhileItLasts, moment) {
                    Ok(hold) => self.running.push((gateway, hold, cost)),
                    Err(AllowanceError::Empty) => {}
                    Err(AllowanceError::Ask | AllowanceError::Wait) => {
                        let _asking = self.wallets[gateway].asking(at_most);
                        self.asked.push((gateway, moment, Some(self.wallets[gateway].question())));
                    }
                }
            }
            Step::End { which, cost } if !self.running.is_empty() => {
                let (gateway, hold, reserved) = self.running.swap_remove(which % self.running.len());
                let cost = (i64::from(cost) * CENT).min(reserved);
                hold.settle(Usd::from_nanos(cost));
                self.uncounted[gateway].push_back(cost);
            }
            Step::Count { gateway, requests } => {
                let requests = requests.min(self.uncounted[gateway].len());
                for cost in self.uncounted[gateway].drain(..requests).collect::<Vec<_>>() {
                    self.balance -= cost;
                    let counted = self.grants[gateway].counted.saturating_add(Usd::from_nanos(cost));
                    self.grants[gateway].counted = counted;
                }
            }
            Step::AllowanceRequest(gateway) => {
                if let Some(request) = self.wallets[gateway].request(moment) {
                    self.asked.push((gateway, moment, Some(request)));
                }
            }
            Step::LookUp(gateway) => self.asked.push((gateway, moment, None)),
            Step::Recall(gateway) => self.wallets[gateway].recall(),
            Step::Ask(which) if !self.asked.is_empty() => {
                let (gateway, asked, request) = self.asked.swap_remove(which % self.asked.len());
                let balance = Usd::from_nanos(self.balance);
                let others = self.grants[1 - gateway].outstanding(date);
                // A look-up of a key whose allowance lasts is answered without a new one.
                if request.is_some() || !self.grants[gateway].lasts_a_while(date) {
                    self.grants[gateway] = self.grants[gateway].next(balance, others, request.as_ref(), date);
                }
                let word = BalanceUpdate { balance, allowance: Some(self.grants[gateway].allowance(date)) };
                self.answers.push((gateway, asked, (word, request)));
            }
            Step::Answer(which) if !self.answers.is_empty() => {
                let (gateway, asked, (word, request)) = self.answers.swap_remove(which % self.answers.len());
                match request {
                    Some(request) => self.wallets[gateway].update_answered(&word, asked, &request),
                    None => self.wallets[gateway].update(&word, asked),
                }
            }
            Step::End { .. } | Step::Ask(_) | Step::Answer(_) => {}
        }
    }

    /// What will be left if all that runs costs what it may.
    fn worst(&self) -> i64 {
        let running: i64 = self.running.iter().map(|(_, _, reserved)| reserved).sum();
        self.balance - running - self.uncounted.iter().flatten().sum::<i64>()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Where no request costs more than it reserved and no allowance runs out, no balance is ever overdrawn by several
    /// gateways, in whatever order records, questions and answers arrive.
    #[test]
    fn a_balance_that_is_reserved_from_is_never_overdrawn(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            prop_assert!(world.worst() >= 0, "overdrawn");
        }
    }
}
