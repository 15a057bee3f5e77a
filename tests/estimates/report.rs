//! Tables of errors, in Markdown.

use std::collections::BTreeMap;

use keymeter_core::api::Endpoint;

use super::exchange::Exchange;

/// Errors by vocabulary and API, and by family of models.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<(&'static str, &'static str), Errors>,
}

/// Errors of one kind, in thousandths of the truth: with nothing learned of the model, and once 20 answers were seen.
#[derive(Default)]
struct Errors {
    first: Vec<u64>,
    later: Vec<u64>,
    truths: Vec<u64>,
}

/// By how many tokens an estimate is off: with nothing learned of the model, and once 20 answers were seen.
pub struct Off {
    pub first: u64,
    pub later: Option<u64>,
}

const BOTH: &str = "**all**";
const O200K: &str = "`o200k_base`";
const OTHERS: &str = "others";
const ALL: &str = "**all**";
const LONG: &str = "**of 100 tokens or more**";

impl Table {
    /// Adds by how many tokens of the truth an estimate is off.
    pub fn add(&mut self, exchange: &Exchange, off: &Off, truth: u64) {
        let vocabulary = if exchange.model.uses_o200k() { O200K } else { OTHERS };
        let long = (truth >= 100).then_some((vocabulary, LONG));
        let family = (vocabulary == OTHERS).then(|| (exchange.model.family(), "all"));
        let rows = [(BOTH, ALL), (vocabulary, ALL), (vocabulary, api(exchange.endpoint))];
        for row in rows.into_iter().chain(long).chain(family) {
            let errors = self.rows.entry(row).or_default();
            errors.first.push(off.first * 1000 / truth.max(1));
            errors.later.extend(off.later.map(|later| later * 1000 / truth.max(1)));
            errors.truths.push(truth);
        }
    }

    /// Prints it.
    pub fn print(&self, title: &str) {
        println!("### {title}\n");
        println!(
            "| vocabulary | API | count | tokens, median | nothing learned: median | 90 % | count | 20 answers seen: median | 90 % |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        let (families, rows): (Vec<_>, Vec<_>) = self.rows.iter().partition(|((_, api), _)| *api == "all");
        for ((vocabulary, api), errors) in rows.into_iter().chain(families) {
            let [first, later] = [&errors.first, &errors.later].map(|errors| spread(errors));
            let (count, seen) = (errors.first.len(), errors.later.len());
            let truth = ranked(&errors.truths, 500);
            println!("| {vocabulary} | {api} | {count} | {truth} | {first} | {seen} | {later} |");
        }
        println!();
    }
}

/// The median, and what nine in ten are within.
fn spread(errors: &[u64]) -> String {
    let percent = |thousandths: u64| format!("{}.{} %", thousandths / 10, thousandths % 10);
    if errors.is_empty() {
        return "– | –".to_owned();
    }
    [500, 900].map(|rank| percent(ranked(errors, rank))).join(" | ")
}

/// The value that so many thousandths of all are not above.
fn ranked(values: &[u64], thousandths: usize) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    let rank = (values.len() * thousandths).div_ceil(1000).saturating_sub(1);
    values.get(rank).copied().unwrap_or_default()
}

fn api(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::ChatCompletions => "chat completions",
        Endpoint::Completions => "completions",
        Endpoint::Responses => "responses",
        Endpoint::Messages => "Anthropic's messages",
        Endpoint::OllamaChat | Endpoint::OllamaGenerate | Endpoint::OllamaEmbed => "Ollama's",
        Endpoint::GenerateContent | Endpoint::StreamGenerateContent | Endpoint::EmbedContent => "Gemini's",
        Endpoint::Embeddings => "embeddings",
        _ => "other",
    }
}
