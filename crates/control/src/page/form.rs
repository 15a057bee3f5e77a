//! Fields of forms, each with its label, a hint and its error.

use maud::{Markup, html};

use super::{layout::sentence, request::FormFields};
use crate::error::ApiError;

/// A form that may have been sent before, and refused.
pub struct Form<'form> {
    /// What was filled in.
    pub fields: &'form FormFields,
    /// What was wrong.
    pub error: Option<&'form ApiError>,
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

impl Form<'_> {
    /// What is wrong, above the form, with the way to the field.
    pub fn alert(&self) -> Markup {
        html! {
            @if let Some(error) = self.error {
                div.alert role="alert" {
                    p {
                        @match whole_field(error) {
                            Some(field) => { a href=(format!("#{}", id(field))) { (sentence(error.message())) } }
                            None => { (sentence(error.message())) }
                        }
                    }
                }
            }
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
                    aria-describedby=[described(field, error)] aria-invalid=[error.map(|_| "true")];
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
                    { (self.fields.text(field.name)) }
            },
        )
    }

    /// One of several.
    pub fn choice(&self, field: FormField<'_>, choices: &[(&str, &str)]) -> Markup {
        let error = self.fault_of(field.name);
        around(
            field,
            error,
            &html! {
                select id=(id(field.name)) name=(field.name)
                    aria-describedby=[described(field, error)] aria-invalid=[error.map(|_| "true")] {
                    @for (value, words) in choices {
                        option value=(value) selected[self.fields.text(field.name) == *value] { (words) }
                    }
                }
            },
        )
    }

    fn fault_of(&self, name: &str) -> Option<&str> {
        self.error.filter(|error| whole_field(error) == Some(name)).map(ApiError::message)
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
            @if let Some(error) = error { p.fault id=(format!("{}-fault", id(field.name))) { (sentence(error)) } }
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
