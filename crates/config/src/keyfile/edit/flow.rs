//! Edits of what is written in flow style, between brackets or braces.

use std::ops::Range;

use serde_yaml::Value;

use super::{Page, Splice, neighbour};
use crate::{keyfile::render, yaml::Node};

impl Page<'_> {
    /// A new field behind the one that it belongs behind. The mapping has one at least.
    pub(super) fn insert_in_flow(&self, mapping: &Node, name: &str, value: &Value) -> Splice {
        let Some((key, last)) = neighbour(mapping, name) else { return Splice::insert(mapping.end.offset, "") };
        let field = render::field(&name.into(), value, self.are_quoted(key, last));
        Splice::insert(self.end_of(key, last), format!(", {field}"))
    }

    /// A further element behind the last, on a line of its own where the last one has that.
    pub(super) fn append_in_flow(&self, sequence: &Node, element: &str) -> Splice {
        let Some(last) = sequence.elements().last() else { return Splice::insert(sequence.end.offset, "") };
        let (start, end) = (last.start.offset, last.end.offset);
        let rest = self.slice(end..self.line_end(end)).trim();
        let before = self.slice(self.line_start(start)..start);
        if before.trim().is_empty() && matches!(rest, "" | ",") {
            return Splice::insert(end, format!(",{}{before}{element}", self.line_break));
        }
        Splice::insert(end, format!(", {element}"))
    }

    /// Takes one of the entries away that stand at `spans`, with the comma that it leaves over.
    pub(super) fn remove_from_flow(&self, spans: &[Range<usize>], place: usize) -> Splice {
        let Some(own) = spans.get(place).cloned() else { return Splice::insert(0, "") };
        if let Some(comma) = self.comma_behind(own.end) {
            let rest = self.slice(comma + 1..self.text.len());
            let blanks = rest.len() - rest.trim_start_matches(' ').len();
            return self.remove_with_line(own.start..comma + 1 + blanks);
        }
        let previous = place.checked_sub(1).and_then(|previous| spans.get(previous));
        match previous {
            Some(previous) if !self.slice(previous.end..own.start).contains('\n') => {
                Splice::remove(previous.end..own.end)
            }
            _ => self.remove_with_line(own),
        }
    }

    /// Takes the line away too where nothing else stands on it.
    fn remove_with_line(&self, range: Range<usize>) -> Splice {
        let line = self.line_start(range.start)..self.line_end(range.end);
        let alone = self.is_blank(line.start..range.start) && self.is_blank(range.end..line.end);
        Splice::remove(if alone { line.start..self.next_line(range.end) } else { range })
    }

    /// The comma behind an entry, over blanks, line breaks and comments.
    fn comma_behind(&self, end: usize) -> Option<usize> {
        let mut offset = end;
        loop {
            let rest = self.slice(offset..self.text.len());
            let blanks = rest.len() - rest.trim_start().len();
            match rest.trim_start().chars().next()? {
                ',' => return Some(offset + blanks),
                '#' => offset = self.next_line(offset + blanks),
                _ => return None,
            }
        }
    }
}
