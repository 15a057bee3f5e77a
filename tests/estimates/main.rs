//! How far off estimates are, on recordings of real exchanges whose usage is known: `make estimates`.
//!
//! Reads exchanges, one JSON object a line, as `exchanges.py` writes them; takes the usage away from each response and
//! meters it; prints tables in Markdown. A fifth of the recordings was held back when the numbers of the table of families
//! were chosen, and is what is measured. Each is measured twice: for a model of which nothing was learned, and once 20
//! answers of the model were seen, whatever recordings they are of.

#![expect(clippy::indexing_slicing, reason = "a tree of JSON has null for what is not in it")]

mod exchange;
mod model;
mod report;
mod told;
mod truth;

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fs::File,
    io::{BufRead, BufReader},
};

use keymeter::admission::Prompt;
use keymeter_core::{
    key::KeyId,
    learned::{Figures, KeyTag, Learned},
};

use exchange::Exchange;
use report::{Off, Table};
use told::Told;

/// So many answers of a model are seen before it is measured for the second time.
const SEEN: u32 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: estimates EXCHANGES.ndjson")?;
    let mut report = Report::new()?;
    let mut exchanges = Vec::new();
    for line in BufReader::new(File::open(path)?).lines() {
        match Exchange::parse(&line?)? {
            Some(exchange) => exchanges.push(exchange),
            None => report.leave_out("exchange", "the request is none that is served"),
        }
    }
    // One package's recordings are alike: what a model learned is not to be of one package alone.
    exchanges.sort_by_key(|exchange| exchange.order);
    for exchange in &exchanges {
        report.add(exchange);
    }
    report.print();
    Ok(())
}

/// Everything that is measured.
struct Report {
    key: KeyTag,
    models: HashMap<String, Seen>,
    outputs: Table,
    cuts: Table,
    stated_cuts: Table,
    plain: Table,
    with_tools: Table,
    with_formats: Table,
    reservations: Table,
    left_out: BTreeMap<(&'static str, &'static str), u32>,
}

/// What was seen of a model.
struct Seen {
    learned: Learned,
    answers: u32,
}

/// What is known of a model at first, and of one of which enough was seen.
struct Known {
    first: Figures,
    later: Option<Figures>,
}

impl Known {
    fn off(&self, off: impl Fn(&Figures) -> u64) -> Off {
        Off { first: off(&self.first), later: self.later.as_ref().map(off) }
    }
}

impl Report {
    fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            key: KeyTag::of(&"key_any".parse::<KeyId>()?),
            models: HashMap::new(),
            outputs: Table::default(),
            cuts: Table::default(),
            stated_cuts: Table::default(),
            plain: Table::default(),
            with_tools: Table::default(),
            with_formats: Table::default(),
            reservations: Table::default(),
            left_out: BTreeMap::new(),
        })
    }

    fn add(&mut self, exchange: &Exchange) {
        let Some(stated) = exchange.stated() else { return self.leave_out("exchange", "no usage is stated") };
        let output = if exchange.endpoint.has_output() { Some(truth::output(exchange, &stated)) } else { None };
        let prompt = truth::prompt(exchange, &stated);
        if exchange.is_held_back {
            let seen = self.models.get(&exchange.asked).filter(|seen| seen.answers >= SEEN);
            let later = seen.map(|seen| seen.learned.figures(self.key));
            let known = Known { first: Figures::of(&exchange.asked), later };
            self.measure(exchange, &known, prompt, output);
        }
        self.teach(exchange, prompt.ok(), stated.output, stated.reasoning);
    }

    fn measure(
        &mut self,
        exchange: &Exchange,
        known: &Known,
        prompt: Result<u64, &'static str>,
        output: Option<Result<u64, &'static str>>,
    ) {
        match output {
            Some(Ok(output)) => self.add_output(exchange, known, output),
            Some(Err(why)) => self.leave_out("answer", why),
            None => {}
        }
        match prompt {
            Ok(prompt) => self.add_prompt(exchange, known, prompt),
            Err(why) => self.leave_out("prompt", why),
        }
    }

    fn add_output(&mut self, exchange: &Exchange, known: &Known, output: u64) {
        self.outputs.add(exchange, &known.off(|figures| exchange.estimated(figures).abs_diff(output)), output);
        if exchange.is_stream() {
            self.add_cuts(exchange, known, output);
        }
    }

    fn add_cuts(&mut self, exchange: &Exchange, known: &Known, output: u64) {
        let whole = exchange.told().tokens().max(1);
        let first = exchange.estimated_after_each_part(&known.first);
        let later = known.later.as_ref().map(|figures| exchange.estimated_after_each_part(figures));
        let mut told = Told::new(exchange.endpoint);
        for (at, (event, first)) in first.into_iter().enumerate() {
            told.read(&event);
            let later = later.as_ref().and_then(|later| later.get(at)).map(|(_, estimate)| *estimate);
            let over = |delivered: u64| Off {
                first: first.saturating_sub(delivered),
                later: later.map(|estimate| estimate.saturating_sub(delivered)),
            };
            // What was delivered takes the same share of the model's own tokens, which may be more.
            let delivered = told.tokens().max(told.tokens() * output / whole);
            if !told.is_empty() {
                self.cuts.add(exchange, &over(delivered), delivered);
            }
            if let Some(stated) = truth::output_by_now(exchange.endpoint, &event).filter(|_| told.reasoning.is_empty())
            {
                self.stated_cuts.add(exchange, &over(stated), stated);
            }
        }
    }

    fn add_prompt(&mut self, exchange: &Exchange, known: &Known, tokens: u64) {
        let prompt = |figures: &Figures| Prompt::new(&mut exchange.scanned.clone(), exchange.endpoint, figures);
        let outline = &exchange.scanned.outline;
        let charges = match (outline.has_tools, outline.has_format) {
            (true, _) => &mut self.with_tools,
            (false, true) => &mut self.with_formats,
            (false, false) => &mut self.plain,
        };
        charges.add(exchange, &known.off(|figures| prompt(figures).counted(figures).abs_diff(tokens)), tokens);
        self.reservations.add(exchange, &known.off(|figures| prompt(figures).estimate().abs_diff(tokens)), tokens);
    }

    /// Teaches as a gateway does once a request has ended.
    fn teach(&mut self, exchange: &Exchange, prompt: Option<u64>, output: u64, reasoning: u64) {
        let new = || Seen { learned: Learned::new(&exchange.asked), answers: 0 };
        let Seen { learned, answers } = self.models.entry(exchange.asked.clone()).or_insert_with(new);
        *answers += 1;
        let figures = learned.figures(self.key);
        let asked = Prompt::new(&mut exchange.scanned.clone(), exchange.endpoint, &figures);
        if let Some(tokens) = prompt {
            let _ = asked.teach(learned, self.key, tokens, Some(output));
            asked.teach_by_tokens(learned, self.key, tokens);
        }
        let answer = exchange.answer();
        if answer.reasoning == 0 && answer.prose + answer.json > 0 {
            learned.learn_answer(self.key, &answer, exchange.endpoint, output.saturating_sub(reasoning));
        }
    }

    fn leave_out(&mut self, what: &'static str, why: &'static str) {
        *self.left_out.entry((what, why)).or_default() += 1;
    }

    fn print(&self) {
        self.outputs.print("Output of whole answers");
        self.plain.print("Prompts of text alone in a charge");
        self.with_tools.print("Prompts with function tools in a charge");
        self.with_formats.print("Prompts with a schema for the answer in a charge");
        self.reservations.print("Prompts of text at admission, by their length");
        self.cuts.print("Answers that are cut, after each event: how much over what had been delivered");
        self.stated_cuts.print("The same where the event states its tokens: how much over those");
        println!("### Left out\n");
        for ((what, why), count) in &self.left_out {
            println!("- {count} × {what}: {why}");
        }
    }
}
