//! Fields of forms, each with its label, a hint and its error. An error is told once: at its field, which then has the focus,
//! or above the form where there is no such field.

use std::sync::atomic::{AtomicBool, Ordering};

use maud::{Markup, html};

use super::{layout::sentence, request::FormFields};
use crate::error::ApiError;

/// A form that may have been sent before, and refused.
pub struct Form<'form> {
    /// What was filled in.
    pub fields: &'form FormFields,
    /// What was wrong.
    pub error: Option<&'form ApiError>,
    /// Whether a field has said so.
    is_told: AtomicBool,
}

/// What can be chosen, in groups.
pub struct Choices {
    /// Said first, and without a group: a value and words for it.
    pub first: Vec<(String, String)>,
    /// A group's name, and what is in it.
    pub groups: Vec<(&'static str, Vec<Choice>)>,
    /// Whether there is nothing else. If there is, it can be typed.
    pub is_whole: bool,
}

/// One of what can be chosen.
pub struct Choice {
    /// As the form sends it.
    pub value: String,
    /// As people read it.
    pub words: String,
    /// Whether it cannot be chosen at the moment.
    pub is_disabled: bool,
}

/// What a field is beside its name.
#[derive(Clone, Copy, Default)]
pub struct FormField<'field> {
    /// By which programs know it.
    pub name: &'field str,
    /// By which people do.
    pub label: &'field str,
    /// What may be in it.
    pub hint: &'field str,
    /// `text`, if nothing is said.
    pub kind: Option<&'field str>,
    /// Which keys a telephone shows.
    pub keys: Option<&'field str>,
    /// Whether it must be filled in.
    pub is_required: bool,
}

impl<'form> Form<'form> {
    /// A form that is shown for the first time, or after it was refused.
    pub fn new(fields: &'form FormFields, error: Option<&'form ApiError>) -> Self {
        Self { fields, error, is_told: AtomicBool::new(false) }
    }

    /// What the form is on, and above it what is wrong, unless one of its fields says so.
    pub fn around(&self, body: impl FnOnce() -> Markup) -> Markup {
        let body = body();
        let error = self.error.filter(|_| !self.is_told.load(Ordering::Relaxed));
        html! {
            @if let Some(error) = error { div.alert role="alert" { p { (sentence(error.message())) } } }
            (body)
        }
    }

    /// A field of one line.
    pub fn line(&self, field: FormField<'_>) -> Markup {
        let error = self.fault_of(field.name);
        let kind = field.kind.unwrap_or("text");
        // What is secret is not sent back.
        let value = if kind == "password" { "" } else { self.fields.text(field.name) };
        let complete = if kind == "password" { "current-password" } else { "off" };
        around(
            field,
            error,
            &html! {
                input id=(id(field.name)) name=(field.name) type=(kind) value=(value) autocomplete=(complete)
                    spellcheck="false" autocapitalize="none" inputmode=[field.keys] required[field.is_required]
                    aria-describedby=[described(field, error)] aria-invalid=[error.map(|_| "true")]
                    autofocus[error.is_some()];
            },
        )
    }

    /// A field of several lines.
    pub fn lines(&self, field: FormField<'_>) -> Markup {
        let error = self.fault_of(field.name);
        around(
            field,
            error,
            &html! {
                textarea id=(id(field.name)) name=(field.name) rows="3" spellcheck="false" autocapitalize="none"
                    aria-describedby=[described(field, error)] aria-invalid=[error.map(|_| "true")]
                    autofocus[error.is_some()] { (self.fields.text(field.name)) }
            },
        )
    }

    /// One of several.
    pub fn choice(&self, field: FormField<'_>, choices: &[(&str, &str)]) -> Markup {
        let first = choices.iter().map(|(value, words)| ((*value).to_owned(), (*words).to_owned())).collect();
        self.choices(field, &Choices { first, groups: Vec::new(), is_whole: true })
    }

    /// One of many: from a list, or typed where the list is too long to show.
    pub fn choices(&self, field: FormField<'_>, choices: &Choices) -> Markup {
        let error = self.fault_of(field.name);
        let (id, chosen) = (id(field.name), self.fields.text(field.name));
        let invalid = error.map(|_| "true");
        let list = format!("{id}-list");
        let placeholder = choices.first.iter().find(|(value, _)| value.is_empty()).map(|(_, words)| words);
        around(
            field,
            error,
            &html! {
                @if choices.is_whole {
                    select id=(id) name=(field.name) required[field.is_required] autofocus[error.is_some()]
                        aria-describedby=[described(field, error)] aria-invalid=[invalid] {
                        @for (value, words) in &choices.first {
                            option value=(value) selected[chosen == value] { (words) }
                        }
                        @for (name, group) in choices.groups.iter().filter(|(_, group)| !group.is_empty()) {
                            optgroup label=(name) { @for choice in group { (option(choice, chosen)) } }
                        }
                    }
                } @else {
                    input id=(id) name=(field.name) value=(chosen) list=(list) placeholder=[placeholder] autocomplete="off" spellcheck="false"
                        autocapitalize="none" required[field.is_required] autofocus[error.is_some()]
                        aria-describedby=[described(field, error)] aria-invalid=[invalid];
                    datalist id=(list) {
                        @for (value, words) in choices.first.iter().filter(|(value, _)| !value.is_empty()) {
                            option value=(value) { (words) }
                        }
                        @for choice in choices.groups.iter().flat_map(|(_, group)| group) { (option(choice, "")) }
                    }
                }
            },
        )
    }

    fn fault_of(&self, name: &str) -> Option<&str> {
        let message = self.error.filter(|error| whole_field(error) == Some(name)).map(ApiError::message);
        self.is_told.fetch_or(message.is_some(), Ordering::Relaxed);
        message
    }
}

/// What was chosen before stays chosen, so that a form that is sent again says no less than before.
fn option(choice: &Choice, chosen: &str) -> Markup {
    html! {
        option value=(choice.value) selected[chosen == choice.value] disabled[choice.is_disabled && chosen != choice.value]
            { (choice.words) }
    }
}

/// The field that is wrong: of a list, all of it.
fn whole_field(error: &ApiError) -> Option<&str> {
    error.field().and_then(|field| field.split('[').next())
}

fn around(field: FormField<'_>, error: Option<&str>, input: &Markup) -> Markup {
    html! {
        div.field {
            label for=(id(field.name)) {
                (field.label) @if !field.is_required { span.optional { " (optional)" } }
            }
            @if !field.hint.is_empty() { p.hint id=(format!("{}-hint", id(field.name))) { (field.hint) } }
            @if let Some(error) = error { p.fault role="alert" id=(format!("{}-fault", id(field.name))) { (sentence(error)) } }
            (input)
        }
    }
}

fn described(field: FormField<'_>, error: Option<&str>) -> Option<String> {
    let id = id(field.name);
    match (field.hint.is_empty(), error) {
        (true, None) => None,
        (false, None) => Some(format!("{id}-hint")),
        (true, Some(_)) => Some(format!("{id}-fault")),
        (false, Some(_)) => Some(format!("{id}-fault {id}-hint")),
    }
}

fn id(name: &str) -> String {
    format!("field-{}", name.replace('.', "-"))
}
