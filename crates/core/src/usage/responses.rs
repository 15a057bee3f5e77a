//! How `OpenAI`'s responses state usage: in the response, or in the one that the stream's last event carries.
//!
//! Source: the API reference (`Response.usage`, the streaming events). Events are told apart by their `type`, which is
//! in each; an `event:` line may be missing. A response that failed states nothing.

use super::delivered::Kind;
use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Field, Stated, Statement};
use super::word::Word;

/// What was read of a response.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<Event>,
    stated: Stated,
}

/// What is known of one event, or of the item of an answer that is being read.
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    kind: Word<48>,
    item: Word<32>,
    /// The item that it is about has a name: a tool's.
    has_name: bool,
}

const ITEM_ADDED: &[u8] = b"response.output_item.added";

impl Event {
    /// Whether a tool is called.
    fn is_call(&self) -> bool {
        self.has_name && self.kind.bytes() == ITEM_ADDED
    }

    /// What the text of such an event is; none where it repeats what came before, or is no text.
    fn text(&self) -> Option<Kind> {
        let kind = self.kind.bytes();
        let is_reasoning = kind.starts_with(b"response.reasoning");
        let is_new = kind == ITEM_ADDED || kind.ends_with(b".delta");
        (is_new && kind != b"response.audio.delta").then_some(if is_reasoning { Kind::Reasoning } else { Kind::Answer })
    }

    fn item_content(&self) -> Kind {
        if self.item.bytes() == b"reasoning" { Kind::Reasoning } else { Kind::Answer }
    }
}

impl Reader {
    /// The type of an event may stand before or after its text.
    fn deliver(&mut self, piece: &[u8]) {
        let Record { event, delivered, .. } = &mut self.record;
        if !event.kind.bytes().is_empty() {
            if let Some(kind) = event.text() {
                self.record.deliver(0, kind, piece);
            }
        } else if !delivered.wait(Kind::Answer, piece) {
            delivered.settle_as(Some(Kind::Answer));
            self.record.deliver(0, Kind::Answer, piece);
        }
    }
}

impl Dialect for Reader {
    type Event = Event;

    fn record(&self) -> &Record<Event> {
        &self.record
    }

    fn record_mut(&mut self) -> &mut Record<Event> {
        &mut self.record
    }

    fn stated(&self) -> Statement {
        self.stated.of_answer(self.record.delivered.any())
    }

    fn is_last(&self) -> bool {
        let last = ["completed", "incomplete", "failed", "cancelled", "done"];
        let kind = self.record.event.kind.bytes();
        let ends = |event: &[u8]| last.iter().any(|last| last.as_bytes() == event);
        kind.strip_prefix(b"response.").is_some_and(ends) || kind == b"error"
    }
}

/// What a value is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Nothing,
    Root,
    Type,
    Error,
    Usage(Field),
    /// What an event adds.
    Added,
    AddedItem,
    AddedName,
    Response,
    Output,
    Item,
    ItemType,
    ItemName,
    Content,
    Part,
    Summary,
    SummaryPart,
    Text,
    ContentText,
    SummaryText,
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        match (object, key) {
            (Role::Root, b"type") => Role::Type,
            (Role::Root, b"delta") => Role::Added,
            (Role::AddedItem, b"name") => Role::AddedName,
            (Role::Root, b"item") => Role::AddedItem,
            (Role::Root, b"response") => Role::Response,
            (Role::Root | Role::Response, b"usage") => Role::Usage(Field::Usage),
            (Role::Root | Role::Response, b"error") => Role::Error,
            (Role::Usage(field), key) => field.of_responses(key).map_or(Role::Nothing, Role::Usage),
            (Role::Root, b"output") => Role::Output,
            (Role::Item, b"type") => Role::ItemType,
            (Role::Item, b"content") => Role::Content,
            (Role::Item, b"summary") => Role::Summary,
            (Role::Item, b"name") => Role::ItemName,
            (Role::Item, b"arguments" | b"input" | b"code") => Role::Text,
            (Role::Part, b"text" | b"refusal") => Role::ContentText,
            (Role::SummaryPart, b"text") => Role::SummaryText,
            _ => Role::Nothing,
        }
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Output => Role::Item,
            Role::Content => Role::Part,
            Role::Summary => Role::SummaryPart,
            _ => Role::Nothing,
        }
    }

    fn begin(&mut self, role: Role, first: u8, at: usize) {
        match role {
            Role::Usage(Field::Usage) => self.stated.begin(),
            Role::Error => self.record.note_error(first),
            Role::Item => self.record.event.item.clear(),
            _ if first == b'"' => self.record.begin_text(at),
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        match role {
            Role::Type => self.record.event.kind.push(piece),
            Role::ItemType => self.record.event.item.push(piece),
            Role::Added => self.deliver(piece),
            Role::AddedName => {
                self.record.event.has_name = true;
                self.deliver(piece);
            }
            Role::ItemName => {
                self.record.note_call();
                self.record.deliver(0, Kind::Answer, piece);
            }
            Role::Text => self.record.deliver(0, Kind::Answer, piece),
            Role::ContentText => self.record.deliver(0, self.record.event.item_content(), piece),
            Role::SummaryText => self.record.deliver(0, Kind::Reasoning, piece),
            _ => {}
        }
    }

    fn number(&mut self, role: Role, value: u64) {
        if let Role::Usage(field) = role {
            self.stated.number(field, value);
        }
    }

    fn end(&mut self, role: Role) {
        match role {
            Role::Usage(Field::Usage) => {
                self.stated.end();
            }
            Role::Root => {
                let Record { event, delivered, failed, .. } = &mut self.record;
                delivered.settle_as(event.text());
                if event.is_call() {
                    delivered.add_call();
                }
                *failed |= matches!(event.kind.bytes(), b"error" | b"response.failed");
            }
            _ => {}
        }
    }
}
