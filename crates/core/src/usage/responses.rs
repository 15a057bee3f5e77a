//! How `OpenAI`'s responses state usage: in the response, or in the one that the stream's last event carries.
//!
//! Source: the API reference (`Response.usage`, the streaming events). Events are told apart by their `type`, which is
//! in each; an `event:` line may be missing. A response that failed states nothing. Of an item's text most comes piece by
//! piece, and is repeated when the item is complete; some (a shell's command, a search for tools) comes only then.

mod items;

use super::delivered::Kind;
use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Field, Stated, Statement};
use super::word::Word;
use items::{Member, Repeated};

/// What was read of a response.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<Event>,
    stated: Stated,
    repeated: Repeated,
    /// The response's, by which a later request goes on from it.
    id: Word<96>,
    has_id: bool,
}

/// What is known of one event, or of the item of an answer that is being read.
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    kind: Word<64>,
    /// The object itself, which says what it is as errors of vLLM do.
    object: Word<8>,
    item: Word<32>,
    /// The event is about one item, which has a name: a tool's.
    is_of_item: bool,
    has_name: bool,
}

const ITEM_ADDED: &[u8] = b"response.output_item.added";
const ITEM_DONE: &[u8] = b"response.output_item.done";
/// How the events begin that add to what tools are called with.
const WRITTEN: [&[u8]; 4] =
    [b"response.function_call", b"response.custom_tool_call", b"response.mcp_call", b"response.code_interpreter_call"];

impl Event {
    /// Whether a tool is called.
    fn is_call(&self) -> bool {
        self.has_name && self.kind.bytes() == ITEM_ADDED
    }

    /// What the text of such an event is; none where it repeats what came before, or is no text.
    fn text(&self) -> Option<Kind> {
        let kind = self.kind.bytes();
        if kind == ITEM_ADDED {
            return Some(Kind::Call);
        }
        let of = |kinds: &[&[u8]]| kinds.iter().any(|start| kind.starts_with(start));
        let is_sound = kind == b"response.audio.delta" || kind == b"response.output_audio.delta";
        match kind.ends_with(b".delta") && !is_sound {
            false => None,
            true if of(&[b"response.reasoning"]) => Some(Kind::Reasoning),
            true if of(&WRITTEN) => Some(Kind::Call),
            true => Some(Kind::Answer),
        }
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

    /// The text of an item. What was delivered of it before is not counted again.
    fn item_text(&mut self, kind: Kind, piece: &[u8]) {
        if self.record.event.kind.bytes() == ITEM_ADDED {
            return;
        }
        if let Some(new) = self.repeated.rest(piece) {
            self.record.deliver(0, kind, new);
        }
    }

    fn item_name(&mut self, piece: &[u8]) {
        let Event { kind, is_of_item, .. } = &mut self.record.event;
        if *is_of_item && kind.bytes() != ITEM_DONE {
            self.record.event.has_name = true;
            self.repeated.rest(piece);
            self.deliver(piece);
        } else if let Some(new) = self.repeated.rest(piece) {
            self.record.note_call();
            self.record.deliver(0, Kind::Call, new);
        }
    }

    fn end_event(&mut self) {
        let Record { event, delivered, failed, .. } = &mut self.record;
        delivered.settle_as(event.text());
        if event.is_call() {
            delivered.add_call();
        }
        match event.kind.bytes() {
            ITEM_ADDED => self.repeated.begin_item(),
            ITEM_DONE => self.repeated.end_item(delivered.bytes()),
            b"error" | b"response.failed" => *failed = true,
            _ => {}
        }
        *failed |= event.object.bytes() == b"error";
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

    fn answer_id(&self) -> Option<&str> {
        str::from_utf8(self.id.bytes()).ok().filter(|id| !id.is_empty())
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
    /// What stands in a list in place of an answer.
    Listed,
    Type,
    Object,
    Id,
    Error,
    Usage(Field),
    /// What an event adds.
    Added,
    Response,
    Output,
    /// An item of an event's own, and one of a response.
    AddedItem,
    Item,
    ItemType,
    ItemName,
    ItemText,
    /// What was searched for: what was found is in it too.
    Search,
    Content,
    Part,
    Summary,
    SummaryPart,
    SummaryText,
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        match (object, key) {
            (Role::Root, b"type") => Role::Type,
            (Role::Root, b"object") => Role::Object,
            (Role::Root | Role::Response, b"id") if !self.has_id => Role::Id,
            (Role::Root, b"delta") => Role::Added,
            (Role::Root, b"item") => Role::AddedItem,
            (Role::Root, b"response") => Role::Response,
            (Role::Root | Role::Response, b"usage") => Role::Usage(Field::Usage),
            (Role::Root | Role::Listed | Role::Response, b"error") | (Role::Root, b"errors") | (Role::Error, _) => {
                Role::Error
            }
            (Role::Root | Role::Response, b"output") => Role::Output,
            (Role::Usage(field), key) => field.member(key).map_or(Role::Nothing, Role::Usage),
            (Role::Item | Role::AddedItem, key) => match Member::new(self.record.event.item.bytes(), key) {
                Member::Type => Role::ItemType,
                Member::Name => Role::ItemName,
                Member::Content => Role::Content,
                Member::Summary => Role::Summary,
                Member::Search => Role::Search,
                Member::Text => Role::ItemText,
                Member::Nothing => Role::Nothing,
            },
            (Role::Search, b"query" | b"queries" | b"url" | b"pattern") => Role::ItemText,
            (Role::Part, b"text" | b"refusal" | b"transcript") => Role::Content,
            (Role::SummaryPart, b"text") => Role::SummaryText,
            _ => Role::Nothing,
        }
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Root => Role::Listed,
            Role::Error => Role::Error,
            Role::Output => Role::Item,
            Role::Content => Role::Part,
            Role::Summary => Role::SummaryPart,
            _ => Role::Nothing,
        }
    }

    fn is_written(&self, role: Role) -> bool {
        role == Role::ItemText
    }

    fn is_number(&self, role: Role) -> bool {
        matches!(role, Role::Usage(field) if field.is_number())
    }

    fn begin(&mut self, role: Role, first: u8, at: usize) {
        match role {
            Role::Usage(Field::Usage) => self.stated.begin(),
            Role::Error => drop(self.record.note_error(first)),
            Role::Output => self.repeated.begin_all(self.record.delivered.bytes()),
            Role::Item => self.record.event.item.clear(),
            Role::AddedItem => {
                self.record.event.is_of_item = true;
                self.repeated.begin_one(self.record.delivered.bytes());
            }
            _ if first == b'"' => self.record.begin_text(at),
            Role::ItemText if matches!(first, b'{' | b'[') => self.record.begin_written(),
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        match role {
            Role::Error => self.record.note_error_text(piece),
            Role::Type => self.record.event.kind.push(piece),
            Role::Object => self.record.event.object.push(piece),
            Role::Id => {
                self.has_id = true;
                self.id.push(piece);
            }
            Role::ItemType => self.record.event.item.push(piece),
            Role::Added => self.deliver(piece),
            Role::ItemName => self.item_name(piece),
            Role::ItemText => self.item_text(Kind::Call, piece),
            Role::Content => self.item_text(self.record.event.item_content(), piece),
            Role::SummaryText => self.item_text(Kind::Reasoning, piece),
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
                self.record.note_usage(self.is_last());
            }
            Role::Root => self.end_event(),
            _ => {}
        }
    }
}
