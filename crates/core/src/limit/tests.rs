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
    least_maximum: None,
    useful_maximum: None,
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
fn worst_case_sets_no_less_than_the_api_demands() {
    let worst = |free, demand| planned(Strategy::WorstCase, at(1000), Demand { free: Some(free), ..demand });
    let responses = Demand { least_maximum: Some(16), expected_output: 1, ..DEMAND };
    assert_eq!(worst(116, responses), (116, Some(16)));
    assert_eq!(worst(115, responses), (116, Some(16)), "it waits for that");
    assert_eq!(worst(0, responses), (116, Some(16)));
    assert_eq!(worst(400, responses), (400, Some(300)));
    assert_eq!(worst(0, Demand { choices: 3, ..responses }), (148, Some(16)), "of each");
    assert_eq!(
        worst(1000, Demand { prompt: 995, ..responses }),
        (1000, Some(16)),
        "an estimate refuses nothing for good"
    );
    let thinking = Demand { least_maximum: Some(601), ..DEMAND };
    assert_eq!(worst(500, thinking), (701, Some(601)));
    assert_eq!(worst(500, Demand { stated_maximum: Some(5000), ..thinking }), (701, Some(601)));
    assert_eq!(worst(1000, Demand { stated_maximum: Some(5000), ..thinking }), (1000, Some(900)));
    assert_eq!(worst(1000, Demand { max_output_tokens: Some(700), ..thinking }), (800, Some(700)));
    let of_its_own = Demand { stated_maximum: Some(5), ..responses };
    assert_eq!(worst(1000, of_its_own), (105, None), "what the client states below is the client's");
}

#[test]
fn what_never_fits_with_the_least_that_the_api_demands_is_refused_for_good() {
    let worst = |demand| plan(Strategy::WorstCase, at(1000), &demand);
    let thinking = Demand { least_maximum: Some(991), ..DEMAND };
    let refused = TooLarge::Answer { certain: 1001, answer: 991, limit: 1000 };
    assert_eq!(worst(thinking), Err(refused), "10 tokens of prompt are certain");
    assert!(worst(Demand { least_maximum: Some(990), ..DEMAND }).is_ok());
    assert_eq!(
        worst(Demand { least_maximum: Some(331), choices: 3, ..DEMAND }),
        Err(TooLarge::Answer { certain: 1003, answer: 331, limit: 1000 })
    );
    let small = Demand { max_output_tokens: Some(15), ..DEMAND };
    assert_eq!(
        worst(Demand { least_maximum: Some(16), ..small }),
        Err(TooLarge::Model { answer: 16, most: 15 }),
        "neither is overstepped"
    );
    assert_eq!(worst(Demand { least_maximum: Some(16), stated_maximum: Some(9), ..small }).unwrap().set_maximum, None);
    assert!(worst(Demand { stated_maximum: Some(900), ..thinking }).is_ok(), "it is the client's, and the upstream's");
    assert!(worst(Demand { has_output: false, ..thinking }).is_ok());
    assert!(plan(Strategy::Expected, at(1000), &thinking).is_ok(), "nothing is written");
    assert!(plan(Strategy::WorstCase, Limit::Unlimited, &thinking).is_ok());
}

#[test]
fn worst_case_leaves_room_for_an_answer_where_there_is_any() {
    let worst = |free, demand| planned(Strategy::WorstCase, at(1000), Demand { free: Some(free), ..demand });
    let thinking = Demand { useful_maximum: Some(601), ..DEMAND };
    assert_eq!(worst(500, thinking), (701, Some(601)), "it waits for it");
    assert_eq!(
        worst(500, Demand { useful_maximum: Some(5000), ..DEMAND }),
        (1000, Some(900)),
        "never for more than there is"
    );
    assert_eq!(worst(500, Demand { max_output_tokens: Some(200), ..thinking }), (300, Some(200)));
    let expected = planned(Strategy::Expected, at(1000), thinking);
    assert_eq!(expected, (150, None), "what is expected is another matter");
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
        assert_eq!(refused, Err(TooLarge::Prompt { certain_prompt: 1001, limit: 1000 }));
        assert!(plan(strategy, at(1001), &demand).is_ok());
        assert!(plan(strategy, Limit::Unlimited, &demand).is_ok());
    }
}

fn any_demand() -> impl proptest::strategy::Strategy<Value = Demand> {
    let number = || prop_oneof![0_u64..2000, Just(u64::MAX), any::<u64>()];
    let maximum = || proptest::option::of(number());
    let demanded = (proptest::option::of(0_u64..2000), maximum());
    (number(), maximum(), demanded, number(), maximum(), number(), maximum(), any::<bool>()).prop_map(
        |(prompt, stated_maximum, demanded, choices, max_output_tokens, expected_output, free, has_output)| Demand {
            prompt,
            certain_prompt: 0,
            stated_maximum,
            least_maximum: demanded.0,
            useful_maximum: demanded.1,
            choices,
            max_output_tokens,
            expected_output,
            free,
            has_output,
        },
    )
}

/// Whether the request is over the limit, or the model, with the shortest answers that it can be held to.
fn never_fits(strategy: Strategy, limit: u64, demand: &Demand) -> bool {
    let Some(least) = demand.least_maximum.filter(|_| strategy == Strategy::WorstCase && demand.has_output) else {
        return false;
    };
    let least = least.max(1).min(demand.stated_maximum.unwrap_or(u64::MAX));
    let whole = u128::from(least) * u128::from(demand.choices.max(1));
    whole > u128::from(limit) || demand.max_output_tokens.is_some_and(|most| most < least)
}

proptest! {
    #[test]
    fn plans_keep_to_the_limit(demand in any_demand(), limit in 1_u64..5000) {
        for strategy in [Strategy::Expected, Strategy::WorstCase] {
            match plan(strategy, at(limit), &demand) {
                Ok(Plan { tokens, .. }) => prop_assert!((1..=limit).contains(&tokens)),
                Err(refused) => prop_assert!(never_fits(strategy, limit, &demand), "{refused}"),
            }
        }
    }

    #[test]
    fn the_worst_case_is_reserved_whole(demand in any_demand(), limit in 1_u64..5000) {
        let Ok(Plan { tokens, set_maximum }) = plan(Strategy::WorstCase, at(limit), &demand) else { return Ok(()) };
        prop_assert!(!never_fits(Strategy::WorstCase, limit, &demand));
        prop_assert!(set_maximum.is_none_or(|set| set >= demand.least_maximum.unwrap_or(1).max(1)), "{set_maximum:?}");
        prop_assert!(set_maximum.is_none() || demand.stated_maximum.is_none_or(|stated| stated > set_maximum.unwrap()));
        if let (Some(free), Some(set)) = (demand.free.filter(|free| *free <= limit), set_maximum.filter(|_| demand.has_output)) {
            // Whoever is refused is short of what an answer takes.
            let least = [Some(demand.expected_output), demand.least_maximum, demand.useful_maximum, Some(1)];
            prop_assert!(tokens <= free.max(1) || Some(set) <= least.into_iter().max().flatten());
        }
        if demand.has_output {
            let maximum = set_maximum.or(demand.stated_maximum).unwrap();
            let whole = u128::from(maximum) * u128::from(demand.choices.max(1)) + u128::from(demand.prompt);
            let at_its_least = maximum <= demand.least_maximum.unwrap_or(1).max(1);
            prop_assert!(whole <= u128::from(tokens) || at_its_least, "{whole} in {tokens}");
            prop_assert!(demand.max_output_tokens.is_none_or(|most| maximum <= most.max(1)));
        }
    }
}
