//! What is written into a request's body on our own account: that its stream is to state its usage, and how long its answer
//! may be. Upstreams differ in what of that they take, and say so by refusing the request with a 400 or 422, which may as
//! well be about what the client wrote. So it is sent again with one thing changed at a time; an answer then proves what the
//! refusal was about.

use keymeter_core::{
    api::Endpoint,
    body::{Change, MaximumName, OpenMaximum, Scanned},
    clock::MonotonicTime,
    key::KeyId,
};

use super::{Model, Route};

/// Whose request it is, for which model, and when: what the memory of a route is asked by.
#[derive(Clone, Copy)]
pub(super) struct Asking<'request> {
    pub key: &'request KeyId,
    /// What is configured of the model.
    pub model: &'request Model,
    /// The model as the client named it.
    pub named: &'request str,
    pub now: MonotonicTime,
}

/// What of our additions can be put otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    include_usage: bool,
    name: MaximumName,
}

/// What is known of a field for the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Most upstreams take it, or the client named it.
    Nothing,
    /// The upstream took it before.
    Taken,
    /// The upstream took it where it refused the other.
    Learned,
}

/// What is added to a request, and what its upstream refused of it.
#[derive(Debug)]
pub(super) struct Additions {
    maximum: Option<u64>,
    /// What all choices together may have at most, where that was set.
    most_output: Option<u64>,
    form: Form,
    /// Whether the upstream may be asked without asking for usage.
    may_leave_usage: bool,
    /// Whether the maximum may stand in the other field.
    may_rename: bool,
    /// What is known of the field in which it stands.
    known: Known,
    /// The forms that were refused, in their order. The first is what was sent first.
    refused: Vec<Form>,
}

/// Whether the upstream of `route` is to be asked for the stream's usage on our own account.
pub(super) fn asks_for_usage(route: &Route, endpoint: Endpoint, scanned: &Scanned, asking: Asking<'_>) -> bool {
    let may = scanned.stream && !scanned.client_wants_usage && endpoint.injects_usage();
    may && route.injects_usage(asking)
}

impl Additions {
    /// What is to be added to the request that was `scanned`: usage is asked for if `include_usage`, and its maximum set.
    pub fn new(
        route: &Route,
        asking: Asking<'_>,
        scanned: &Scanned,
        include_usage: bool,
        maximum: Option<u64>,
    ) -> Self {
        let open = maximum.and_then(|_| scanned.open_maximum());
        let takes_other = open.is_some() && route.takes_completion_tokens(asking);
        let name = match open {
            _ if takes_other => MaximumName::MaxCompletionTokens,
            Some(OpenMaximum::Named(name)) => name,
            Some(OpenMaximum::Any) | None => MaximumName::MaxTokens,
        };
        let known = match name {
            _ if takes_other => Known::Learned,
            MaximumName::MaxTokens if open.is_some() && route.has_taken_max_tokens(asking) => Known::Taken,
            _ => Known::Nothing,
        };
        Self {
            maximum,
            most_output: maximum.map(|maximum| maximum.saturating_mul(scanned.choices.max(1))),
            form: Form { include_usage, name },
            may_leave_usage: include_usage && route.may_retry_without_usage(),
            may_rename: open.is_some(),
            known,
            refused: Vec::new(),
        }
    }

    /// What is to be changed in the request's body before it goes upstream.
    pub fn change(&self) -> Change {
        let Form { include_usage, name } = self.form;
        Change { include_usage, maximum: self.maximum, name, ..Change::default() }
    }

    /// Whether a refusal with `status` may be about what was added: then `change` says how the request is sent again.
    pub fn try_otherwise(&mut self, status: u16) -> bool {
        let next = if matches!(status, 400 | 422) { self.next() } else { None };
        let Some(next) = next else { return false };
        self.refused.push(std::mem::replace(&mut self.form, next));
        true
    }

    /// The form to try after the ones that were refused. One thing changes from each to the next, so that a success tells what
    /// was at fault, and every combination of both is tried. A field that is known to be taken comes last again: then what the
    /// client is told is what is wrong with the request, and not that the other field is.
    fn next(&self) -> Option<Form> {
        let first = self.refused.first().copied().unwrap_or(self.form);
        let plain = Form { include_usage: false, ..first };
        let renamed = Form { name: first.name.other(), ..first };
        let plain_and_renamed = Form { name: renamed.name, ..plain };
        let order: &[Form] = match (self.may_leave_usage, self.may_rename) {
            (false, false) => &[],
            (true, false) => &[plain],
            (false, true) if self.known == Known::Nothing => &[renamed],
            (false, true) => &[renamed, first],
            (true, true) if self.known == Known::Learned => &[plain, plain_and_renamed, plain],
            (true, true) => &[renamed, plain_and_renamed, plain],
        };
        order.get(self.refused.len()).copied()
    }

    /// The upstream took the request: what that proves is remembered.
    pub fn taken(&self, route: &Route, asking: Asking<'_>) {
        let Form { include_usage, name } = self.form;
        let was_refused = |form: Form| self.refused.contains(&form) && !self.refused.contains(&self.form);
        if self.may_leave_usage && include_usage {
            route.usage_was_taken(asking);
        } else if self.may_leave_usage && was_refused(Form { include_usage: true, name }) {
            route.usage_was_refused(asking);
        }
        if self.may_rename && name == MaximumName::MaxTokens {
            route.max_tokens_were_taken(asking);
        } else if self.may_rename && was_refused(Form { include_usage, name: name.other() }) {
            route.max_tokens_were_refused(asking);
        }
    }

    /// The upstream stated so many tokens of output. Where that is more than `max_completion_tokens` allowed, it passes over
    /// that field, as older servers do.
    pub fn used(&self, output: u64, route: &Route, asking: Asking<'_>) {
        let is_over = self.most_output.is_some_and(|most| output > most);
        if self.may_rename && self.form.name == MaximumName::MaxCompletionTokens && is_over {
            route.completion_tokens_were_passed_over(asking);
        }
    }
}
