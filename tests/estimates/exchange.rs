//! One recorded exchange, with and without what it states.

use std::error::Error;

use bytes::Bytes;
use http::Method;
use keymeter_core::{
    api::{self, Call, Endpoint},
    body::{self, Scanned},
    learned::{Answer, Figures},
    usage::{Ending, Form, Meter, Metered, Usage, UsageSource},
};
use serde_json::Value;

use super::{model::Model, told::Told};

/// An exchange.
pub struct Exchange {
    pub endpoint: Endpoint,
    /// The model that answered.
    pub model: Model,
    /// The one that was asked for.
    pub asked: String,
    /// Where it stands among all exchanges, which is nowhere in particular.
    pub order: u64,
    /// Whether it is of the fifth of the recordings that no number was chosen by.
    pub is_held_back: bool,
    pub request: Value,
    pub scanned: Scanned,
    form: Form,
    response: String,
}

/// Members in which usage is stated.
const STATEMENTS: [&str; 6] = ["usage", "usageMetadata", "x_groq", "prompt_eval_count", "eval_count", "timings"];

impl Exchange {
    /// Reads a line; none where keymeter would refuse the request.
    pub fn parse(line: &str) -> Result<Option<Self>, Box<dyn Error>> {
        let line: Value = serde_json::from_str(line)?;
        let member = |name: &str| line[name].as_str().ok_or(format!("an exchange has no {name}"));
        let (request, response) = (member("request")?, member("response")?.to_owned());
        let Ok(Call::Inference { endpoint, model }) = api::recognise(&Method::POST, member("path")?) else {
            return Ok(None);
        };
        let Ok(scanned) = body::scan(&Bytes::from(request.to_owned()), endpoint.shape()) else { return Ok(None) };
        let form = Form::of_content_type(member("content_type")?);
        let asked = model.or_else(|| scanned.model.clone()).unwrap_or_default();
        let model = Model(model_of(&response).unwrap_or_else(|| asked.clone()));
        let (is_held_back, order) = (line["held_back"] == true, hash(&format!("{request}{response}")));
        let request = serde_json::from_str(request)?;
        Ok(Some(Self { endpoint, model, asked, order, is_held_back, request, scanned, form, response }))
    }

    /// The usage, if all of it is stated.
    pub fn stated(&self) -> Option<Usage> {
        let metered = self.metered(&self.response, Ending::Complete, &Figures::of(""))?;
        (metered.source == UsageSource::Upstream).then_some(metered.usage)
    }

    /// The output as it is estimated where nothing is stated, for a model of which these `figures` are known.
    pub fn estimated(&self, figures: &Figures) -> u64 {
        let metered = self.metered(&silenced(&self.response), Ending::Complete, figures);
        metered.map_or(0, |metered| metered.usage.output)
    }

    /// What was delivered, as far as it teaches.
    pub fn answer(&self) -> Answer {
        let mut meter = Meter::new(self.endpoint, self.form, false);
        let _ = meter.feed(Bytes::from(self.response.clone()));
        meter.answer(Ending::Complete)
    }

    /// What it delivered.
    pub fn told(&self) -> Told {
        let mut told = Told::new(self.endpoint);
        self.events().iter().for_each(|event| told.read(event));
        told
    }

    /// Its documents.
    pub fn events(&self) -> Vec<Value> {
        match self.form {
            Form::Json => match serde_json::from_str(&self.response) {
                Ok(Value::Array(parts)) => parts,
                Ok(answer) => vec![answer],
                Err(_) => Vec::new(),
            },
            _ => self.parts().filter_map(|part| document(&part)).collect(),
        }
    }

    /// Whether it is a stream of events.
    pub fn is_stream(&self) -> bool {
        matches!(self.form, Form::Sse | Form::Ndjson)
    }

    /// What is estimated after each of the stream's parts but those that end it, with the document in it.
    pub fn estimated_after_each_part(&self, figures: &Figures) -> Vec<(Value, u64)> {
        let mut seen = String::new();
        let mut estimates = Vec::new();
        for part in self.parts() {
            seen.push_str(&silenced(&part));
            let metered = self.metered(&seen, Ending::Early, figures);
            estimates.extend(document(&part).zip(metered).map(|(event, metered)| (event, metered.usage.output)));
        }
        estimates
    }

    /// What a meter makes of the response, or of its beginning; none where that ends early and is complete.
    fn metered(&self, response: &str, ending: Ending, figures: &Figures) -> Option<Metered> {
        let mut meter = Meter::new(self.endpoint, self.form, false);
        let _ = meter.feed(Bytes::from(response.to_owned()));
        let is_cut = ending == Ending::Complete || !meter.ended();
        is_cut.then(|| meter.finish_for(ending, || 0, || *figures))
    }

    /// The stream's events or lines, each with its end.
    fn parts(&self) -> impl Iterator<Item = String> {
        let end = if self.form == Form::Sse { "\n\n" } else { "\n" };
        let text = self.response.replace("\r\n", "\n");
        text.split_inclusive(end).map(str::to_owned).collect::<Vec<_>>().into_iter()
    }
}

/// A hash that is the same everywhere (FNV-1a, with its upper half mixed into the lower).
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    hash ^ hash >> 32
}

/// The document in an event or a line.
fn document(part: &str) -> Option<Value> {
    let data = part.lines().filter_map(|line| line.strip_prefix("data:")).collect::<Vec<_>>().join("\n");
    serde_json::from_str(if data.is_empty() { part } else { &data }).ok()
}

/// The same without what states usage: its names are others. Within a string, a quote would be escaped.
fn silenced(response: &str) -> String {
    let rename = |text: String, name: &&str| {
        text.replace(&format!("\"{name}\":"), &format!("\"no_{name}\":"))
            .replace(&format!("\"{name}\" :"), &format!("\"no_{name}\":"))
    };
    STATEMENTS.iter().fold(response.to_owned(), rename)
}

/// The model that the response says it is from, which tells more than an alias.
fn model_of(response: &str) -> Option<String> {
    let named = ["\"model\":", "\"modelVersion\":"].iter().find_map(|name| response.split_once(name))?.1;
    let (model, _) = named.trim_start().strip_prefix('"')?.split_once('"')?;
    (!model.is_empty()).then(|| model.to_owned())
}
