//! Edits of what is written in block style: a field or an element has lines of its own.

use serde_yaml::Value;

use super::{Page, Splice, Splices, neighbour};
use crate::{
    keyfile::{EditError, KEYS, render},
    yaml::Node,
};

impl Page<'_> {
    /// A new field on its own line, behind the one that it belongs behind.
    pub(super) fn insert_line(&self, mapping: &Node, name: &str, value: &Value) -> Splice {
        // A mapping in block style has a field at least.
        let Some((key, last)) = neighbour(mapping, name) else { return Splice::insert(mapping.end.offset, "") };
        let field = render::field(&name.into(), value, self.are_quoted(key, last));
        let indentation = indentation(key.start.column - 1);
        Splice::insert(self.line_end(self.end_of(key, last)), format!("{}{indentation}{field}", self.line_break))
    }

    pub(super) fn remove_lines_of_field(&self, fields: &[(Node, Node)], place: usize) -> Result<Splice, EditError> {
        let Some((key, value)) = fields.get(place) else { return Ok(Splice::insert(0, "")) };
        let (start, end) = (key.start.offset, self.end_of(key, value));
        let line = self.line_start(start);
        if self.is_blank(line..start) {
            return Ok(Splice::remove(line..self.next_line(end)));
        }
        // It stands behind the dash of its element, where the next field takes its place.
        let Some((next, _)) = fields.get(place + 1) else {
            return Err(EditError::by_hand(key.start, "the only field"));
        };
        if self.is_blank(self.next_line(end)..next.start.offset) {
            return Ok(Splice::remove(start..next.start.offset));
        }
        let behind_dash = line + self.slice(line..start).trim_end().len();
        Ok(Splice::remove(behind_dash..self.line_end(end)))
    }

    pub(super) fn remove_lines_of_element(&self, list: &Node, place: usize) -> Splice {
        let end = list.elements().get(place).map_or(list.end.offset, |element| element.end.offset);
        let dash = self.dash(list, place);
        Splice::remove(self.line_start(dash)..self.next_line(end.max(dash)))
    }

    pub(super) fn replace_block_list(&self, old: &Node, elements: &[Value], quoted: bool) -> Splice {
        let line_break = format!("{}{}", self.line_break, indentation(old.start.column - 1));
        let lines: Vec<_> = elements.iter().map(|element| format!("- {}", render::flow(element, quoted))).collect();
        Splice { range: old.start.offset..old.end.offset, text: lines.join(&line_break) }
    }

    /// A further element behind the last, on one line.
    pub(super) fn append_element(&self, list: &Node, element: &Value) -> Splice {
        let first = list.elements().first().and_then(|element| element.fields().first());
        let quoted = first.is_some_and(|(key, _)| self.is_quoted(key));
        if list.flow {
            return self.append_in_flow(list, &render::flow(element, quoted));
        }
        let line = format!("{}- {}", indentation(list.start.column - 1), render::flow(element, quoted));
        Splice::insert(self.line_end(list.end.offset), format!("{}{line}", self.line_break))
    }

    /// A further entry of a list of the file behind the last, set apart and indented like it.
    pub(super) fn append_entry(&self, entries: &Node, entry: &Value) -> Splice {
        let Some(last) = entries.elements().last().filter(|_| !entries.flow) else {
            return self.append_element(entries, entry);
        };
        let place = entries.elements().len() - 1;
        let dash = self.dash(entries, place);
        let apart = if self.is_set_apart(entries, place) { self.line_break } else { "" };
        let inner = self.slice(dash..last.start.offset);
        let inner = if inner.contains('\n') || last.flow { 2 } else { inner.len().max(2) };
        let quoted = last.fields().first().is_some_and(|(key, _)| self.is_quoted(key));
        let item = self.item(entry, entries.start.column - 1, inner, quoted);
        Splice::insert(self.line_end(entries.end.offset), format!("{apart}{}{item}", self.line_break))
    }

    /// The file's first entry, behind the comments of a file that holds nothing else.
    pub(super) fn first_entry(&self, list: &str, entry: &Value) -> Splice {
        let no_keys = if list == KEYS { String::new() } else { format!("{KEYS}: []{}", self.line_break) };
        let item = self.item(entry, 2, 2, false);
        self.at_the_end(&format!("{no_keys}{list}:{}{item}", self.line_break))
    }

    /// A list that the file does not have yet, behind everything else.
    pub(super) fn new_list(&self, root: &Node, list: &str, entry: &Value) -> Splice {
        let Some((first, _)) = root.fields().first().filter(|_| !root.flow) else {
            return self.insert_in_flow(root, list, &vec![entry.clone()].into());
        };
        let before = self.slice(self.line_start(first.start.offset)..first.start.offset).trim_start_matches('\u{feff}');
        let quoted = self.is_quoted(first);
        let item = self.item(entry, before.len() + 2, 2, quoted);
        self.at_the_end(&format!("{before}{}:{}{item}", render::flow(&list.into(), quoted), self.line_break))
    }

    fn at_the_end(&self, lines: &str) -> Splice {
        let line_break = if self.text.is_empty() || self.text.ends_with('\n') { "" } else { self.line_break };
        Splice::insert(self.text.len(), format!("{line_break}{lines}{}", self.line_break))
    }

    /// Puts the first entry into a list that is empty or was left out.
    pub(super) fn fill(&self, name: &Node, list: &Node, entry: &Value) -> Splices {
        if list.flow && name.flow {
            return Ok(vec![self.replace(name, list, &vec![entry.clone()].into())?]);
        }
        let (colon, end) = (self.behind_colon(name)?, self.end_of(name, list));
        let item = self.item(entry, name.start.column + 1, 2, self.is_quoted(name));
        let item = Splice::insert(self.line_end(end), format!("{}{item}", self.line_break));
        Ok(vec![Splice::remove(colon..end), item])
    }

    /// An entry as an element of a block list: a dash and `inner - 1` blanks, then a line for each field.
    fn item(&self, entry: &Value, outer: usize, inner: usize, quoted: bool) -> String {
        let fields = entry.as_mapping().into_iter().flatten();
        let lines: Vec<_> = fields.map(|(name, value)| render::field(name, value, quoted)).collect();
        let line_break = format!("{}{}", self.line_break, indentation(outer + inner));
        format!("{}-{}{}", indentation(outer), indentation(inner - 1), lines.join(&line_break))
    }

    /// Where the dash of an element stands.
    fn dash(&self, list: &Node, place: usize) -> usize {
        let Some(previous) = place.checked_sub(1).and_then(|previous| list.elements().get(previous)) else {
            return list.start.offset;
        };
        let mut line = self.next_line(previous.end.offset);
        while line < self.text.len() {
            let content = self.slice(line..self.next_line(line));
            if content.trim_start().starts_with('-') {
                return line + content.len() - content.trim_start().len();
            }
            line = self.next_line(line);
        }
        list.end.offset
    }

    /// Whether a blank line stands before an element, or before the comments above it.
    fn is_set_apart(&self, list: &Node, place: usize) -> bool {
        let previous = place.checked_sub(1).and_then(|previous| list.elements().get(previous));
        previous.is_some_and(|previous| {
            let between = self.next_line(previous.end.offset)..self.line_start(self.dash(list, place));
            self.slice(between).lines().any(|line| line.trim().is_empty())
        })
    }
}

fn indentation(columns: usize) -> String {
    " ".repeat(columns)
}
