//! Changing a body without parsing it anew: the bytes of a value are replaced or a member is
//! put in, and every other byte stays as it was sent.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    Scanned, Shape,
    maximum::{MaximumName, Maximums, Stated},
};

/// What to change in a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Ask for usage in the stream, where the API has to be asked, as chat and completions have:
    /// `stream_options.include_usage` becomes true.
    pub include_usage: bool,
    /// The most output tokens that one choice may have: what is stated beyond it is lowered to it,
    /// and where the API's own fields state none, its own field states it. Nothing is raised but
    /// what servers take for none: a zero, and numbers below it. A request without such a field stays as it is.
    pub maximum: Option<u64>,
    /// The field in which a chat is to state it, where it states none: a field of the other name, which says so, is renamed.
    pub name: MaximumName,
    /// What the model is called wherever the body names one.
    pub model: Option<Arc<str>>,
    /// The `priority` of a chat, a completion, a response or embeddings, in place of what is written.
    pub priority: Option<i8>,
}

/// A chat's fields for its maximum, of which neither states one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMaximum {
    /// One of them is there, and is `null`, or says that there is none.
    Named(MaximumName),
    /// Neither is there, or both are `null`.
    Any,
}

/// Where in a body things stand that may be changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    pub members: Opening,
    pub stream_options: Object,
    pub include_usage: Option<Range<usize>>,
    /// The object that the maximum is a member of, where that is not the body itself.
    pub options: Object,
    pub maximums: Maximums,
    /// Every name of the model.
    pub models: Vec<Range<usize>>,
    pub priority: Option<Range<usize>>,
}

/// The place after an object's brace, where a member can be put in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Opening {
    pub at: usize,
    /// Whether the object has no members.
    pub empty: bool,
}

/// How an object within the body is written.
#[derive(Debug, Clone, Default)]
pub(super) enum Object {
    #[default]
    Nowhere,
    Null(Range<usize>),
    There(Opening),
}

const INCLUDE_USAGE: &str = r#""include_usage":true"#;

impl Scanned {
    /// The body as it came.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body with `change` made and every other byte as it came. Where nothing differs, and for
    /// what has neither a stream to ask for nor a field to bound its output, nothing is copied.
    /// Doing it again on what came out changes nothing.
    #[must_use]
    pub fn splice(&self, change: &Change) -> Bytes {
        let mut edits = Edits::default();
        if change.include_usage && self.shape.has_stream_options() {
            self.include_usage(&mut edits);
        }
        if let Some(maximum) = change.maximum {
            self.bound(change, maximum, &mut edits);
        }
        if let Some(model) = &change.model {
            self.rename(model, &mut edits);
        }
        if let Some(priority) = change.priority.filter(|_| self.shape.has_priority()) {
            self.prioritize(priority, &mut edits);
        }
        edits.apply(&self.body, self.places.members)
    }

    fn rename(&self, model: &str, edits: &mut Edits) {
        let written = match self.shape {
            Shape::Form => model.to_owned(),
            _ => serde_json::Value::from(model).to_string(),
        };
        for span in &self.places.models {
            edits.replace(span.clone(), &written);
        }
    }

    fn prioritize(&self, priority: i8, edits: &mut Edits) {
        match &self.places.priority {
            Some(span) => edits.replace(span.clone(), &priority.to_string()),
            None => edits.members.push(format!(r#""priority":{priority}"#)),
        }
    }

    fn include_usage(&self, edits: &mut Edits) {
        match &self.places.include_usage {
            Some(span) => edits.replace(span.clone(), "true"),
            None => edits.put(&self.places.stream_options, "stream_options", INCLUDE_USAGE),
        }
    }

    /// Where a maximum of our own would be written: the fields of a chat that are `null`, say that there is none, or are not
    /// there. `None`: the request states its maximum, and that is where it stays, or the API has one field only.
    #[must_use]
    pub fn open_maximum(&self) -> Option<OpenMaximum> {
        let maximums = &self.places.maximums;
        if self.shape != Shape::Chat {
            return None;
        }
        let only = maximums.only_open(self.shape).map(OpenMaximum::Named);
        only.or_else(|| (!maximums.is_stated(self.shape)).then_some(OpenMaximum::Any))
    }

    fn bound(&self, change: &Change, maximum: u64, edits: &mut Edits) {
        let Some(field) = self.shape.maximum_field() else { return };
        let digits = maximum.to_string();
        let maximums = &self.places.maximums;
        for span in maximums.over(maximum, self.shape) {
            edits.replace(span.clone(), &digits);
        }
        // A field that the upstream may not know goes with its value, whatever that was.
        if let Some(OpenMaximum::Named(named)) = self.open_maximum() {
            if named != change.name {
                edits.replace(maximums.name_span(named).clone(), &format!("\"{}\"", change.name.as_str()));
            }
            if let Stated::Null(span) = maximums.named(named, self.shape) {
                edits.replace(span.clone(), &digits);
            }
            return;
        }
        if maximums.is_stated(self.shape) {
            return;
        }
        let name = if self.shape == Shape::Chat { change.name.as_str() } else { field.name };
        let member = format!(r#""{name}":{digits}"#);
        match (maximums.named(change.name, self.shape), field.object) {
            (Stated::Null(span), _) => edits.replace(span.clone(), &digits),
            (_, None) => edits.members.push(member),
            (_, Some(object)) => edits.put(&self.places.options, object, &member),
        }
    }
}

impl Opening {
    /// `member` with the comma that what follows it needs.
    fn separated(self, member: &str) -> String {
        if self.empty { member.to_owned() } else { format!("{member},") }
    }
}

/// Changes to be made, in any order.
#[derive(Debug, Default)]
struct Edits {
    replacements: Vec<(Range<usize>, String)>,
    /// Members for the body's own object.
    members: Vec<String>,
}

impl Edits {
    /// Puts `member` into the object that goes by `name` in the body.
    fn put(&mut self, object: &Object, name: &str, member: &str) {
        match object {
            Object::Nowhere => self.members.push(format!(r#""{name}":{{{member}}}"#)),
            Object::Null(span) => self.replace(span.clone(), &format!("{{{member}}}")),
            Object::There(opening) => self.replace(opening.at..opening.at, &opening.separated(member)),
        }
    }

    fn replace(&mut self, span: Range<usize>, text: &str) {
        self.replacements.push((span, text.to_owned()));
    }

    fn apply(mut self, body: &Bytes, object: Opening) -> Bytes {
        if !self.members.is_empty() {
            self.replace(object.at..object.at, &object.separated(&self.members.join(",")));
        }
        // Spans are those of distinct values of this very body, so that they lie within it and
        // none overlaps another.
        self.replacements.retain(|(span, text)| body.get(span.clone()) != Some(text.as_bytes()));
        if self.replacements.is_empty() {
            return body.clone();
        }
        // What is put in before a value comes before what stands in its place.
        self.replacements.sort_by_key(|(span, _)| (span.start, span.end));
        let added: usize = self.replacements.iter().map(|(_, text)| text.len()).sum();
        let mut spliced = BytesMut::with_capacity(body.len() + added);
        let mut copied = 0;
        for (span, text) in self.replacements {
            spliced.extend_from_slice(body.get(copied..span.start).unwrap_or_default());
            spliced.extend_from_slice(text.as_bytes());
            copied = span.end;
        }
        spliced.extend_from_slice(body.get(copied..).unwrap_or_default());
        spliced.freeze()
    }
}

#[cfg(test)]
mod tests;
