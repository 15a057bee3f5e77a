//! The items of a response: which of their members are text of the model's, and how much of it was delivered before.

/// What a member of an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    Nothing,
    Type,
    Name,
    Content,
    Summary,
    Search,
    Text,
}

impl Member {
    /// The member `key` of an item of such a type, which may not be told yet: then what tools find is no text. Of types that
    /// nobody knows, all is text but what goes with every item.
    pub(super) fn new(item: &[u8], key: &[u8]) -> Self {
        match key {
            b"type" => Self::Type,
            b"name" => Self::Name,
            b"content" => Self::Content,
            b"summary" => Self::Summary,
            b"action" if item == b"web_search_call" => Self::Search,
            b"arguments" | b"input" | b"code" | b"action" | b"actions" | b"operation" | b"queries" => Self::Text,
            b"output" | b"outputs" | b"results" | b"tools" if item.is_empty() => Self::Nothing,
            _ if is_known(item) || goes_with_every_item(key) => Self::Nothing,
            _ => Self::Text,
        }
    }
}

/// Whether an item is of a type whose other members are not written by the model: they say what a tool found.
fn is_known(item: &[u8]) -> bool {
    let known: [&[u8]; 10] = [
        b"message",
        b"reasoning",
        b"function_call",
        b"custom_tool_call",
        b"mcp_call",
        b"mcp_list_tools",
        b"code_interpreter_call",
        b"web_search_call",
        b"file_search_call",
        b"computer_call",
    ];
    known.contains(&item) || item.ends_with(b"_output")
}

/// Names of items, what became of them, and media.
fn goes_with_every_item(key: &[u8]) -> bool {
    let known: [&[u8]; 14] = [
        b"id",
        b"object",
        b"status",
        b"role",
        b"phase",
        b"call_id",
        b"response_id",
        b"approval_request_id",
        b"server_label",
        b"execution",
        b"created_by",
        b"error",
        b"encrypted_content",
        b"result",
    ];
    known.contains(&key)
}

/// How much of a stream's text is said again. An item that is complete has all of its text in it, whatever of that came
/// piece by piece while it was open; and so has the response at its end.
#[derive(Default)]
pub(super) struct Repeated {
    /// The items that were begun and not completed.
    open: u64,
    /// The bytes that had been delivered when all items were complete last.
    before_open: u64,
    /// What is still to be passed over of the text that is being read.
    left: u64,
}

impl Repeated {
    /// One item is read, after so many bytes of text.
    pub(super) fn begin_one(&mut self, delivered: u64) {
        self.left = delivered.saturating_sub(self.before_open);
    }

    /// All items are read, after so many bytes of text.
    pub(super) fn begin_all(&mut self, delivered: u64) {
        self.left = delivered;
    }

    /// What is new of the next piece of their text.
    pub(super) fn rest<'a>(&mut self, piece: &'a [u8]) -> Option<&'a [u8]> {
        let old = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
        self.left -= old as u64;
        piece.get(old..).filter(|new| !new.is_empty())
    }

    /// The item that was read is only begun.
    pub(super) fn begin_item(&mut self) {
        self.open += 1;
    }

    /// The item that was read is complete, and so many bytes of text were delivered.
    pub(super) fn end_item(&mut self, delivered: u64) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.before_open = delivered;
        }
    }
}
