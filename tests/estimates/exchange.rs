//! One recorded exchange, with and without what it states.

use std::error::Error;

use bytes::Bytes;
use http::Method;
use keymeter_core::{
    api::{self, Call, Endpoint},
    body::{self, Scanned},
    limit::Learned,
    usage::{Ending, Form, Meter, Metered, Usage, UsageSource},
};
use serde_json::Value;

use super::{model::Model, told::Told};

/// An exchange.
pub struct Exchange {
    pub endpoint: Endpoint,
    pub model: Model,
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
        let model = Model(model_of(&response).unwrap_or(asked));
        Ok(Some(Self { endpoint, model, request: serde_json::from_str(request)?, scanned, form, response }))
    }

    /// The usage, if all of it is stated.
    pub fn stated(&self) -> Option<Usage> {
        let metered = self.metered(&self.response, Ending::Complete, &Learned::default())?;
        (metered.source == UsageSource::Upstream).then_some(metered.usage)
    }

    /// The output as it is estimated where nothing is stated, of a model of which this was `learned`.
    pub fn estimated(&self, learned: &Learned) -> u64 {
        let metered = self.metered(&silenced(&self.response), Ending::Complete, learned);
        metered.map_or(0, |metered| metered.usage.output)
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
    pub fn estimated_after_each_part(&self, learned: &Learned) -> Vec<(Value, u64)> {
        let mut seen = String::new();
        let mut estimates = Vec::new();
        for part in self.parts() {
            seen.push_str(&silenced(&part));
            let metered = self.metered(&seen, Ending::Early, learned);
            estimates.extend(document(&part).zip(metered).map(|(event, metered)| (event, metered.usage.output)));
        }
        estimates
    }

    /// What a meter makes of the response, or of its beginning; none where that ends early and is complete.
    fn metered(&self, response: &str, ending: Ending, learned: &Learned) -> Option<Metered> {
        let mut meter = Meter::new(self.endpoint, self.form, false);
        let _ = meter.feed(Bytes::from(response.to_owned()));
        let is_cut = ending == Ending::Complete || !meter.ended();
        is_cut.then(|| meter.finish_for(ending, || 0, |found| learned.own_tokens(found)))
    }

    /// The stream's events or lines, each with its end.
    fn parts(&self) -> impl Iterator<Item = String> {
        let end = if self.form == Form::Sse { "\n\n" } else { "\n" };
        let text = self.response.replace("\r\n", "\n");
        text.split_inclusive(end).map(str::to_owned).collect::<Vec<_>>().into_iter()
    }
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
