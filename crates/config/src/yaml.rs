//! A read-only tree of a YAML text's nodes with their places, so that an error can point at its line and a file can be
//! edited in place. The meaning of the text is not decided here.

use std::borrow::Cow;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};
use thiserror::Error;

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Bytes before it.
    pub offset: usize,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
}

/// One value or key as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Where it begins. An anchor or a tag belongs to a scalar and to a flow collection; a block sequence begins
    /// with its first `-`, a block mapping with its first key, a block scalar with its `|` or `>`.
    pub start: Mark,
    /// The place behind it. A block collection ends with its last entry, without what follows on that line; a
    /// block scalar with its last line that is not blank.
    pub end: Mark,
    /// Whether it stands in brackets or braces, or inside of something that does. False for block style.
    pub flow: bool,
}

/// The content of a [`Node`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A single value, without its quotes and escapes; one that was left out is empty.
    Scalar(String),
    /// A list.
    Sequence(Vec<Node>),
    /// Fields, in the order of the text, duplicates included.
    Mapping(Vec<(Node, Node)>),
    /// `*name`: what an anchor elsewhere holds.
    Alias,
}

/// One step of the way from the root of a document to a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathStep {
    /// Into the field of a mapping.
    Key(String),
    /// Into the element of a sequence, counted from 0.
    Index(usize),
}

/// Why a text is no YAML document.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{line}:{column}: {message}")]
pub struct SyntaxError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

/// The places of all nodes of one YAML document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    root: Option<Node>,
}

/// More levels than this are refused: no file of ours needs them, and dropping a tree recurses.
const DEEPEST: usize = 64;

impl Marks {
    /// Reads one YAML 1.2 document.
    ///
    /// # Errors
    /// The first place where the text is no YAML, nests more than 64 levels or starts a second document.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut tree = Tree::new(text);
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| syntax_fault(text, &error))?;
            tree.take(event, span)?;
        }
        Ok(Self { root: tree.root })
    }

    /// The node that holds all others; `None` for a text without any value.
    #[must_use]
    pub fn root(&self) -> Option<&Node> {
        self.root.as_ref()
    }

    /// The value at the end of `path`. Of duplicate fields the first is taken; aliases are not followed.
    #[must_use]
    pub fn node(&self, path: &[PathStep]) -> Option<&Node> {
        path.iter().try_fold(self.root()?, |node, step| node.child(step).map(|(_, value)| value))
    }

    /// Where the value at the end of `path` begins.
    #[must_use]
    pub fn locate(&self, path: &[PathStep]) -> Option<Mark> {
        self.node(path).map(|node| node.start)
    }

    /// Where the key of the field at the end of `path` begins; for an element of a sequence, the element.
    #[must_use]
    pub fn locate_key(&self, path: &[PathStep]) -> Option<Mark> {
        let (last, parents) = path.split_last()?;
        self.node(parents)?.child(last).map(|(key, _)| key.start)
    }
}

impl Node {
    /// The text of a scalar.
    #[must_use]
    pub fn as_scalar(&self) -> Option<&str> {
        if let Kind::Scalar(text) = &self.kind { Some(text) } else { None }
    }

    /// The elements of a sequence; none for anything else.
    #[must_use]
    pub fn elements(&self) -> &[Self] {
        if let Kind::Sequence(elements) = &self.kind { elements } else { &[] }
    }

    /// The fields of a mapping, key and value; none for anything else.
    #[must_use]
    pub fn fields(&self) -> &[(Self, Self)] {
        if let Kind::Mapping(fields) = &self.kind { fields } else { &[] }
    }

    /// The value of the first field of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.entry(name).map(|(_, value)| value)
    }

    fn entry(&self, name: &str) -> Option<&(Self, Self)> {
        self.fields().iter().find(|(key, _)| key.as_scalar() == Some(name))
    }

    /// What a step leads to, with its key; an element is its own key.
    fn child(&self, step: &PathStep) -> Option<(&Self, &Self)> {
        match step {
            PathStep::Key(name) => self.entry(name).map(|(key, value)| (key, value)),
            PathStep::Index(index) => self.elements().get(*index).map(|element| (element, element)),
        }
    }
}

/// A tree that grows by the parser's events.
struct Tree<'text> {
    text: &'text str,
    offsets: Offsets<'text>,
    root: Option<Node>,
    /// The collections that have begun and not ended, the outermost first.
    open: Vec<Open>,
    /// Where the last event ended.
    last_end: Mark,
}

struct Open {
    start: Mark,
    /// Behind the opening bracket, or the start again.
    head_end: Mark,
    flow: bool,
    bracketed: bool,
    kind: Kind,
    key: Option<Node>,
}

impl<'text> Tree<'text> {
    fn new(text: &'text str) -> Self {
        Self {
            text,
            offsets: Offsets::new(text),
            root: None,
            open: Vec::new(),
            last_end: Mark { offset: 0, line: 1, column: 1 },
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let (start, end) = (self.offsets.mark(span.start), self.offsets.mark(span.end));
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err(fault_at(start, "a second document starts here; the file may hold only one"));
            }
            Event::MappingStart(..) => self.begin(start, end, Kind::Mapping(Vec::new()))?,
            Event::SequenceStart(..) => self.begin(start, end, Kind::Sequence(Vec::new()))?,
            Event::MappingEnd | Event::SequenceEnd => self.finish(start),
            Event::Scalar(value, style, ..) => self.scalar(value, style, start, end),
            Event::Alias(_) => self.add(Node { kind: Kind::Alias, start, end, flow: self.in_flow() }),
            _ => {}
        }
        self.last_end = end;
        Ok(())
    }

    fn in_flow(&self) -> bool {
        self.open.last().is_some_and(|parent| parent.flow)
    }

    fn begin(&mut self, start: Mark, head_end: Mark, kind: Kind) -> Result<(), SyntaxError> {
        if self.open.len() >= DEEPEST {
            return Err(fault_at(start, "nested more than 64 levels deep"));
        }
        let bracketed = without_properties(self.slice(start, head_end)).starts_with(['[', '{']);
        let in_field = self.open.last().is_some_and(|parent| parent.key.is_some());
        let block_sequence = matches!(kind, Kind::Sequence(_)) && !bracketed && !self.in_flow();
        let start = if block_sequence && in_field { self.first_dash(start) } else { start };
        self.open.push(Open { start, head_end, flow: bracketed || self.in_flow(), bracketed, kind, key: None });
        Ok(())
    }

    /// Ends the innermost collection. For a block collection the parser only notices the end at the next token,
    /// behind comments and blank lines, so its last entry tells.
    fn finish(&mut self, closing: Mark) {
        let Some(open) = self.open.pop() else { return };
        let last = match &open.kind {
            Kind::Sequence(elements) => elements.last(),
            Kind::Mapping(fields) => fields.last().map(|(_, value)| value),
            Kind::Scalar(_) | Kind::Alias => None,
        };
        let behind_bracket = Mark { offset: closing.offset + 1, column: closing.column + 1, ..closing };
        let end = if open.bracketed { behind_bracket } else { last.map_or(open.head_end, |node| node.end) };
        self.add(Node { kind: open.kind, start: open.start, end, flow: open.flow });
    }

    fn scalar(&mut self, value: Cow<'_, str>, style: ScalarStyle, start: Mark, end: Mark) {
        let (start, end) = match style {
            ScalarStyle::Plain => (start, end),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => (start, self.closing_quote(start, end)),
            ScalarStyle::Literal | ScalarStyle::Folded => self.block_scalar(start, end),
        };
        let flow = self.in_flow();
        self.add(Node { kind: Kind::Scalar(value.into_owned()), start, end, flow });
    }

    fn add(&mut self, node: Node) {
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match (&mut parent.kind, parent.key.take()) {
            (Kind::Sequence(elements), _) => elements.push(node),
            (Kind::Mapping(fields), Some(key)) => fields.push((key, node)),
            _ => parent.key = Some(node),
        }
    }

    /// The `-` of a sequence's first element. Of a sequence that is not indented, the parser only tells where that
    /// element's content begins; the dash stands before it, on a line of its own or behind the key's.
    fn first_dash(&self, start: Mark) -> Mark {
        let between = self.slice(self.last_end, start);
        let mut position = 0;
        for (number, line) in between.split_inclusive('\n').enumerate() {
            let unindented = line.trim_start();
            if number > 0 && unindented.starts_with('-') {
                let dash = position + line.len() - unindented.len();
                return behind(self.last_end, between.get(..dash).unwrap_or_default());
            }
            position += line.len();
        }
        start
    }

    /// The place behind the closing quote: the parser counts the blanks and the comment behind it in.
    fn closing_quote(&self, start: Mark, end: Mark) -> Mark {
        let written = self.slice(start, end);
        let quoted = without_properties(written);
        let length = quoted_length(quoted).unwrap_or(quoted.len());
        let passed = written.len() - quoted.len() + length;
        behind(start, written.get(..passed).unwrap_or(written))
    }

    /// From the `|` or `>` to the last line that is not blank: the parser tells where the content begins and
    /// where the next token does.
    fn block_scalar(&self, start: Mark, end: Mark) -> (Mark, Mark) {
        let before = self.slice(self.last_end, start);
        let passed = before.find(['|', '>']).and_then(|position| before.get(..position));
        let header = passed.map_or(start, |passed| behind(self.last_end, passed));
        (header, behind(header, self.slice(header, end).trim_end()))
    }

    fn slice(&self, start: Mark, end: Mark) -> &'text str {
        self.text.get(start.offset..end.offset).unwrap_or_default()
    }
}

/// How many bytes a text that begins with a quote takes up to the one that closes it.
fn quoted_length(text: &str) -> Option<usize> {
    let mut characters = text.char_indices().peekable();
    let (_, quote) = characters.next()?;
    while let Some((position, character)) = characters.next() {
        match character {
            '\\' if quote == '"' => drop(characters.next()),
            '\'' if quote == '\'' && characters.next_if(|(_, next)| *next == '\'').is_some() => {}
            _ if character == quote => return Some(position + 1),
            _ => {}
        }
    }
    None
}

/// What is written without the anchor, the tag and the comments before it.
fn without_properties(mut written: &str) -> &str {
    while written.starts_with(['&', '!', '#']) {
        let comment = written.starts_with('#');
        let within = |character: char| if comment { character != '\n' } else { !character.is_whitespace() };
        written = written.trim_start_matches(within).trim_start();
    }
    written
}

/// Turns the parser's marks, which count characters, into ours, which count bytes.
struct Offsets<'text> {
    text: &'text str,
    /// The byte offset of every 64th character; empty where all characters are one byte long.
    every_64th: Vec<usize>,
}

impl<'text> Offsets<'text> {
    fn new(text: &'text str) -> Self {
        let starts = text.char_indices().step_by(64).map(|(offset, _)| offset);
        Self { text, every_64th: if text.is_ascii() { Vec::new() } else { starts.collect() } }
    }

    fn mark(&self, marker: Marker) -> Mark {
        Mark { offset: self.offset(marker.index()), line: marker.line(), column: marker.col() + 1 }
    }

    fn offset(&self, index: usize) -> usize {
        if self.every_64th.is_empty() {
            return index.min(self.text.len());
        }
        let Some(&near) = self.every_64th.get(index / 64) else { return self.text.len() };
        let rest = self.text.get(near..).unwrap_or_default();
        rest.char_indices().nth(index % 64).map_or(self.text.len(), |(offset, _)| near + offset)
    }
}

/// The mark behind `passed`, a text that begins at `from`.
fn behind(from: Mark, passed: &str) -> Mark {
    let offset = from.offset + passed.len();
    let Some((lines, last)) = passed.rsplit_once('\n') else {
        return Mark { offset, column: from.column + passed.chars().count(), ..from };
    };
    Mark { offset, line: from.line + lines.matches('\n').count() + 1, column: last.chars().count() + 1 }
}

fn fault_at(mark: Mark, message: &str) -> SyntaxError {
    SyntaxError { line: mark.line, column: mark.column, message: message.to_owned() }
}

/// The parser's error, with a plainer word for the tabs that it stumbles over somewhere near.
fn syntax_fault(text: &str, error: &ScanError) -> SyntaxError {
    let marker = error.marker();
    for (line, content) in text.lines().enumerate().skip(marker.line().saturating_sub(1)).take(2) {
        let indentation = content.chars().take_while(|character| character.is_whitespace());
        if let Some(tabbed) = indentation.into_iter().position(|character| character == '\t') {
            let message = "a tab in the indentation; YAML allows only spaces there".to_owned();
            return SyntaxError { line: line + 1, column: tabbed + 1, message };
        }
    }
    let message = format!("no valid YAML: {}", error.info());
    SyntaxError { line: marker.line(), column: marker.col() + 1, message }
}

#[cfg(test)]
mod tests;
