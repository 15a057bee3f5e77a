//! How far estimates are off, on recordings of real exchanges whose usage is known: `make estimates`.
//!
//! Reads exchanges, one JSON object a line, as `exchanges.py` writes them; takes the usage away from each response and
//! meters it; prints tables in Markdown. A model is measured twice: as one of which nothing is learned, and with what the
//! prompts of its exchanges taught that came before.

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
use keymeter_core::limit::Learned;

use exchange::Exchange;
use model::Model;
use report::Table;
use told::Told;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: estimates EXCHANGES.ndjson")?;
    let mut report = Report::default();
    for line in BufReader::new(File::open(path)?).lines() {
        match Exchange::parse(&line?)? {
            Some(exchange) => report.add(&exchange),
            None => report.leave_out("exchange", "the request is none that is served"),
        }
    }
    report.print();
    Ok(())
}

/// Everything that is measured.
#[derive(Default)]
struct Report {
    learned: HashMap<Model, Learned>,
    outputs: Table,
    cuts: Table,
    stated_cuts: Table,
    charges: Table,
    charges_with_schemas: Table,
    reservations: Table,
    left_out: BTreeMap<(&'static str, &'static str), u32>,
}

impl Report {
    fn add(&mut self, exchange: &Exchange) {
        let Some(stated) = exchange.stated() else { return self.leave_out("exchange", "no usage is stated") };
        let learned = self.learned.remove(&exchange.model).unwrap_or_default();
        match truth::output(exchange, &stated) {
            _ if !exchange.endpoint.has_output() => {}
            Ok(output) => self.add_output(exchange, output, &learned),
            Err(why) => self.leave_out("answer", why),
        }
        match truth::prompt(exchange, &stated) {
            Ok(prompt) => self.add_prompt(exchange, prompt, &learned),
            Err(why) => self.leave_out("prompt", why),
        }
        self.learned.insert(exchange.model.clone(), learned);
    }

    fn add_output(&mut self, exchange: &Exchange, output: u64, learned: &Learned) {
        let off = |learned: &Learned| exchange.estimated(learned).abs_diff(output);
        self.outputs.add(exchange, [off(&Learned::default()), off(learned)], output);
        if exchange.is_stream() {
            self.add_cuts(exchange, output, learned);
        }
    }

    fn add_cuts(&mut self, exchange: &Exchange, output: u64, learned: &Learned) {
        let whole = exchange.told().tokens().max(1);
        let [first, later] = [&Learned::default(), learned].map(|learned| exchange.estimated_after_each_part(learned));
        let mut told = Told::new(exchange.endpoint);
        for ((event, first), (_, later)) in first.into_iter().zip(later) {
            told.read(&event);
            let over = |delivered: u64| [first, later].map(|estimate| estimate.saturating_sub(delivered));
            // What was delivered takes the same share of the model's own tokens, which may be more.
            let delivered = told.tokens().max(told.tokens() * output / whole);
            if !told.is_empty() {
                self.cuts.add(exchange, over(delivered), delivered);
            }
            if let Some(stated) = truth::output_by_now(exchange.endpoint, &event).filter(|_| told.reasoning.is_empty())
            {
                self.stated_cuts.add(exchange, over(stated), stated);
            }
        }
    }

    fn add_prompt(&mut self, exchange: &Exchange, tokens: u64, learned: &Learned) {
        let by = |learned: &Learned| {
            let prompt = Prompt::new(&exchange.scanned, exchange.endpoint, learned);
            (prompt.counted(learned).abs_diff(tokens), prompt.estimate().abs_diff(tokens))
        };
        let (first, later) = (by(&Learned::default()), by(learned));
        let has_schemas = exchange.scanned.outline.has_schemas;
        let charges = if has_schemas { &mut self.charges_with_schemas } else { &mut self.charges };
        charges.add(exchange, [first.0, later.0], tokens);
        self.reservations.add(exchange, [first.1, later.1], tokens);
        Prompt::new(&exchange.scanned, exchange.endpoint, learned).teach(learned, tokens, None);
    }

    fn leave_out(&mut self, what: &'static str, why: &'static str) {
        *self.left_out.entry((what, why)).or_default() += 1;
    }

    fn print(&self) {
        self.outputs.print("Output of whole answers: how far off");
        self.cuts.print("Output of answers that are cut, after each event: how much over what had been delivered");
        self.stated_cuts.print("The same where the event states its tokens: how much over those");
        self.charges.print("Prompts of text alone in a charge: how far off");
        self.charges_with_schemas.print("Prompts with tools or schemas in a charge: how far off");
        self.reservations.print("Prompts of text at admission, by their length: how far off");
        println!("### Left out\n");
        for ((what, why), count) in &self.left_out {
            println!("- {count} × {what}: {why}");
        }
    }
}
