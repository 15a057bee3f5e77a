//! Random files, written in another way than the code under test does.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_yaml::Value;

use super::{AllSaid, LIMITS, Said, fields, value};

/// A key as it is written, or a team.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) fields: Vec<(&'static str, Value)>,
    style: Style,
    blank_above: bool,
    comments: Vec<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Style {
    flow: bool,
    block_lists: bool,
    quote: &'static str,
}

/// A line, and the entry and the field that it belongs to; a comment between fields belongs to the entry alone.
pub(super) type Line = (String, Option<(usize, Option<&'static str>)>);

/// The number of the first team among the entries.
pub(super) const TEAMS: usize = 50;
/// The number that the lines `keys:` and `teams:` have.
pub(super) const HEADS: [usize; 2] = [99, 98];

fn item() -> impl Strategy<Value = Item> {
    let style = (any::<bool>(), any::<bool>(), select(vec!["", "'", "\""]));
    let style = style.prop_map(|(flow, block_lists, quote)| Style { flow, block_lists, quote });
    (fields(), style, any::<bool>(), vec(any::<bool>(), 20)).prop_map(|(fields, style, blank_above, comments)| Item {
        fields,
        style,
        blank_above,
        comments,
    })
}

/// A file: its keys, its teams and whether they come first, how all are indented, its line break, whether the last line has one.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    items: Vec<Item>,
    teams: Vec<Item>,
    teams_first: bool,
    indentation: usize,
    pub(super) line_break: &'static str,
    ends: bool,
}

pub(super) fn sample() -> impl Strategy<Value = Sample> {
    let shape = (0..5_usize, 0..3_usize, select(vec!["\n", "\r\n"]), any::<bool>(), any::<bool>());
    (vec(item(), 0..4), vec(team(), 0..3), shape).prop_map(
        |(mut items, mut teams, (indentation, id_at, line_break, ends, teams_first))| {
            let named = items.iter_mut().zip(0..).map(|(item, number)| (item, format!("key_{number}")));
            let named = named.chain(teams.iter_mut().zip(0..).map(|(item, number)| (item, team_id(number))));
            for (item, id) in named {
                item.fields.insert(id_at.min(item.fields.len()), ("id", id.into()));
            }
            Sample { items, teams, teams_first, indentation, line_break, ends }
        },
    )
}

/// What a team is called, one of them so that it looks like a variable.
pub(super) fn team_id(number: usize) -> String {
    ["team", "$${a}", "two words", "new"][number].to_owned()
}

fn team() -> impl Strategy<Value = Item> {
    let limits = value("limits").prop_filter("a team that is listed has limits", |limits| {
        limits.as_mapping().is_some_and(|limits| !limits.is_empty())
    });
    (item(), limits).prop_map(|(item, mut limits)| {
        limits.as_mapping_mut().unwrap().shift_remove("mode");
        limits.as_mapping_mut().unwrap().shift_remove("models");
        if limits.as_mapping().unwrap().is_empty() {
            limits["tokens_per_minute"] = 5.into();
        }
        Item { fields: vec![("limits", limits)], ..item }
    })
}

impl Sample {
    pub(super) fn lines(&self) -> Vec<Line> {
        let keys = self.list("keys", HEADS[0], 0, &self.items);
        let teams = if self.teams.is_empty() { Vec::new() } else { self.list("teams", HEADS[1], TEAMS, &self.teams) };
        let both = if self.teams_first { [teams, keys] } else { [keys, teams] };
        let mut lines = vec![("# all of them".to_owned(), None)];
        lines.extend(both.into_iter().flatten());
        lines.push(("# the end: é".to_owned(), None));
        lines
    }

    fn list(&self, name: &str, head: usize, first: usize, items: &[Item]) -> Vec<Line> {
        let empty = if items.is_empty() { " []" } else { "" };
        let mut lines = vec![(format!("{name}:{empty}  # list"), Some((head, None)))];
        for (number, item) in items.iter().enumerate() {
            if item.blank_above {
                lines.push((String::new(), None));
            }
            lines.push((format!("{}# above {number}", " ".repeat(self.indentation)), None));
            lines.extend(item.lines(first + number, self.indentation));
        }
        lines
    }

    pub(super) fn text(&self) -> String {
        let lines: Vec<String> = self.lines().into_iter().map(|(line, _)| line).collect();
        lines.join(self.line_break) + if self.ends { self.line_break } else { "" }
    }

    pub(super) fn said(&self) -> AllSaid {
        let of = |items: &[Item]| items.iter().map(|item| said(&item.fields)).collect();
        AllSaid { keys: of(&self.items), teams: of(&self.teams) }
    }
}

pub(super) fn said(fields: &[(&'static str, Value)]) -> Said {
    let mut said = Said::new();
    for (name, value) in fields {
        match (*name, value) {
            ("limits", Value::Mapping(limits)) => {
                let named = |(name, known)| limits.get(name).map(|limit: &Value| (known, limit.clone()));
                said.extend(LIMITS.into_iter().filter_map(named));
            }
            ("retiring", Value::Sequence(list)) if list.is_empty() => {}
            _ => drop(said.insert(name, value.clone())),
        }
    }
    said
}

impl Item {
    fn lines(&self, number: usize, indentation: usize) -> Vec<Line> {
        let outer = " ".repeat(indentation);
        if self.style.flow {
            let fields: Vec<_> = self.fields.iter().map(|(name, value)| self.inline(name, value)).collect();
            return vec![(format!("{outer}- {{{}}} # in a line", fields.join(", ")), Some((number, Some(""))))];
        }
        let mut lines = Vec::new();
        for (place, (name, value)) in self.fields.iter().enumerate() {
            let dash = if place == 0 { "- " } else { "  " };
            if place > 0 && self.comments[place] {
                lines.push((format!("{outer}  # about {name} of {number}"), Some((number, None))));
            }
            let owner = Some((number, Some(*name)));
            let mut written = self.block(name, value).into_iter();
            lines.extend(written.next().map(|line| (format!("{outer}{dash}{line}"), owner)));
            lines.extend(written.map(|line| (format!("{outer}  {line}"), owner)));
        }
        lines
    }

    fn quoted(&self, name: &str) -> String {
        format!("{0}{name}{0}", self.style.quote)
    }

    /// `name: value`, written in another way than the code under test does.
    fn inline(&self, name: &str, value: &Value) -> String {
        format!("{}: {}", self.quoted(name), serde_json::to_string(value).unwrap())
    }

    /// A field of a mapping that has lines of its own, quotas and limits of models a line each.
    fn inner(&self, name: &Value, value: &Value, comment: &str) -> Vec<String> {
        let (name, json) = (self.quoted(name.as_str().unwrap()), |value: &Value| serde_json::to_string(value).unwrap());
        let lines: Vec<_> = match value {
            Value::Sequence(list) => list.iter().map(|element| format!("  - {}{comment}", json(element))).collect(),
            Value::Mapping(fields) => fields
                .iter()
                .flat_map(|(name, value)| self.inner(name, value, comment))
                .map(|line| format!("  {line}"))
                .collect(),
            _ => return vec![format!("  {name}: {}{comment}", json(value))],
        };
        std::iter::once(format!("  {name}:{comment}")).chain(lines).collect()
    }

    fn block(&self, name: &str, value: &Value) -> Vec<String> {
        let comment = if self.comments[10 + name.len() % 9] { "  # beside" } else { "" };
        let json = |value: &Value| serde_json::to_string(value).unwrap();
        let entries: Vec<String> = match value {
            Value::Sequence(list) => list.iter().map(|element| format!("- {}{comment}", json(element))).collect(),
            Value::Mapping(fields) => {
                fields.iter().flat_map(|(name, value)| self.inner(name, value, comment)).collect()
            }
            _ => Vec::new(),
        };
        if entries.is_empty() || !self.style.block_lists {
            return vec![format!("{}{comment}", self.inline(name, value))];
        }
        std::iter::once(format!("{}:{comment}", self.quoted(name))).chain(entries).collect()
    }
}
