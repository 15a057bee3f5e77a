//! Changing a body without parsing it anew: the bytes of a value are replaced or a member is
//! put in, and every other byte stays as it was sent.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::{
    Scanned, Shape,
    maximum::{Maximums, Stated},
};

/// What to change in a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Ask for usage in the stream: `stream_options.include_usage` becomes true.
    pub include_usage: bool,
    /// The most output tokens that one choice may have: what is stated beyond it is lowered to it,
    /// and where the API's own fields state none, `max_tokens` states it. Nothing is raised.
    pub maximum: Option<u64>,
}

/// Where in a body things stand that may be changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    pub members: Opening,
    pub usage: UsageOption,
    pub maximums: Maximums,
}

/// The place after an object's brace, where a member can be put in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Opening {
    pub at: usize,
    /// Whether the object has no members.
    pub empty: bool,
}

/// How `stream_options.include_usage` is written.
#[derive(Debug, Clone, Default)]
pub(super) enum UsageOption {
    #[default]
    NoOptions,
    NullOptions(Range<usize>),
    Missing(Opening),
    Stated(Range<usize>),
}

const USAGE_MEMBER: &str = r#""include_usage":true"#;
const USAGE_OBJECT: &str = r#"{"include_usage":true}"#;
const OPTIONS_MEMBER: &str = r#""stream_options":{"include_usage":true}"#;

impl Scanned {
    /// The body as it came.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body with `change` made and every other byte as it came. Where nothing differs, and for
    /// embeddings, which have neither a stream nor an output, nothing is copied. Doing it again on
    /// what came out changes nothing.
    #[must_use]
    pub fn splice(&self, change: &Change) -> Bytes {
        if self.shape == Shape::Embeddings {
            return self.body.clone();
        }
        let mut edits = Edits::default();
        if change.include_usage {
            self.include_usage(&mut edits);
        }
        if let Some(maximum) = change.maximum {
            self.bound(maximum, &mut edits);
        }
        edits.apply(&self.body, self.places.members)
    }

    fn include_usage(&self, edits: &mut Edits) {
        match &self.places.usage {
            UsageOption::NoOptions => edits.members.push(OPTIONS_MEMBER.to_owned()),
            UsageOption::NullOptions(span) => edits.replace(span.clone(), USAGE_OBJECT),
            UsageOption::Missing(object) => edits.replace(object.at..object.at, &object.separated(USAGE_MEMBER)),
            UsageOption::Stated(span) => edits.replace(span.clone(), "true"),
        }
    }

    fn bound(&self, maximum: u64, edits: &mut Edits) {
        let digits = maximum.to_string();
        let maximums = &self.places.maximums;
        for span in maximums.over(maximum) {
            edits.replace(span.clone(), &digits);
        }
        if maximums.own(self.shape).is_some() {
            return;
        }
        match &maximums.tokens {
            Stated::Nowhere => edits.members.push(format!(r#""max_tokens":{digits}"#)),
            Stated::Null(span) | Stated::Number(_, span) => edits.replace(span.clone(), &digits),
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
        self.replacements.sort_by_key(|(span, _)| span.start);
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
