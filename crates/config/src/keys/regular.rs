//! A reader of keys files as programs and people mostly write them. It understands a small part of YAML, and takes what it
//! understands for exactly what the library does, without its tree of nodes and places: a tenth of the time, and a value of one
//! key at a time. Whatever it does not understand is for the library, and so is every fault: then this reader gives up.
//!
//! Fields and elements in block style; text without escapes, whole numbers, `true`, `false`; lists and fields in one line of flow
//! style; comments. Nothing that goes over several lines, no anchors, tags, tabs, merges or documents.

mod flow;
mod scalar;
mod value;

use std::{borrow::Cow, collections::HashSet};

pub(super) use self::value::Value;

/// Something that this reader does not understand, or that may be a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Irregular;

/// One field of the file's top, as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'text> {
    /// Its name.
    pub(super) name: &'text str,
    /// All of it, its name included.
    text: &'text str,
}

/// The fields of the file's top.
pub(super) fn sections(text: &str) -> Result<Vec<Section<'_>>, Irregular> {
    // As nearly all are; and many bytes at a time.
    let is_plain = text.bytes().fold(true, |all, byte| all & ((byte == b'\n') | (byte.wrapping_sub(b' ') < 0x5f)));
    if !is_plain && !text.chars().all(is_understood) {
        return Err(Irregular);
    }
    let mut sections: Vec<Section<'_>> = Vec::new();
    let mut begins = 0;
    let mut start_of_line = 0;
    for line in text.split_inclusive('\n') {
        // A line without indentation, that is neither an element of a list nor empty, begins a field.
        if !line.starts_with([' ', '#', '-', '\n']) {
            close(&mut sections, text.get(begins..start_of_line))?;
            begins = start_of_line;
            let (name, _) = line.split_once(':').ok_or(Irregular)?;
            if !scalar::is_name(name) || sections.iter().any(|section| section.name == name) {
                return Err(Irregular);
            }
            sections.push(Section { name, text: "" });
        } else if sections.is_empty() && !line.trim_start().is_empty() && !line.starts_with('#') {
            return Err(Irregular);
        }
        start_of_line += line.len();
    }
    close(&mut sections, text.get(begins..))?;
    if sections.is_empty() { Err(Irregular) } else { Ok(sections) }
}

/// What is written in the last section.
fn close<'text>(sections: &mut [Section<'text>], text: Option<&'text str>) -> Result<(), Irregular> {
    if let Some(section) = sections.last_mut() {
        section.text = text.ok_or(Irregular)?;
    }
    Ok(())
}

/// What is printed, and ends no line but by a line feed.
fn is_understood(character: char) -> bool {
    matches!(
        character,
        ' '..='~'
            | '\n'
            | '\u{a1}'..='\u{2027}'
            | '\u{202a}'..='\u{d7ff}'
            | '\u{e000}'..='\u{fefe}'
            | '\u{ff00}'..='\u{fffd}'
            | '\u{10000}'..
    )
}

impl<'text> Section<'text> {
    /// What is written of it.
    pub(super) fn value(self) -> Result<Value<'text>, Irregular> {
        let mut reader = Reader::new(self.text);
        let fields = reader.fields(0)?;
        if reader.lines.next.is_some() {
            return Err(Irregular);
        }
        fields.into_iter().next().map(|(_, value)| value).ok_or(Irregular)
    }

    /// Looks at each element of the list that it is, and keeps none of them.
    pub(super) fn each_element(
        self,
        mut look: impl FnMut(Value<'text>) -> Result<(), Irregular>,
    ) -> Result<(), Irregular> {
        let mut reader = Reader::new(self.text);
        let head = reader.lines.take().ok_or(Irregular)?;
        let (_, rest) = scalar::field_name(head.content).ok_or(Irregular)?;
        if !scalar::without_comment(rest).is_empty() {
            let Value::List(elements) = self.value()? else { return Err(Irregular) };
            return elements.into_iter().try_for_each(look);
        }
        let first = reader.lines.next.ok_or(Irregular)?;
        while reader.at_element(first.indentation)? {
            look(reader.element(first.indentation)?)?;
        }
        if reader.lines.next.is_some() { Err(Irregular) } else { Ok(()) }
    }
}

/// A line with something on it.
#[derive(Clone, Copy, Debug)]
struct Line<'text> {
    indentation: usize,
    /// Without what is around it; a comment may follow.
    content: &'text str,
}

/// The lines of a text that have more than a comment.
#[derive(Clone, Copy, Debug)]
struct Lines<'text> {
    next: Option<Line<'text>>,
    /// What is behind that.
    rest: &'text str,
}

impl<'text> Lines<'text> {
    fn new(text: &'text str) -> Self {
        let mut lines = Self { next: None, rest: text };
        lines.take();
        lines
    }

    /// The next line, which is behind us then.
    fn take(&mut self) -> Option<Line<'text>> {
        let following = self.find();
        std::mem::replace(&mut self.next, following)
    }

    fn find(&mut self) -> Option<Line<'text>> {
        while !self.rest.is_empty() {
            let end = memchr::memchr(b'\n', self.rest.as_bytes()).unwrap_or(self.rest.len());
            let (line, rest) = self.rest.split_at_checked(end)?;
            self.rest = rest.get(1..).unwrap_or_default();
            let content = line.trim_start_matches(' ');
            let indentation = line.len() - content.len();
            let content = content.trim_end_matches(' ');
            if !content.is_empty() && !content.starts_with('#') {
                return Some(Line { indentation, content });
            }
        }
        None
    }
}

/// Reads values in block style.
struct Reader<'text> {
    lines: Lines<'text>,
    /// How many fields it is within.
    depth: usize,
}

/// The library refuses 64 levels. These are two each, and some in brackets may follow.
const DEEPEST: usize = 16;

impl<'text> Reader<'text> {
    fn new(text: &'text str) -> Self {
        Self { lines: Lines::new(text), depth: 0 }
    }

    /// The fields that begin in a column, as far as they go.
    fn fields(&mut self, column: usize) -> Result<Vec<(Cow<'text, str>, Value<'text>)>, Irregular> {
        let mut fields = Vec::new();
        while let Some(line) = self.lines.next.filter(|line| line.indentation >= column) {
            if line.indentation > column {
                return Err(Irregular);
            }
            if is_element(line.content) {
                break;
            }
            self.lines.take();
            self.field(line.content, column, &mut fields)?;
        }
        all_differ(&fields)?;
        Ok(fields)
    }

    /// A field that begins with `content`.
    fn field(
        &mut self,
        content: &'text str,
        column: usize,
        fields: &mut Vec<(Cow<'text, str>, Value<'text>)>,
    ) -> Result<(), Irregular> {
        let (name, rest) = scalar::field_name(content).ok_or(Irregular)?;
        let value = if scalar::without_comment(rest).is_empty() { self.below(column)? } else { in_line(rest)? };
        fields.push((Cow::Borrowed(name), value));
        Ok(())
    }

    /// What stands below a field's name in `column`.
    fn below(&mut self, column: usize) -> Result<Value<'text>, Irregular> {
        let line = self.lines.next.ok_or(Irregular)?;
        self.depth += 1;
        let value = match line.indentation {
            _ if self.depth > DEEPEST => return Err(Irregular),
            indentation if indentation >= column && is_element(line.content) => {
                let mut elements = Vec::new();
                while self.at_element(indentation)? {
                    elements.push(self.element(indentation)?);
                }
                Value::List(elements)
            }
            indentation if indentation > column => Value::Fields(self.fields(indentation)?),
            // Nothing is written. That is rare.
            _ => return Err(Irregular),
        };
        self.depth -= 1;
        Ok(value)
    }

    /// Whether an element of the list in `column` is next.
    fn at_element(&self, column: usize) -> Result<bool, Irregular> {
        match self.lines.next {
            Some(line) if line.indentation > column => Err(Irregular),
            Some(line) => Ok(line.indentation == column && is_element(line.content)),
            None => Ok(false),
        }
    }

    /// The next element of the list in `column`.
    fn element(&mut self, column: usize) -> Result<Value<'text>, Irregular> {
        let line = self.lines.take().ok_or(Irregular)?;
        let behind_dash = line.content.get(1..).ok_or(Irregular)?;
        let content = behind_dash.trim_start_matches(' ');
        if content.is_empty() || content.starts_with('#') || is_element(content) {
            return Err(Irregular);
        }
        if scalar::field_name(content).is_none() {
            return in_line(content);
        }
        let column = column + 1 + behind_dash.len() - content.len();
        let mut fields = Vec::new();
        self.field(content, column, &mut fields)?;
        fields.extend(self.fields(column)?);
        all_differ(&fields)?;
        Ok(Value::Fields(fields))
    }
}

fn is_element(content: &str) -> bool {
    content.starts_with("- ") || content == "-"
}

/// A value that stands behind its field's name or its dash.
fn in_line(text: &str) -> Result<Value<'_>, Irregular> {
    let text = text.trim_start_matches(' ');
    let (value, rest) = match text.as_bytes().first() {
        Some(b'[' | b'{') => flow::value(text)?,
        Some(b'"' | b'\'') => {
            let (text, rest) = scalar::quoted(text)?;
            (Value::Text(Cow::Borrowed(text)), rest)
        }
        _ => return scalar::plain(scalar::without_comment(text), scalar::Style::Block),
    };
    // A comment is told from text by the space before it.
    let is_end = rest.is_empty() || (rest.starts_with(' ') && scalar::without_comment(rest).is_empty());
    if is_end { Ok(value) } else { Err(Irregular) }
}

/// A field that is given twice is a fault.
fn all_differ(fields: &[(Cow<'_, str>, Value<'_>)]) -> Result<(), Irregular> {
    let differ = if fields.len() <= 16 {
        let is_new = |at: usize, name: &str| fields.iter().take(at).all(|(other, _)| other != name);
        fields.iter().enumerate().all(|(at, (name, _))| is_new(at, name))
    } else {
        let mut seen = HashSet::new();
        fields.iter().all(|(name, _)| seen.insert(&**name))
    };
    if differ { Ok(()) } else { Err(Irregular) }
}

#[cfg(test)]
mod tests;
