//! A scan of a JSON body: one walk over its members, which notes what those that count say and
//! where.

use std::ops::Range;

use bytes::Bytes;

use super::{
    BodyError, Scanned, Shape,
    field::{Field, Known, Seen, tables::STREAM_OPTIONS},
    json::{Kind, Reader, Text, Token},
    least::Demands,
    maximum::Stated,
    outline::{Matter, Outline},
    splice::{Object, Opening},
    walk::{Media, walk},
};
use crate::model_name;

/// Reads `text`, which is all of `body` and begins with an object.
pub(super) fn read(text: &str, body: &Bytes, shape: Shape) -> Result<Scanned, BodyError> {
    let (scanned, demands) = (Scanned::new(body.clone(), shape), Demands::default());
    let mut scan = Scan { reader: Reader::new(text), scanned, demands, prompts: 0 };
    let brace = scan.reader.token()?;
    scan.scanned.places.members = scan.members(brace.span.end, shape.fields())?;
    let Scan { reader, mut scanned, demands, prompts } = scan;
    reader.finish()?;
    (scanned.least_maximum, scanned.useful_maximum) = (demands.least(shape), demands.useful(shape));
    scanned.maximum = scanned.places.maximums.greatest(shape);
    if shape == Shape::Completions {
        scanned.prompts = prompts.max(1);
        scanned.choices = scanned.choices.saturating_mul(scanned.prompts);
    }
    Ok(scanned)
}

/// Longer ids than this are nobody's.
const LONGEST_ID: u64 = 128;
const MODEL: &str = "a string of 1 to 256 bytes without control characters";
const INTEGER: &str = "a non-negative integer or null";
const ANY_INTEGER: &str = "an integer or null";
const BOOLEAN: &str = "true, false or null";
const OBJECT: &str = "an object or null";
const REQUESTS: &str = "a list of objects, or null";

/// A scan under way.
struct Scan<'a> {
    reader: Reader<'a>,
    scanned: Scanned,
    demands: Demands,
    prompts: u64,
}

impl Scan<'_> {
    /// The members of an object whose brace ends at `at`, of which those in `table` count.
    fn members(&mut self, at: usize, table: &'static [Known]) -> Result<Opening, BodyError> {
        let mut seen = Seen::none_of(table);
        let mut token = self.reader.token()?;
        let opening = Opening { at, empty: token.kind == Kind::ObjectEnd };
        while let Kind::Name(name) = token.kind {
            match seen.field(name, token.span.start)? {
                Some(known) => self.member(known, token.span)?,
                None => self.skip()?,
            }
            token = self.reader.token()?;
        }
        Ok(opening)
    }

    /// The value of a field. Tables within tables end after three levels, and this with them.
    fn member(&mut self, known: &Known, named_at: Range<usize>) -> Result<(), BodyError> {
        let name = known.path;
        match known.field {
            Field::Model => self.name_model(name)?,
            Field::Background => self.refuse_background(name)?,
            Field::Requests(table) => self.requests(name, table)?,
            Field::Stream => {
                let stated = self.boolean(name)?.0;
                self.scanned.stream = stated.unwrap_or(self.scanned.shape.streams_by_default());
            }
            Field::StreamOptions => self.scanned.places.stream_options = self.object(name, &STREAM_OPTIONS)?,
            Field::IncludeUsage => {
                let (value, span) = self.boolean(name)?;
                self.scanned.client_wants_usage = value.unwrap_or(false);
                self.scanned.places.include_usage = Some(span);
            }
            Field::Options(table) => self.scanned.places.options = self.object(name, table)?,
            Field::Maximum(maximum) => {
                self.scanned.places.maximums.note_name(maximum, named_at);
                *self.scanned.places.maximums.of(maximum) = self.integer_or_none(name)?;
            }
            Field::Minimum => self.demands.minimum = self.number_if_any()?,
            Field::Budget => self.demands.budget = self.demands.budget.max(self.number_if_any()?),
            Field::Mode => self.demands.is_off = self.is_word("disabled")?,
            Field::Thinking(table) => self.members_if_any(table)?,
            Field::Choices => {
                self.scanned.choices = self.integer(name)?.value().unwrap_or(1).max(self.scanned.choices);
            }
            Field::Previous => self.scanned.previous_response_id = self.text_if_any()?,
            Field::Priority => self.scanned.places.priority = Some(self.span()?),
            Field::Prompt | Field::Media => self.prompt(known.field, Matter::Said)?,
            Field::Text(matter) => self.prompt(known.field, matter)?,
        }
        Ok(())
    }

    fn skip(&mut self) -> Result<(), BodyError> {
        self.span().map(drop)
    }

    /// Where the next value stands, which is passed over.
    fn span(&mut self) -> Result<Range<usize>, BodyError> {
        let depth = self.reader.depth();
        let start = self.reader.token()?.span.start;
        self.reader.skip_to(depth)?;
        Ok(start..self.reader.position())
    }

    /// A body may name its model in several places, and an upstream may heed any of them: they all name one.
    fn name_model(&mut self, name: &'static str) -> Result<(), BodyError> {
        let (model, shape) = (self.model(name)?, self.scanned.shape);
        match &self.scanned.model {
            Some(other) if shape.bare_model(other) != shape.bare_model(&model) => Err(BodyError::OtherModel),
            _ => {
                self.scanned.model = Some(model);
                Ok(())
            }
        }
    }

    fn refuse_background(&mut self, name: &'static str) -> Result<(), BodyError> {
        let (value, span) = self.boolean(name)?;
        if value == Some(true) { Err(BodyError::Background { offset: span.start }) } else { Ok(()) }
    }

    fn requests(&mut self, name: &'static str, table: &'static [Known]) -> Result<(), BodyError> {
        let Token { span, kind } = self.reader.token()?;
        let wrong = |offset| BodyError::WrongType { name, expected: REQUESTS, offset };
        match kind {
            Kind::Null => return Ok(()),
            Kind::ArrayStart => {}
            _ => return Err(wrong(span.start)),
        }
        loop {
            let Token { span, kind } = self.reader.token()?;
            match kind {
                Kind::ObjectStart => self.members(span.end, table).map(drop)?,
                Kind::ArrayEnd => return Ok(()),
                _ => return Err(wrong(span.start)),
            }
        }
    }

    fn model(&mut self, name: &'static str) -> Result<String, BodyError> {
        let Token { span, kind } = self.reader.token()?;
        let offset = span.start;
        let wrong = BodyError::WrongType { name, expected: MODEL, offset };
        match kind {
            Kind::String(text @ Text { length, .. }) if length <= model_name::LONGEST as u64 => {
                let model = text.decode().map_err(|_| BodyError::LoneSurrogate { offset })?;
                if !model_name::is_valid(&model) {
                    return Err(wrong);
                }
                self.scanned.places.models.push(span);
                Ok(model)
            }
            _ => Err(wrong),
        }
    }

    /// A boolean, `None` for null, and its place.
    fn boolean(&mut self, name: &'static str) -> Result<(Option<bool>, Range<usize>), BodyError> {
        let Token { span, kind } = self.reader.token()?;
        match kind {
            Kind::True => Ok((Some(true), span)),
            Kind::False => Ok((Some(false), span)),
            Kind::Null => Ok((None, span)),
            _ => Err(BodyError::WrongType { name, expected: BOOLEAN, offset: span.start }),
        }
    }

    fn integer(&mut self, name: &'static str) -> Result<Stated, BodyError> {
        let Token { span, kind } = self.reader.token()?;
        stated(kind, &span).ok_or(BodyError::WrongType { name, expected: INTEGER, offset: span.start })
    }

    /// An integer that means none where it is negative.
    fn integer_or_none(&mut self, name: &'static str) -> Result<Stated, BodyError> {
        let Token { span, kind } = self.reader.token()?;
        match kind {
            Kind::Number(number) if number.strip_prefix('-').is_some_and(is_digits) => Ok(Stated::Unbounded(span)),
            _ => stated(kind, &span).ok_or(BodyError::WrongType { name, expected: ANY_INTEGER, offset: span.start }),
        }
    }

    /// A number without a sign or a fraction. Whatever else stands there is the upstream's to refuse, since nothing is
    /// enforced by it.
    fn number_if_any(&mut self) -> Result<Option<u64>, BodyError> {
        let depth = self.reader.depth();
        let Token { span, kind } = self.reader.token()?;
        self.reader.skip_to(depth)?;
        Ok(stated(kind, &span).and_then(|stated| stated.value()))
    }

    /// A short string. Whatever else stands there is the upstream's to refuse.
    fn text_if_any(&mut self) -> Result<Option<String>, BodyError> {
        let depth = self.reader.depth();
        let kind = self.reader.token()?.kind;
        self.reader.skip_to(depth)?;
        let Kind::String(text) = kind else { return Ok(None) };
        Ok(Some(text).filter(|text| text.length <= LONGEST_ID).and_then(|text| text.decode().ok()))
    }

    /// Whether the value is this word.
    fn is_word(&mut self, word: &str) -> Result<bool, BodyError> {
        let depth = self.reader.depth();
        let kind = self.reader.token()?.kind;
        self.reader.skip_to(depth)?;
        let Kind::String(text) = kind else { return Ok(false) };
        Ok(text.length == word.len() as u64 && text.decode().is_ok_and(|decoded| decoded == word))
    }

    /// The members of an object that count, if it is an object.
    fn members_if_any(&mut self, table: &'static [Known]) -> Result<(), BodyError> {
        let depth = self.reader.depth();
        let Token { span, kind } = self.reader.token()?;
        match kind {
            Kind::ObjectStart => self.members(span.end, table).map(drop),
            _ => self.reader.skip_to(depth),
        }
    }

    fn object(&mut self, name: &'static str, table: &'static [Known]) -> Result<Object, BodyError> {
        let Token { span, kind } = self.reader.token()?;
        match kind {
            Kind::Null => Ok(Object::Null(span)),
            Kind::ObjectStart => Ok(Object::There(self.members(span.end, table)?)),
            _ => Err(BodyError::WrongType { name, expected: OBJECT, offset: span.start }),
        }
    }

    fn prompt(&mut self, field: Field, matter: Matter) -> Result<(), BodyError> {
        let media = match (self.scanned.shape, field) {
            (Shape::Embeddings, Field::Prompt) => Media::BareUrls,
            (shape, _) => shape.media(),
        };
        if field == Field::Media {
            // What it says is no text.
            let walked = walk(&mut self.reader, media, matter, &mut Outline::default())?;
            self.scanned.media += walked.items;
            self.prompts += walked.items;
            return Ok(());
        }
        let walked = walk(&mut self.reader, media, matter, &mut self.scanned.outline)?;
        self.scanned.prompt_text_bytes += walked.text_bytes;
        self.scanned.media += walked.media;
        // Messages elsewhere say whose they are.
        let is_told = matches!(matter, Matter::Said | Matter::Instructed);
        let is_message = walked.is_string && is_told && self.scanned.shape == Shape::Responses;
        self.scanned.outline.messages += u64::from(is_message);
        self.scanned.outline.instructions += u64::from(matter == Matter::Instructed && walked.items > 0);
        if field == Field::Prompt {
            self.scanned.prompt_tokens_given += walked.numbers;
            self.prompts += walked.items;
        }
        Ok(())
    }
}

/// A number without a sign, or null. The grammar is checked, so that digits alone can fail to parse
/// only by being too many.
fn stated(kind: Kind<'_>, span: &Range<usize>) -> Option<Stated> {
    match kind {
        Kind::Null => Some(Stated::Null(span.clone())),
        Kind::Number(digits) if is_digits(digits) => {
            Some(Stated::Number(digits.parse().unwrap_or(u64::MAX), span.clone()))
        }
        _ => None,
    }
}

fn is_digits(number: &str) -> bool {
    number.bytes().all(|byte| byte.is_ascii_digit())
}
