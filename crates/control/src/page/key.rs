//! One key: its details, its usage, and the actions on it.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::json;

use super::{
    chart::{self, Chart},
    form::{Form, FormField},
    keys::{holder, state, used},
    layout,
    limits::{self, Holder, LIMITS},
    pager::ListPosition,
    priority::{self, PRIORITY},
    request::{FormFields, PageError, SignedIn, SubmittedForm},
    words::{cost, number, time},
};
use crate::{
    Plane,
    api::{
        body::Body,
        keys::{self, UpdateKey},
        usage::{ask, visible_to},
    },
    caller::Caller,
    error::ApiError,
    store::{
        keys::Key,
        limits::{KeyLimits, Mode},
        usage::{Group, UsageFilter, UsageRow},
    },
};

/// `GET /keys/{id}`.
pub async fn show(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Query(begin): Query<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let Json(key) = keys::show(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
    let done = match begin.done.as_deref() {
        Some("enabled") => Some("The key is enabled."),
        Some("disabled") => Some("The key is disabled."),
        Some(PRIORITY) => Some("The priority is set."),
        Some(LIMITS) => Some("The limits are set."),
        _ => None,
    };
    let fields = filled(&key);
    page(&plane, &signed, &key, done, &Form { fields: &fields, error: None }).await
}

/// `POST /keys/{id}/enabled`.
pub async fn set_enabled(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let (enabled, done) = match fields.text("enabled") {
        "true" => (true, "enabled"),
        "false" => (false, "disabled"),
        _ => return Err(ApiError::invalid("enabled", "either `true` or `false`").into()),
    };
    let asked = UpdateKey { enabled: Some(enabled), ..UpdateKey::default() };
    let Json(key) = keys::update(State(plane), signed.caller, Path(id), Body(asked)).await?;
    Ok(Redirect::to(&format!("/keys/{}?done={done}", key.id)).into_response())
}

/// `POST /keys/{id}/priority`: the operator's to send.
pub async fn set_priority(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    signed.caller.must_be_operator()?;
    let set = match priority::asked(&fields) {
        Ok(asked) => {
            let asked = UpdateKey { priority: Some(asked), ..UpdateKey::default() };
            keys::update(State(plane.clone()), signed.caller.clone(), Path(id.clone()), Body(asked)).await
        }
        Err(refusal) => Err(refusal),
    };
    match set {
        Ok(_) => Ok(Redirect::to(&format!("/keys/{id}?done={PRIORITY}")).into_response()),
        Err(refusal) => {
            let Json(key) = keys::show(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
            let fields = fields.or(filled(&key));
            page(&plane, &signed, &key, None, &Form { fields: &fields, error: Some(&refusal) }).await
        }
    }
}

/// `POST /keys/{id}/limits`.
pub async fn set_limits(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let Json(key) = keys::show(State(plane.clone()), signed.caller.clone(), Path(id.clone())).await?;
    let set = match asked(&signed.caller, &fields, &key) {
        Ok(asked) => keys::update(State(plane.clone()), signed.caller.clone(), Path(id.clone()), Body(asked)).await,
        Err(refusal) => Err(refusal),
    };
    match set {
        Ok(_) => Ok(Redirect::to(&format!("/keys/{id}?done={LIMITS}")).into_response()),
        Err(refusal) if refusal.field().is_none() => Err(refusal.into()),
        Err(refusal) => {
            let fields = fields.or(filled(&key));
            page(&plane, &signed, &key, None, &Form { fields: &fields, error: Some(&refusal) }).await
        }
    }
}

/// The fields of the forms as they were filled in for the key as it is.
fn filled(key: &Key) -> FormFields {
    let mode = match key.limits.mode {
        None => "",
        Some(Mode::Enforce) => ENFORCE,
        Some(Mode::Observe) => OBSERVE,
    };
    let networks = key.allow_from.as_ref().map(|networks| networks.join("\n")).unwrap_or_default();
    FormFields::from(limits::filled(&key.limits.shared())).and([
        (PRIORITY, key.priority.to_string()),
        (MODE, mode.to_owned()),
        (NETWORKS, networks),
    ])
}

/// What the form of limits asks for: the rest of the limits stays as it is.
fn asked(caller: &Caller, fields: &FormFields, key: &Key) -> Result<UpdateKey, ApiError> {
    let limits = key.limits.clone().with(limits::asked(fields, &key.limits.shared())?);
    let mode = match (caller.user(), fields.text(MODE)) {
        (Some(_), _) => key.limits.mode,
        (None, "") => None,
        (None, ENFORCE) => Some(Mode::Enforce),
        (None, OBSERVE) => Some(Mode::Observe),
        (None, _) => return Err(ApiError::invalid(MODE, "either `enforce` or `observe`, or nothing")),
    };
    Ok(UpdateKey {
        limits: Some(KeyLimits { mode, ..limits }),
        allow_from: Some(fields.list(NETWORKS)),
        ..UpdateKey::default()
    })
}

const MODE: &str = "limits.mode";
const ENFORCE: &str = "enforce";
const OBSERVE: &str = "observe";
const NETWORKS: &str = "allow_from";

/// The page of a key, with what was done or refused.
async fn page(
    plane: &Arc<Plane>,
    signed: &SignedIn,
    key: &Key,
    done: Option<&str>,
    form: &Form<'_>,
) -> Result<Response, PageError> {
    let now = Timestamp::now();
    let days = usage(plane, &signed.caller, key, Group::Day, now).await?;
    let models = usage(plane, &signed.caller, key, Group::Model, now).await?;
    let last_used_at = plane.store.last_used(&key.id).await?;
    let whose = Holder::Key(&key.id);
    let spent = limits::spent(plane, signed, whose, &key.limits.shared(), now).await;
    let is_there = key.deleted_at.is_none();
    let main = html! {
        p.crumb { a href="/" { "Keys" } }
        div.head { h1 { (key.name) } (state(key)) }
        (layout::notice(done))
        (form.alert())
        (facts(key, last_used_at))
        (limits::bars(&spent))
        @if is_there && signed.caller.must_manage(key).is_ok() {
            (limits_of(key, signed, form))
            (actions(key, signed))
        }
        @if is_there && signed.caller.must_be_operator().is_ok() { (priority_of(key, signed, form)) }
        section aria-labelledby="usage" {
            h2 id="usage" { "Usage of the last 30 days" }
            (chart::figure(&Chart::new(&days, now)))
            (by_model(&models))
        }
    };
    let title = if form.error.is_some() { format!("Error: {}", key.name) } else { key.name.clone() };
    Ok(layout::refused(layout::page(&title, signed, &main), form.error))
}

async fn usage(
    plane: &Arc<Plane>,
    caller: &Caller,
    key: &Key,
    group: Group,
    now: Timestamp,
) -> Result<Vec<UsageRow>, ApiError> {
    let filter = UsageFilter {
        from: Some(chart::first_day(now)),
        key: Some(key.id.clone()),
        visible_to: visible_to(caller),
        ..UsageFilter::default()
    };
    ask(plane, Some(caller), BTreeSet::from([group]), filter).await
}

fn facts(key: &Key, last_used_at: Option<Timestamp>) -> Markup {
    html! {
        dl {
            div { dt { "Secret" } dd { code { (key.masked) } } }
            div { dt { "Of" } dd { (holder(key)) } }
            div { dt { "Last used" } dd { (used(last_used_at)) } }
            div { dt { "Made" } dd { (time(key.created_at)) " by " (key.created_by) } }
            div { dt { "Expires" } dd { @match key.expires_at { Some(end) => { (time(end)) } None => { "never" } } } }
            div { dt { "Models" } dd {
                @match &key.models {
                    Some(models) => { ul.models { @for model in models { li { code { (model) } } } } }
                    None => { "all" }
                }
            } }
            (limits::facts(&key.limits.shared(), Holder::Key(&key.id)))
            @if let Some(mode) = key.limits.mode {
                div { dt { "Over its limits" } dd { @match mode {
                    Mode::Enforce => { "requests are refused" }
                    Mode::Observe => { "requests are counted, and none is refused" }
                } } }
            }
            @for (models, limits) in &key.limits.models {
                div { dt { "Of " code { (models) } } dd { code { (json!(limits).to_string()) } } }
            }
            @if let Some(networks) = &key.allow_from {
                div { dt { "Networks" } dd { ul.models { @for network in networks { li { code { (network) } } } } } }
            }
            div { dt { "Priority" } dd {
                (number(key.priority.into())) " " span.faint { "(a lower one goes first)" }
            } }
            @for retiring in &key.retiring {
                div { dt { "Old secret" } dd { "works until " (time(retiring.not_after)) } }
            }
        }
    }
}

fn actions(key: &Key, signed: &SignedIn) -> Markup {
    let path = format!("/keys/{}", key.id);
    let (value, words) = if key.enabled { ("false", "Disable") } else { ("true", "Enable") };
    html! {
        div.actions {
            form method="post" action=(format!("{path}/enabled")) {
                (layout::form_token(signed))
                button.plain type="submit" name="enabled" value=(value) { (words) }
            }
            a.button.plain href=(format!("{path}/secret")) { "Regenerate the secret" }
            a.button.plain.danger href=(format!("{path}/delete")) { "Delete" }
        }
    }
}

/// The form of limits and networks.
fn limits_of(key: &Key, signed: &SignedIn, form: &Form<'_>) -> Markup {
    let is_wrong = |field: &str| field.starts_with(LIMITS) || field.starts_with(NETWORKS);
    let modes = [("", "as for all keys"), (ENFORCE, "refuse"), (OBSERVE, "count, and refuse none")];
    html! {
        details open[form.error.and_then(ApiError::field).is_some_and(is_wrong)] {
            summary { "Set its limits" }
            form method="post" action=(format!("/keys/{}/limits", key.id)) aria-label="Limits" {
                (layout::form_token(signed))
                (limits::lines(form, Holder::Key(&key.id)))
                @if signed.caller.must_be_operator().is_ok() {
                    (form.choice(
                        FormField { name: MODE, label: "Over its limits", ..FormField::default() },
                        &modes,
                    ))
                }
                (form.lines(FormField {
                    name: NETWORKS,
                    label: "Networks",
                    hint: "One on a line, such as 10.0.0.0/8, from which it may be used. None: from everywhere.",
                    ..FormField::default()
                }))
                button type="submit" { "Set the limits" }
            }
        }
    }
}

/// What is the operator's to set.
fn priority_of(key: &Key, signed: &SignedIn, form: &Form<'_>) -> Markup {
    html! {
        section aria-labelledby="priority" {
            h2 id="priority" { "Set its priority" }
            form.row method="post" action=(format!("/keys/{}/priority", key.id)) aria-labelledby="priority" {
                (layout::form_token(signed))
                (priority::line(form))
                button type="submit" { "Set" }
            }
        }
    }
}

fn by_model(rows: &[UsageRow]) -> Markup {
    html! {
        @if !rows.is_empty() {
            h3 id="models" { "By model" }
            div.scroll role="region" aria-labelledby="models" tabindex="0" {
                table {
                    caption.hidden { "Usage of the last 30 days by model" }
                    thead { tr {
                        th scope="col" { "Model" }
                        @for head in ["Requests", "Tokens in", "Cached", "Tokens out", "Cost"] {
                            th.number scope="col" { (head) }
                        }
                    } }
                    tbody { @for row in rows { tr {
                        th scope="row" { (row.model.as_deref().unwrap_or_default()) }
                        td.number { (number(row.requests)) }
                        td.number { (number(row.input_tokens.saturating_add(row.cache_write_tokens))) }
                        td.number { (number(row.cached_input_tokens)) }
                        td.number { (number(row.output_tokens)) }
                        td.number { (cost(row.cost_usd)) }
                    } } }
                }
            }
        }
    }
}
