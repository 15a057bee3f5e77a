//! Which details of a usage lie beside the counts that they are listed with. Most servers count cached tokens within the
//! prompt and reasoning within the completion. Some leave them out of both: then the total has what is missing, or the
//! detail is more than what it should be a part of.

/// A usage's details, in tokens; zero where nothing is stated.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Details {
    /// Of the prompt: read from a cache, and written to one.
    pub(super) cached: u64,
    pub(super) cache_write: u64,
    /// Of the prompt: pictures, sound, video.
    pub(super) media: u64,
    /// Of the prompt: sources that were looked up.
    pub(super) sources: u64,
    /// Of the answer.
    pub(super) reasoning: u64,
    pub(super) output_media: u64,
}

/// A usage whose counts have all details in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) prompt: u64,
    pub(super) output: u64,
    /// What the total has beyond these, and no detail explains.
    pub(super) unexplained: u64,
}

/// A set of details, a bit for each, in the order of [`Details::each`].
type Set = u8;

const CACHED: Set = 1;
const CACHE_WRITE: Set = 1 << 1;
const MEDIA: Set = 1 << 2;
const SOURCES: Set = 1 << 3;
const REASONING: Set = 1 << 4;
const OUTPUT_MEDIA: Set = 1 << 5;
const OF_PROMPT: Set = CACHED | CACHE_WRITE | MEDIA | SOURCES;
const OF_OUTPUT: Set = REASONING | OUTPUT_MEDIA;
const ALL: Set = OF_PROMPT | OF_OUTPUT;

impl Details {
    /// Adds to `prompt` and `output` the details that are no part of them. What `total` has beyond both says which ones,
    /// if some of them are exactly that: those of the prompt are tried first. A detail that is more than its count is
    /// never a part of it.
    pub(super) fn complete(&self, prompt: u64, output: u64, total: Option<u64>) -> Whole {
        let missing = total.unwrap_or(0).saturating_sub(prompt.saturating_add(output));
        let explains = |set: &Set| self.sum(*set) == missing;
        let is_possible = |set: &Set| explains(set) && self.too_large(prompt, output, *set) == 0;
        let stated = (0..=ALL).find(is_possible).or_else(|| (0..=ALL).find(explains)).unwrap_or(0);
        let beside = stated | self.too_large(prompt, output, stated);
        Whole {
            prompt: prompt.saturating_add(self.sum(beside & OF_PROMPT)),
            output: output.saturating_add(self.sum(beside & OF_OUTPUT)),
            unexplained: missing.saturating_sub(self.sum(beside)),
        }
    }

    /// The details outside `beside` that are more than the counts which they would be a part of.
    fn too_large(&self, prompt: u64, output: u64, beside: Set) -> Set {
        let exceeds = |set: Set, count: u64| if self.sum(set & !beside) > count { set & !beside } else { 0 };
        exceeds(CACHED | CACHE_WRITE, prompt)
            | exceeds(MEDIA, prompt)
            | exceeds(REASONING, output)
            | exceeds(OUTPUT_MEDIA, output)
    }

    fn sum(&self, set: Set) -> u64 {
        let chosen = self.each().into_iter().filter(|(detail, _)| set & detail != 0);
        chosen.fold(0, |sum: u64, (_, tokens)| sum.saturating_add(tokens))
    }

    fn each(&self) -> [(Set, u64); 6] {
        [
            (CACHED, self.cached),
            (CACHE_WRITE, self.cache_write),
            (MEDIA, self.media),
            (SOURCES, self.sources),
            (REASONING, self.reasoning),
            (OUTPUT_MEDIA, self.output_media),
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(prompt: u64, output: u64, unexplained: u64) -> Whole {
        Whole { prompt, output, unexplained }
    }

    #[test]
    fn a_total_that_is_the_sum_has_all_details_in_its_counts() {
        let details = Details { cached: 60, cache_write: 40, media: 100, reasoning: 9, ..Details::default() };
        for total in [None, Some(109), Some(50)] {
            assert_eq!(details.complete(100, 9, total), whole(100, 9, 0), "{total:?}");
        }
    }

    #[test]
    fn what_a_total_has_beyond_is_the_details_that_are_as_much() {
        let details =
            Details { cached: 500, cache_write: 70, media: 30, sources: 11, reasoning: 7, ..Details::default() };
        for (missing, prompt, output) in [
            (500, 1500, 9),
            (70, 1070, 9),
            (570, 1570, 9),
            (30, 1030, 9),
            (600, 1600, 9),
            (11, 1011, 9),
            (7, 1000, 16),
            (577, 1570, 16),
            (618, 1611, 16),
        ] {
            let found = details.complete(1000, 9, Some(1009 + missing));
            assert_eq!(found, whole(prompt, output, 0), "{missing} missing");
        }
        assert_eq!(details.complete(1000, 9, Some(1009 + 12)), whole(1000, 9, 12));
    }

    #[test]
    fn the_prompts_details_explain_a_total_before_the_answers() {
        let details = Details { cached: 300, reasoning: 300, ..Details::default() };
        assert_eq!(details.complete(400, 900, Some(1600)), whole(700, 900, 0));
        assert_eq!(details.complete(400, 9, Some(709)), whole(400, 309, 0), "but such reasoning is no part of 9");
    }

    #[test]
    fn a_detail_that_is_more_than_its_count_lies_beside_it() {
        let cached = Details { cached: 5000, ..Details::default() };
        assert_eq!(cached.complete(12, 5, None), whole(5012, 5, 0));
        assert_eq!(cached.complete(12, 5, Some(17)), whole(5012, 5, 0));
        assert_eq!(cached.complete(12, 5, Some(5100)), whole(5012, 5, 83));
        let both = Details { cached: 60, cache_write: 60, ..Details::default() };
        assert_eq!(both.complete(100, 5, None), whole(220, 5, 0));
        assert_eq!(both.complete(100, 5, Some(165)), whole(160, 5, 0), "one of both is in the prompt");
        let reasoning = Details { reasoning: 73_248, ..Details::default() };
        assert_eq!(reasoning.complete(33, 3256, Some(3289)), whole(33, 76_504, 0));
        let picture = Details { output_media: 1290, ..Details::default() };
        assert_eq!(picture.complete(10, 12, None), whole(10, 1302, 0));
    }

    #[test]
    fn a_total_may_have_the_cached_and_lack_the_reasoning() {
        let details = Details { cached: 50, reasoning: 900, ..Details::default() };
        assert_eq!(details.complete(100, 9, Some(159)), whole(150, 909, 0));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_a_total_is_never_exceeded_but_by_what_cannot_be_in_it(
            prompt in 0_u64..50, output in 0_u64..50, missing in 0_u64..120, parts in prop::array::uniform6(0_u64..40),
        ) {
            let [cached, cache_write, media, sources, reasoning, output_media] = parts;
            let details = Details { cached, cache_write, media, sources, reasoning, output_media };
            let total = prompt + output + missing;
            let found = details.complete(prompt, output, Some(total));
            let sum = found.prompt + found.output + found.unexplained;
            prop_assert!(sum >= total);
            prop_assert!(found.prompt >= cached + cache_write && found.prompt >= prompt);
            prop_assert!(found.output >= reasoning && found.output >= output);
            if cached + cache_write <= prompt && media <= prompt && reasoning <= output && output_media <= output {
                prop_assert_eq!(sum, total);
            }
        }
    }
}
