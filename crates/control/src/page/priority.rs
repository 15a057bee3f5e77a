//! The field of a form in which the operator sets a key's priority.

use keymeter_core::key::{KeyError, Priority};
use maud::Markup;

use super::{
    form::{Form, FormField},
    request::FormFields,
};
use crate::error::ApiError;

/// Its name, in forms as in calls.
pub const PRIORITY: &str = "priority";

/// The field.
pub fn line(form: &Form<'_>) -> Markup {
    form.line(FormField {
        name: PRIORITY,
        label: "Priority",
        hint: "From -100 to 100: of requests that wait for a server, those of a lower number go first. Empty: 0.",
        ..FormField::default()
    })
}

/// What is in the field; `None`: nothing.
///
/// # Errors
/// When it is no priority.
pub fn asked(fields: &FormFields) -> Result<Option<Priority>, ApiError> {
    let priority = fields.given(PRIORITY).map(str::parse);
    priority.transpose().map_err(|error: KeyError| ApiError::invalid(PRIORITY, error.to_string()))
}
