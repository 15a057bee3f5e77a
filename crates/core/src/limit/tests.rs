use proptest::prelude::{Just, Strategy as _, any, prop_assert, prop_oneof, proptest};

use super::*;

fn at(number: u64) -> Limit {
    Limit::at(number).unwrap()
}

#[test]
fn limits_are_read_and_written() {
    for (text, limit) in [
        ("unlimited", Limit::Unlimited),
        ("1", at(1)),
        ("600", at(600)),
        ("5_000_000", at(5_000_000)),
        ("18446744073709551615", at(u64::MAX)),
    ] {
        assert_eq!(text.parse(), Ok(limit));
        assert_eq!(limit.to_string(), text.replace('_', ""));
    }
}

#[test]
fn what_is_no_limit_is_refused() {
    for text in ["", "-1", "+1", "1.5", "1e3", " 1", "Unlimited", "_", "_1", "1_", "none", "٣"] {
        assert_eq!(text.parse::<Limit>(), Err(LimitError::Form), "{text}");
    }
    assert_eq!("18446744073709551616".parse::<Limit>(), Err(LimitError::TooLarge));
    assert_eq!("0".parse::<Limit>(), Err(LimitError::Zero));
    assert_eq!("0_0".parse::<Limit>(), Err(LimitError::Zero));
    assert!(LimitError::Zero.to_string().contains("`enabled: false`"), "it says what to do instead");
}

const DEMAND: Demand = Demand {
    prompt: 100,
    certain_prompt: 10,
    stated_maximum: None,
    choices: 1,
    max_output_tokens: None,
    expected_output: 50,
    free: None,
    has_output: true,
};

fn planned(strategy: Strategy, limit: Limit, demand: Demand) -> (u64, Option<u64>) {
    let plan = plan(strategy, limit, &demand).unwrap();
    (plan.tokens, plan.set_maximum)
}

#[test]
fn expected_reserves_what_answers_lately_took() {
    let expected = |demand| planned(Strategy::Expected, at(1000), demand);
    assert_eq!(expected(DEMAND), (150, None));
    assert_eq!(expected(Demand { choices: 3, ..DEMAND }), (250, None));
    assert_eq!(expected(Demand { choices: 0, ..DEMAND }), (150, None), "no number is one");
    assert_eq!(expected(Demand { stated_maximum: Some(7), ..DEMAND }), (107, None));
    assert_eq!(expected(Demand { stated_maximum: Some(70), ..DEMAND }), (150, None));
    assert_eq!(expected(Demand { max_output_tokens: Some(20), ..DEMAND }), (120, None), "no answer is longer");
    assert_eq!(expected(Demand { expected_output: 5000, ..DEMAND }), (1000, None), "cut to the limit");
    assert_eq!(expected(Demand { choices: u64::MAX, ..DEMAND }), (1000, None));
}

#[test]
fn worst_case_leaves_a_maximum_that_fits() {
    let worst = |demand| planned(Strategy::WorstCase, at(1000), demand);
    assert_eq!(worst(Demand { stated_maximum: Some(400), ..DEMAND }), (500, None));
    assert_eq!(worst(Demand { stated_maximum: Some(900), ..DEMAND }), (1000, None));
    assert_eq!(worst(Demand { stated_maximum: Some(300), choices: 3, ..DEMAND }), (1000, None));
    assert_eq!(worst(Demand { stated_maximum: Some(0), ..DEMAND }), (100, None), "0 is some APIs' way to warm a cache");
    assert_eq!(worst(Demand { stated_maximum: Some(0), prompt: 2000, ..DEMAND }), (1000, None));
}

#[test]
fn worst_case_lowers_a_maximum_that_does_not_fit() {
    let worst = |demand| planned(Strategy::WorstCase, at(1000), demand);
    assert_eq!(worst(Demand { stated_maximum: Some(901), ..DEMAND }), (1000, Some(900)));
    assert_eq!(worst(Demand { stated_maximum: Some(301), choices: 3, ..DEMAND }), (1000, Some(300)));
    assert_eq!(worst(Demand { stated_maximum: Some(500), choices: 4, ..DEMAND }), (1000, Some(225)));
    let small = Demand { max_output_tokens: Some(200), ..DEMAND };
    assert_eq!(worst(Demand { stated_maximum: Some(201), ..small }), (300, Some(200)));
    assert_eq!(worst(Demand { stated_maximum: Some(5000), choices: 9, ..small }), (1000, Some(100)));
    assert_eq!(worst(Demand { stated_maximum: Some(u64::MAX), choices: u64::MAX, ..DEMAND }), (1000, Some(1)));
}

#[test]
fn worst_case_sets_a_maximum_where_none_is_stated() {
    let worst = |demand| planned(Strategy::WorstCase, at(1000), demand);
    assert_eq!(worst(DEMAND), (1000, Some(900)));
    assert_eq!(worst(Demand { max_output_tokens: Some(200), ..DEMAND }), (300, Some(200)));
    assert_eq!(worst(Demand { prompt: 1000, ..DEMAND }), (1000, Some(1)), "an estimate refuses nothing for good");
    assert_eq!(worst(Demand { prompt: u64::MAX, ..DEMAND }), (1000, Some(1)));
    assert_eq!(worst(Demand { max_output_tokens: Some(0), ..DEMAND }), (101, Some(1)));
}

#[test]
fn worst_case_sets_what_fits_at_once_but_no_less_than_answers_take() {
    let worst = |free, demand| planned(Strategy::WorstCase, at(1000), Demand { free: Some(free), ..demand });
    assert_eq!(worst(1000, DEMAND), (1000, Some(900)));
    assert_eq!(worst(400, DEMAND), (400, Some(300)), "it need not wait for the rest");
    assert_eq!(worst(120, DEMAND), (150, Some(50)), "it waits for what an answer takes");
    assert_eq!(
        worst(0, Demand { expected_output: 5000, ..DEMAND }),
        (1000, Some(900)),
        "and never for more than there is"
    );
    assert_eq!(worst(400, Demand { choices: 3, ..DEMAND }), (400, Some(100)));
    assert_eq!(worst(400, Demand { max_output_tokens: Some(200), ..DEMAND }), (300, Some(200)));
    assert_eq!(worst(250, Demand { max_output_tokens: Some(200), ..DEMAND }), (250, Some(150)));
    assert_eq!(worst(400, Demand { stated_maximum: Some(901), ..DEMAND }), (400, Some(300)), "as it never fits");
    assert_eq!(
        worst(400, Demand { stated_maximum: Some(600), ..DEMAND }),
        (700, None),
        "what is asked for is waited for"
    );
}

#[test]
fn worst_case_rewrites_nothing_where_nothing_is_limited() {
    let worst = |demand| planned(Strategy::WorstCase, Limit::Unlimited, demand);
    let known = Demand { max_output_tokens: Some(200), ..DEMAND };
    assert_eq!(worst(Demand { stated_maximum: Some(400), ..known }), (500, None));
    assert_eq!(worst(known), (300, None));
    assert_eq!(worst(DEMAND), (150, None));
    assert_eq!(worst(Demand { stated_maximum: Some(u64::MAX), choices: 2, ..DEMAND }), (u64::MAX, None));
}

#[test]
fn what_has_no_output_reserves_its_prompt() {
    let embedding = Demand { has_output: false, stated_maximum: Some(5), choices: 8, ..DEMAND };
    for strategy in [Strategy::Expected, Strategy::WorstCase] {
        assert_eq!(planned(strategy, at(1000), embedding), (100, None));
        assert_eq!(planned(strategy, at(40), embedding), (40, None));
        assert_eq!(planned(strategy, at(40), Demand { prompt: 0, ..embedding }), (1, None));
    }
}

#[test]
fn only_a_prompt_that_is_certainly_too_large_is_refused() {
    for strategy in [Strategy::Expected, Strategy::WorstCase] {
        let demand = Demand { certain_prompt: 1001, ..DEMAND };
        let refused = plan(strategy, at(1000), &demand);
        assert_eq!(refused, Err(TooLarge { certain_prompt: 1001, limit: 1000 }));
        assert!(plan(strategy, at(1001), &demand).is_ok());
        assert!(plan(strategy, Limit::Unlimited, &demand).is_ok());
    }
}

fn any_demand() -> impl proptest::strategy::Strategy<Value = Demand> {
    let number = || prop_oneof![0_u64..2000, Just(u64::MAX), any::<u64>()];
    let maximum = || proptest::option::of(number());
    (number(), maximum(), number(), maximum(), number(), maximum(), any::<bool>()).prop_map(
        |(prompt, stated_maximum, choices, max_output_tokens, expected_output, free, has_output)| Demand {
            prompt,
            certain_prompt: 0,
            stated_maximum,
            choices,
            max_output_tokens,
            expected_output,
            free,
            has_output,
        },
    )
}

proptest! {
    #[test]
    fn plans_keep_to_the_limit(demand in any_demand(), limit in 1_u64..5000) {
        for strategy in [Strategy::Expected, Strategy::WorstCase] {
            let (tokens, _) = planned(strategy, at(limit), demand);
            prop_assert!((1..=limit).contains(&tokens));
        }
    }

    #[test]
    fn the_worst_case_is_reserved_whole(demand in any_demand(), limit in 1_u64..5000) {
        let (tokens, set_maximum) = planned(Strategy::WorstCase, at(limit), demand);
        prop_assert!(set_maximum.is_none_or(|set| set >= 1));
        prop_assert!(set_maximum.is_none() || demand.stated_maximum.is_none_or(|stated| stated > set_maximum.unwrap()));
        if let (Some(free), Some(set)) = (demand.free.filter(|free| *free <= limit), set_maximum.filter(|_| demand.has_output)) {
            // Whoever is refused is short of what an answer takes.
            prop_assert!(tokens <= free.max(1) || set <= demand.expected_output.max(1));
        }
        if demand.has_output {
            let maximum = set_maximum.or(demand.stated_maximum).unwrap();
            let whole = u128::from(maximum) * u128::from(demand.choices.max(1)) + u128::from(demand.prompt);
            let at_its_least = maximum <= 1;
            prop_assert!(whole <= u128::from(tokens) || at_its_least, "{whole} in {tokens}");
            prop_assert!(demand.max_output_tokens.is_none_or(|most| maximum <= most.max(1)));
        }
    }
}
