//! The text a client was sent, kept only as far as it may have to be counted: bounded, whatever passes.

use super::estimate;

/// All text that is kept, in bytes. What is beyond is counted as it comes.
const KEPT: usize = 40 * 1024;
/// How much is counted at a time, so that no single read waits for more.
const STEP: usize = 8 * 1024;
/// Text that waits for its choice's index, in bytes of each kind.
const WAITING: usize = 2 * 1024;
/// Choices and kinds told apart; further ones share.
const LANES: usize = 64;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The answer: content and refusals.
    Answer,
    /// What the model thought before it.
    Reasoning,
    /// Of the answer a tool's name, and what it is called with.
    Call,
}

/// Delivered text of one response, each choice's apart, since the choices of a stream come in turns.
#[derive(Default)]
pub(super) struct Delivered {
    lanes: Vec<Lane>,
    /// Text of a choice that has not said its index yet.
    waiting_answer: Vec<u8>,
    waiting_reasoning: Vec<u8>,
    /// What the lanes' texts occupy.
    kept: usize,
    any: bool,
    calls: u64,
}

/// The answer or the reasoning of one choice.
struct Lane {
    choice: u64,
    is_reasoning: bool,
    text: Vec<u8>,
    counted: u64,
    /// The bytes of all its text, and of calls in it.
    bytes: u64,
    call_bytes: u64,
}

/// Which text a piece belongs to, and whether it is of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneIndex {
    at: usize,
    is_call: bool,
}

/// What the tokenizer finds in what was delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// All of it.
    pub(super) output: u64,
    /// The part of it that is reasoning.
    pub(super) reasoning: u64,
    /// The part of it that is of calls, by its length.
    pub(super) calls: u64,
}

impl Delivered {
    /// Whether there was any text at all.
    pub(super) fn any(&self) -> bool {
        self.any || !self.waiting_answer.is_empty() || !self.waiting_reasoning.is_empty()
    }

    /// How many bytes of text there were.
    pub(super) fn bytes(&self) -> u64 {
        let waiting = self.waiting_answer.len() + self.waiting_reasoning.len();
        self.lanes.iter().map(|lane| lane.bytes).sum::<u64>() + waiting as u64
    }

    /// How many choices had text, as far as they are told apart.
    pub(super) fn choices(&self) -> usize {
        let is_first = |at: usize, lane: &Lane| self.lanes.iter().take(at).all(|other| other.choice != lane.choice);
        self.lanes.iter().enumerate().filter(|(at, lane)| is_first(*at, lane)).count()
    }

    /// A tool is called.
    pub(super) fn add_call(&mut self) {
        self.calls += 1;
    }

    /// How many tools are called.
    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// Counts everything. Takes time linear in what is kept, some milliseconds at most.
    pub(super) fn count(&self) -> Found {
        let mut found = Found::default();
        for lane in &self.lanes {
            let tokens = lane.counted + estimate::count_bytes(&lane.text);
            found.output += tokens;
            found.reasoning += if lane.is_reasoning { tokens } else { 0 };
            found.calls += tokens * lane.call_bytes / lane.bytes.max(1);
        }
        let reasoning = estimate::count_bytes(&self.waiting_reasoning);
        found.output += estimate::count_bytes(&self.waiting_answer) + reasoning;
        found.reasoning += reasoning;
        found
    }

    /// The bytes that are kept, as they are allocated.
    pub(super) fn held_bytes(&self) -> usize {
        let waiting = self.waiting_answer.capacity() + self.waiting_reasoning.capacity();
        self.kept + waiting + self.lanes.capacity() * size_of::<Lane>()
    }

    /// The lane of a choice's text.
    pub(super) fn lane(&mut self, choice: u64, kind: Kind) -> LaneIndex {
        let (is_reasoning, is_call) = (kind == Kind::Reasoning, kind == Kind::Call);
        let is_its = |lane: &Lane| lane.choice == choice && lane.is_reasoning == is_reasoning;
        if let Some(at) = self.lanes.iter().position(is_its) {
            return LaneIndex { at, is_call };
        }
        if self.lanes.len() < LANES {
            self.lanes.push(Lane { choice, is_reasoning, text: Vec::new(), counted: 0, bytes: 0, call_bytes: 0 });
        }
        let last = self.lanes.iter().rposition(|lane| lane.is_reasoning == is_reasoning);
        LaneIndex { at: last.unwrap_or(self.lanes.len() - 1), is_call }
    }

    /// Adds a piece of text; a character may be cut between two pieces.
    pub(super) fn push(&mut self, LaneIndex { at, is_call }: LaneIndex, piece: &[u8]) {
        self.any |= !piece.is_empty();
        if let Some(lane) = self.lanes.get_mut(at) {
            lane.bytes += piece.len() as u64;
            lane.call_bytes += if is_call { piece.len() as u64 } else { 0 };
        }
        for piece in piece.chunks(STEP / 2) {
            self.make_room(at, piece.len());
            if let Some(lane) = self.lanes.get_mut(at) {
                lane.text.extend_from_slice(piece);
            }
        }
    }

    /// Keeps a piece until its choice's index is known, and says false where too much is waiting already.
    pub(super) fn wait(&mut self, kind: Kind, piece: &[u8]) -> bool {
        let text = self.waiting(kind);
        if text.len() + piece.len() > WAITING {
            return false;
        }
        text.reserve_exact(if text.capacity() == 0 { WAITING } else { 0 });
        text.extend_from_slice(piece);
        true
    }

    /// Gives what waits to the choice whose it is. Says whose lane it was, if anything waited.
    pub(super) fn settle(&mut self, choice: u64) -> Option<LaneIndex> {
        let mut settled = None;
        for kind in [Kind::Answer, Kind::Reasoning] {
            let mut text = std::mem::take(self.waiting(kind));
            if !text.is_empty() {
                let lane = self.lane(choice, kind);
                self.push(lane, &text);
                settled = Some(lane);
                text.clear();
            }
            *self.waiting(kind) = text;
        }
        settled
    }

    /// Gives what waits as answers to the first choice, as text of this kind; or drops it, where it is none.
    pub(super) fn settle_as(&mut self, kind: Option<Kind>) {
        let mut text = std::mem::take(&mut self.waiting_answer);
        if let Some(kind) = kind.filter(|_| !text.is_empty()) {
            let lane = self.lane(0, kind);
            self.push(lane, &text);
        }
        text.clear();
        self.waiting_answer = text;
    }

    fn waiting(&mut self, kind: Kind) -> &mut Vec<u8> {
        match kind {
            Kind::Answer | Kind::Call => &mut self.waiting_answer,
            Kind::Reasoning => &mut self.waiting_reasoning,
        }
    }

    fn make_room(&mut self, at: usize, needed: usize) {
        while let Some(lane) = self.lanes.get_mut(at) {
            let (length, capacity) = (lane.text.len(), lane.text.capacity());
            if capacity - length >= needed {
                return;
            }
            let others = self.kept - capacity;
            let wanted = (2 * capacity).max(length + needed).max(256).min(KEPT.saturating_sub(others));
            if wanted >= length + needed {
                lane.text.reserve_exact(wanted - length);
                self.kept = others + lane.text.capacity();
                return;
            }
            self.count_some();
        }
    }

    /// Counts the beginning of the longest text, and keeps only the rest of it.
    fn count_some(&mut self) {
        let alone = self.lanes.len() == 1;
        if let Some(lane) = self.lanes.iter_mut().max_by_key(|lane| lane.text.capacity()) {
            let (part, _) = lane.text.split_at(estimate::cut(&lane.text, STEP));
            lane.counted += estimate::count_bytes(part);
            let counted = part.len();
            lane.text.drain(..counted);
            if !alone {
                lane.text.shrink_to_fit();
            }
        }
        self.kept = self.lanes.iter().map(|lane| lane.text.capacity()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENTENCE: &[u8] = b"Counting what was delivered must not take more memory than a stream may have. ";
    const BOUND: usize = KEPT + 2 * WAITING + LANES * size_of::<Lane>();

    #[test]
    fn long_text_counted_in_passing_is_the_whole() {
        let mut delivered = Delivered::default();
        let lane = delivered.lane(0, Kind::Answer);
        let text = SENTENCE.repeat(3000);
        for piece in text.chunks(7) {
            delivered.push(lane, piece);
            assert!(delivered.held_bytes() <= BOUND, "{} bytes held", delivered.held_bytes());
        }
        assert_eq!(delivered.count().output, estimate::count_bytes(&text));
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(16))]
        #[test]
        fn words_in_any_pieces_are_counted_as_the_whole(
            words in proptest::collection::vec("[A-Za-z]{1,9}[.,;!?]?|[0-9]{1,4}|[(][a-z]{2,5}[)]|[а-я]{1,8}", 1..9000),
            size in 1_usize..9000,
        ) {
            let text = words.join(" ");
            let mut delivered = Delivered::default();
            let lane = delivered.lane(0, Kind::Answer);
            text.as_bytes().chunks(size).for_each(|piece| delivered.push(lane, piece));
            proptest::prop_assert!(delivered.held_bytes() <= BOUND);
            proptest::prop_assert_eq!(delivered.count().output, estimate::count_tokens(&text));
        }
    }

    #[test]
    fn choices_that_come_in_turns_are_counted_apart() {
        let mut delivered = Delivered::default();
        let text = SENTENCE.repeat(300);
        for piece in text.chunks(3) {
            for choice in 0..4 {
                let lane = delivered.lane(choice, Kind::Answer);
                delivered.push(lane, piece);
                assert!(delivered.held_bytes() <= BOUND, "{} bytes held", delivered.held_bytes());
            }
        }
        let (expected, found) = (4 * estimate::count_bytes(&text), delivered.count().output);
        assert!(expected.abs_diff(found) * 100 <= expected, "{found} instead of {expected}");
    }

    #[test]
    fn calls_are_told_apart_by_their_length() {
        let mut delivered = Delivered::default();
        for (kind, text) in [(Kind::Answer, "It is in Oslo. "), (Kind::Call, r#"weather{"city":"Oslo"}"#)] {
            let lane = delivered.lane(0, kind);
            delivered.push(lane, text.as_bytes());
        }
        let found = delivered.count();
        assert_eq!(found.output, estimate::count_tokens(r#"It is in Oslo. weather{"city":"Oslo"}"#));
        assert_eq!((found.calls, found.reasoning), (found.output * 22 / 37, 0));
    }

    #[test]
    fn any_number_of_choices_stays_within_bounds() {
        let mut delivered = Delivered::default();
        for round in 0..40 {
            for choice in 0..500 {
                let kind = if choice % 2 == 0 { Kind::Answer } else { Kind::Reasoning };
                let lane = delivered.lane(choice, kind);
                delivered.push(lane, &SENTENCE[..30 + round]);
                assert!(delivered.held_bytes() <= BOUND, "{} bytes held", delivered.held_bytes());
            }
        }
        let found = delivered.count();
        assert!(found.output > 100_000 && found.reasoning > 0 && found.reasoning < found.output);
    }

    #[test]
    fn text_waits_for_its_choice_within_bounds() {
        let mut delivered = Delivered::default();
        assert!(delivered.wait(Kind::Reasoning, b"hello world"));
        assert_eq!(delivered.count(), Found { output: 2, reasoning: 2, calls: 0 });
        assert!(delivered.settle(3).is_some() && delivered.settle(3).is_none());
        assert_eq!(delivered.count(), Found { output: 2, reasoning: 2, calls: 0 });
        assert!(!delivered.wait(Kind::Answer, &[b'a'; WAITING + 1]));
    }
}
