//! A step as splices of the text. Everything is found by the places of the YAML nodes, never by searching the text
//! for names.

mod block;
mod flow;

use std::ops::Range;

use serde_yaml::{Mapping, Value};

use super::{EditError, Entry, KEYS, PathStep, render};
use crate::yaml::{Kind, Marks, Node};

/// `text` after `step`.
///
/// # Errors
/// Where what is to be changed is not written plainly.
pub(super) fn edit(text: &str, marks: &Marks, step: &PathStep<'_>) -> Result<String, EditError> {
    let page = Page { text, line_break: if line_break_is_crlf(text) { "\r\n" } else { "\n" } };
    page.after(page.splices(marks, step)?)
}

fn line_break_is_crlf(text: &str) -> bool {
    text.find('\n').and_then(|position| text.get(..position)).is_some_and(|line| line.ends_with('\r'))
}

/// What is put in the place of a range of the text.
struct Splice {
    range: Range<usize>,
    text: String,
}

impl Splice {
    fn insert(at: usize, text: impl Into<String>) -> Self {
        Self { range: at..at, text: text.into() }
    }

    fn remove(range: Range<usize>) -> Self {
        Self { range, text: String::new() }
    }
}

type Splices = Result<Vec<Splice>, EditError>;

/// The text that is edited.
struct Page<'text> {
    text: &'text str,
    line_break: &'static str,
}

impl Page<'_> {
    fn after(&self, mut splices: Vec<Splice>) -> Result<String, EditError> {
        splices.sort_by_key(|splice| std::cmp::Reverse(splice.range.start));
        splices.into_iter().try_fold(self.text.to_owned(), |text, splice| {
            let before = text.get(..splice.range.start).ok_or(EditError::Entangled)?;
            let behind = text.get(splice.range.end..).ok_or(EditError::Entangled)?;
            Ok([before, &splice.text, behind].concat())
        })
    }

    fn splices(&self, marks: &Marks, step: &PathStep<'_>) -> Splices {
        let entry = |entry: &Entry| self.entry(marks, *entry);
        match step {
            PathStep::Create { list, entry } => self.create(marks, list, entry),
            PathStep::Append { list, entries } => self.append(marks, list, entries),
            PathStep::Set { entry: of, path, value } => self.set(entry(of)?, path, value),
            PathStep::Clear { entry: of, path } => self.clear(entry(of)?, path),
            PathStep::Push { entry: of, path, element } => self.push(entry(of)?, path, element),
            PathStep::Replace { entry: of, path, element, value } => {
                self.replace_element(entry(of)?, path, *element, value)
            }
            PathStep::Drop { entry: of, path, element } => self.drop_element(entry(of)?, path, *element),
            PathStep::Delete(entry) => self.delete(marks, *entry),
        }
    }

    /// The entry at that place of its list, if it is written in a way that can be edited.
    fn entry<'marks>(&self, marks: &'marks Marks, Entry { list, place }: Entry) -> Result<&'marks Node, EditError> {
        let (_, list) = self::list(marks, list).ok_or(EditError::NoKeys)?;
        let entry = list.elements().get(place).ok_or_else(|| EditError::by_hand(list.start, ALIAS))?;
        self.plain(entry).map(|()| entry)
    }

    /// Refuses what stands for something elsewhere, or is stood for.
    fn plain(&self, node: &Node) -> Result<(), EditError> {
        let written = self.slice(node.start.offset..node.end.offset);
        if node.kind == Kind::Alias || written.starts_with(['&', '!']) {
            return Err(EditError::by_hand(node.start, ALIAS));
        }
        node.elements().iter().try_for_each(|element| self.plain(element))?;
        node.fields().iter().try_for_each(|(name, value)| match name.as_scalar() {
            Some("<<") => Err(EditError::by_hand(name.start, "a merged mapping")),
            _ => self.plain(name).and_then(|()| self.plain(value)),
        })
    }

    fn create(&self, marks: &Marks, name: &str, entry: &Value) -> Splices {
        let Some(root) = root(marks) else { return Ok(vec![self.first_entry(name, entry)]) };
        if list(marks, KEYS).is_none() {
            return Err(EditError::NoKeys);
        }
        match list(marks, name) {
            None => Ok(vec![self.new_list(root, name, entry)]),
            Some((_, list)) if !list.elements().is_empty() => Ok(vec![self.append_entry(list, entry)]),
            Some((name, list)) if self.is_nothing(list) => self.fill(name, list, entry),
            Some((_, list)) => Err(EditError::by_hand(list.start, NO_LIST)),
        }
    }

    fn append(&self, marks: &Marks, name: &str, entries: &[Value]) -> Splices {
        let (_, list) = list(marks, name).ok_or(EditError::NoKeys)?;
        // All of them go to the same place.
        let splices = entries.iter().map(|entry| self.append_entry(list, entry));
        let together = |before: Splice, next: Splice| Splice { text: before.text + &next.text, ..before };
        Ok(splices.reduce(together).into_iter().collect())
    }

    fn delete(&self, marks: &Marks, Entry { list, place }: Entry) -> Splices {
        let (name, list) = self::list(marks, list).ok_or(EditError::NoKeys)?;
        let mut splices = vec![self.remove_element(list, place)];
        if !list.flow && list.elements().len() == 1 {
            splices.push(Splice::insert(self.behind_colon(name)?, " []"));
        }
        Ok(splices)
    }

    /// Puts `value` at the end of `path`.
    fn set(&self, mapping: &Node, path: &[&str], value: &Value) -> Splices {
        let Some((name, rest)) = path.split_first() else { return Ok(Vec::new()) };
        match mapping.field(name).filter(|_| !rest.is_empty()) {
            Some(inner) if !inner.fields().is_empty() => self.set(inner, rest, value),
            Some(inner) if !self.is_nothing(inner) => Err(EditError::by_hand(inner.start, "no mapping")),
            _ => self.write(mapping, name, &nested(rest, value)),
        }
    }

    /// Writes the value of one field, where it stands or on a line of its own.
    fn write(&self, mapping: &Node, name: &str, value: &Value) -> Splices {
        let splice = match mapping.fields().iter().find(|(key, _)| key.as_scalar() == Some(name)) {
            Some((key, old)) => self.replace(key, old, value)?,
            None if mapping.flow => self.insert_in_flow(mapping, name, value),
            None => self.insert_line(mapping, name, value),
        };
        Ok(vec![splice])
    }

    fn clear(&self, mapping: &Node, path: &[&str]) -> Splices {
        let Some((name, rest)) = path.split_first() else { return Ok(Vec::new()) };
        match mapping.field(name).filter(|_| !rest.is_empty()) {
            Some(inner) if inner.fields().len() > 1 => self.clear(inner, rest),
            _ => self.remove_field(mapping, name).map(|splice| vec![splice]),
        }
    }

    fn push(&self, mapping: &Node, path: &[&str], element: &Value) -> Splices {
        match at(mapping, path) {
            Some(list) if !list.elements().is_empty() => Ok(vec![self.append_element(list, element)]),
            Some(list) if !self.is_nothing(list) => Err(EditError::by_hand(list.start, NO_LIST)),
            _ => self.set(mapping, path, &vec![element.clone()].into()),
        }
    }

    /// Puts a mapping on one line in the place of another in a list.
    fn replace_element(&self, mapping: &Node, path: &[&str], element: usize, value: &Value) -> Splices {
        let old = at(mapping, path).and_then(|list| list.elements().get(element));
        let old = old.ok_or_else(|| EditError::by_hand(mapping.start, NO_LIST))?;
        let last = old.fields().last().filter(|_| !old.flow);
        let end = last.map_or(old.end.offset, |(key, value)| self.end_of(key, value));
        let quoted = old.fields().first().is_some_and(|(key, _)| self.is_quoted(key));
        Ok(vec![Splice { range: old.start.offset..end, text: render::flow(value, quoted) }])
    }

    fn drop_element(&self, mapping: &Node, path: &[&str], element: usize) -> Splices {
        match at(mapping, path) {
            Some(list) if list.elements().len() > 1 => Ok(vec![self.remove_element(list, element)]),
            _ => self.clear(mapping, path),
        }
    }

    fn remove_field(&self, mapping: &Node, name: &str) -> Result<Splice, EditError> {
        let fields = mapping.fields();
        let place = fields.iter().position(|(key, _)| key.as_scalar() == Some(name));
        let place = place.ok_or_else(|| EditError::by_hand(mapping.start, "no such field"))?;
        if !mapping.flow {
            return self.remove_lines_of_field(fields, place);
        }
        let spans: Vec<_> = fields.iter().map(|(key, value)| key.start.offset..self.end_of(key, value)).collect();
        Ok(self.remove_from_flow(&spans, place))
    }

    fn remove_element(&self, list: &Node, place: usize) -> Splice {
        if !list.flow {
            return self.remove_lines_of_element(list, place);
        }
        let spans: Vec<_> = list.elements().iter().map(|node| node.start.offset..node.end.offset).collect();
        self.remove_from_flow(&spans, place)
    }

    /// Puts a value in the place of another, in the style of the old one where both are lists.
    fn replace(&self, key: &Node, old: &Node, value: &Value) -> Result<Splice, EditError> {
        let quoted = self.are_quoted(key, old);
        match value.as_sequence() {
            Some(elements) if !old.flow && !old.elements().is_empty() && !elements.is_empty() => {
                Ok(self.replace_block_list(old, elements, quoted))
            }
            _ if (old.flow || old.as_scalar().is_some()) && !self.is_blank(old.start.offset..old.end.offset) => {
                Ok(Splice { range: old.start.offset..old.end.offset, text: render::flow(value, quoted) })
            }
            _ => {
                let behind_colon = self.behind_colon(key)?;
                let range = behind_colon..old.end.offset.max(behind_colon);
                let range = if old.as_scalar().is_some() { behind_colon..behind_colon } else { range };
                Ok(Splice { range, text: format!(" {}", render::flow(value, quoted)) })
            }
        }
    }

    /// The place behind a field, one without a value included.
    fn end_of(&self, key: &Node, value: &Node) -> usize {
        if self.is_blank(value.start.offset..value.end.offset) {
            return self.behind_colon(key).unwrap_or(key.end.offset);
        }
        value.end.offset
    }

    fn behind_colon(&self, key: &Node) -> Result<usize, EditError> {
        let rest = self.slice(key.end.offset..self.text.len());
        let blanks = rest.len() - rest.trim_start().len();
        let found = rest.trim_start().starts_with(':');
        found.then_some(key.end.offset + blanks + 1).ok_or_else(|| EditError::by_hand(key.start, "a field without `:`"))
    }

    /// Whether there is no value, or an empty one.
    fn is_nothing(&self, node: &Node) -> bool {
        let written = self.slice(node.start.offset..node.end.offset).trim();
        match &node.kind {
            Kind::Scalar(_) => matches!(written, "" | "~" | "null" | "Null" | "NULL"),
            Kind::Sequence(elements) => elements.is_empty(),
            Kind::Mapping(fields) => fields.is_empty(),
            Kind::Alias => false,
        }
    }

    /// Whether names and texts are written as in JSON, to judge by a field. A pattern of models has to be in quotes anywhere, so
    /// that what is within tells.
    fn are_quoted(&self, key: &Node, value: &Node) -> bool {
        match key.as_scalar() {
            Some(name) if render::is_plain_word(name) => self.is_quoted(key),
            _ => value.fields().first().is_some_and(|(key, value)| self.are_quoted(key, value)),
        }
    }

    /// Whether names and texts are written as in JSON, to judge by one name.
    fn is_quoted(&self, key: &Node) -> bool {
        self.slice(key.start.offset..key.end.offset).starts_with('"')
    }

    fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }

    fn is_blank(&self, range: Range<usize>) -> bool {
        self.slice(range).trim().is_empty()
    }

    fn line_start(&self, offset: usize) -> usize {
        self.slice(0..offset).rfind('\n').map_or(0, |position| position + 1)
    }

    /// Before the break that ends the line, or the end of the text.
    fn line_end(&self, offset: usize) -> usize {
        let line = self.slice(offset..self.next_line(offset));
        offset + line.trim_end_matches(['\r', '\n']).len()
    }

    fn next_line(&self, offset: usize) -> usize {
        self.slice(offset..self.text.len()).find('\n').map_or(self.text.len(), |position| offset + position + 1)
    }
}

const ALIAS: &str = "an anchor, an alias or a tag";
const NO_LIST: &str = "something that is no list";

/// What the file holds, if it holds anything.
fn root(marks: &Marks) -> Option<&Node> {
    marks.root().filter(|root| root.as_scalar() != Some(""))
}

/// The field of that name and its value.
fn list<'marks>(marks: &'marks Marks, name: &str) -> Option<(&'marks Node, &'marks Node)> {
    let fields = root(marks)?.fields().iter();
    fields.map(|(key, value)| (key, value)).find(|(key, _)| key.as_scalar() == Some(name))
}

/// The value at the end of `path`.
fn at<'node>(mapping: &'node Node, path: &[&str]) -> Option<&'node Node> {
    path.iter().try_fold(mapping, |node, name| node.field(name))
}

/// `value` in mappings of one field each.
fn nested(path: &[&str], value: &Value) -> Value {
    let wrap = |value, name: &&str| Mapping::from_iter([(Value::from(*name), value)]).into();
    path.iter().rev().fold(value.clone(), wrap)
}

/// The order in which the fields of a key are written.
const ORDER: &[&str] = &[
    "id",
    "name",
    "hash",
    "secret",
    "enabled",
    "owner",
    "team",
    "models",
    "allow_from",
    "limits",
    "priority",
    "expires_at",
    "retiring",
];

/// The order in which limits are written.
const ORDER_OF_LIMITS: &[&str] =
    &["requests_per_minute", "tokens_per_minute", "concurrent_requests", "mode", "quotas", "models"];

/// The field behind which a new one is written: the last that comes before it by rights, else the last of all.
fn neighbour<'node>(mapping: &'node Node, name: &str) -> Option<&'node (Node, Node)> {
    let order = if mapping.field("id").is_some() { ORDER } else { ORDER_OF_LIMITS };
    let rank = |name: &str| order.iter().position(|known| *known == name);
    let before = |(key, _): &&(Node, Node)| key.as_scalar().is_some_and(|key| rank(key) < rank(name));
    mapping.fields().iter().rev().find(before).or(mapping.fields().last())
}
