//! The fields of a key, in the form that makes one and in the one that changes it.

use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    form::{Form, FormField},
    limits::{self, AS_FOR_ALL_KEYS},
    model_limits::{self, MODEL_LIMITS},
    priority::{self, PRIORITY},
    request::{FormFields, SignedIn},
};
use crate::{
    api::keys::{CreateKey, UpdateKey},
    caller::Caller,
    error::ApiError,
    store::{
        keys::Key,
        limits::{KeyLimits, Mode},
    },
};

const NAME: &str = "name";
const MODELS: &str = "models";
const MODE: &str = "limits.mode";
const ENFORCE: &str = "enforce";
const OBSERVE: &str = "observe";
const NETWORKS: &str = "allow_from";
const EXPIRY: &str = "expires_at";

/// The field of a name.
pub fn name_line(form: &Form<'_>) -> Markup {
    form.line(FormField { is_required: true, ..field(NAME, "Name", "3 to 50 characters.") })
}

/// The other fields; of a key that there is, the operator sets the mode too.
pub fn lines(form: &Form<'_>, signed: &SignedIn, is_there: bool) -> Markup {
    let is_operator = signed.caller.must_be_operator().is_ok();
    let modes = [("", "as for all keys"), (ENFORCE, "refuse"), (OBSERVE, "count, and refuse none")];
    html! {
        (form.lines(field(MODELS, "Models", "One on a line, names or patterns such as llama-3*. None: all models.")))
        (limits::lines(form, AS_FOR_ALL_KEYS))
        (model_limits::lines(form))
        @if is_there && is_operator { (form.choice(field(MODE, "Over its limits", ""), &modes)) }
        (form.lines(field(
            NETWORKS,
            "Networks",
            "One on a line, such as 10.0.0.0/8, from which it may be used. None: from everywhere.",
        )))
        @if is_operator { (priority::line(form)) }
        (form.line(FormField {
            kind: Some("datetime-local"), ..field(EXPIRY, "Expires, in UTC", "None: never.")
        }))
    }
}

fn field<'field>(name: &'field str, label: &'field str, hint: &'field str) -> FormField<'field> {
    FormField { name, label, hint, ..FormField::default() }
}

/// What a form asks for that makes a key, but for whose it is to be.
///
/// # Errors
/// When a field is not as it should be.
pub fn create(fields: &FormFields) -> Result<CreateKey, ApiError> {
    Ok(CreateKey {
        name: fields.text(NAME).to_owned(),
        team: None,
        owner: None,
        models: fields.list(MODELS),
        limits: asked_limits(fields, KeyLimits::default())?,
        allow_from: fields.list(NETWORKS),
        priority: priority::asked(fields)?,
        expires_at: fields.given(EXPIRY).map(expiry).transpose()?,
        hash: None,
    })
}

/// The fields as they are filled in for a key as it is.
pub fn filled(key: &Key) -> FormFields {
    let mode = match key.limits.mode {
        None => "",
        Some(Mode::Enforce) => ENFORCE,
        Some(Mode::Observe) => OBSERVE,
    };
    let lines = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.join("\n")).unwrap_or_default();
    FormFields::from(limits::filled(&key.limits.shared())).and([
        (NAME, key.name.clone()),
        (MODELS, lines(&key.models)),
        (PRIORITY, key.priority.to_string()),
        (MODE, mode.to_owned()),
        (MODEL_LIMITS, model_limits::filled(&key.limits.models)),
        (NETWORKS, lines(&key.allow_from)),
        (EXPIRY, key.expires_at.map(local).unwrap_or_default()),
    ])
}

/// What a form asks for that changes a key. What is filled in as the key is stays as it is, whatever a form cannot say of it.
///
/// # Errors
/// When a field is not as it should be.
pub fn update(caller: &Caller, fields: &FormFields, key: &Key) -> Result<UpdateKey, ApiError> {
    let filled = filled(key);
    let is_other = |name: &str| fields.text(name).replace("\r\n", "\n") != filled.text(name);
    let mode = match (caller.user(), fields.text(MODE)) {
        (Some(_), _) => key.limits.mode,
        (None, "") => None,
        (None, ENFORCE) => Some(Mode::Enforce),
        (None, OBSERVE) => Some(Mode::Observe),
        (None, _) => return Err(ApiError::invalid(MODE, "either `enforce` or `observe`, or nothing")),
    };
    let limits = asked_limits(fields, key.limits.clone())?;
    // A user's form has no such field.
    let has_priority = caller.user().is_none() || fields.has(PRIORITY);
    Ok(UpdateKey {
        name: is_other(NAME).then(|| fields.text(NAME).to_owned()),
        enabled: None,
        models: is_other(MODELS).then(|| fields.list(MODELS)),
        limits: Some(KeyLimits { mode, ..limits }),
        allow_from: is_other(NETWORKS).then(|| fields.list(NETWORKS)),
        priority: if has_priority { Some(priority::asked(fields)?) } else { None },
        expires_at: match fields.given(EXPIRY) {
            _ if !is_other(EXPIRY) => None,
            given => Some(given.map(expiry).transpose()?),
        },
    })
}

/// The limits that a form asks for, of a key that `is` limited so.
fn asked_limits(fields: &FormFields, is: KeyLimits) -> Result<KeyLimits, ApiError> {
    let (shared, models) = (limits::asked(fields, &is.shared())?, model_limits::asked(fields, &is.models)?);
    Ok(KeyLimits { models, ..is.with(shared) })
}

/// A time as a browser's field has it, to the second.
fn local(time: Timestamp) -> String {
    time.to_string().chars().take(19).collect()
}

/// A browser sends `2026-12-01T10:00`, with seconds where there are some.
fn expiry(text: &str) -> Result<Timestamp, ApiError> {
    let written = if text.matches(':').count() == 1 { format!("{text}:00Z") } else { format!("{text}Z") };
    written.parse().map_err(|_| ApiError::invalid(EXPIRY, "a date and a time of UTC, such as 2026-12-01T10:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browsers_time_is_one_of_utc() {
        let at = expiry("2026-12-01T10:00").unwrap();
        assert_eq!((at.to_string().as_str(), local(at).as_str()), ("2026-12-01T10:00:00Z", "2026-12-01T10:00:00"));
        assert_eq!(expiry(&local(at)).unwrap(), at);
        assert!(expiry("tomorrow").is_err());
    }
}
