//! What is told of a key: whose it is, its state, its switch, and its details.

use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    layout, limits, model_limits,
    request::SignedIn,
    words::{number, time},
};
use crate::store::{keys::Key, limits::Mode};

/// Whose a key is.
pub fn owner(key: &Key, signed: &SignedIn) -> Markup {
    let is_linked = |user: &str| signed.caller.user().is_none_or(|own| own.id == user);
    html! {
        @match (&key.team, &key.owner) {
            (Some(team), _) => { a href=(format!("/teams/{team}")) { (team) } " " span.faint { "team" } }
            (None, Some(owner)) if is_linked(owner) => { a href=(format!("/users/{owner}")) { (owner) } }
            (None, Some(owner)) => { (owner) }
            (None, None) => { span.faint { "charged to nobody" } }
        }
    }
}

/// A key's state, in a word and a colour. Gateways see for themselves that a key has expired.
pub fn state(key: &Key) -> Markup {
    let is_over = key.state == "active" && key.expires_at.is_some_and(|end| end <= Timestamp::now());
    let (class, words) = match key.state.as_str() {
        _ if is_over => ("expired", "expired"),
        "no_balance" => ("no_balance", "no balance"),
        state => (state, state),
    };
    html! { span class=(format!("state {class}")) { (words) } }
}

/// The switch of a key that the caller may change; the list that it is on says where to go `back` to.
pub fn switch(key: &Key, signed: &SignedIn, back: Option<&str>) -> Markup {
    if key.deleted_at.is_some() || signed.caller.must_manage(key).is_err() {
        return html! {};
    }
    let (value, words) = if key.enabled { ("false", "Disable") } else { ("true", "Enable") };
    html! {
        form.toggle method="post" action=(format!("/keys/{}/enabled", key.id)) {
            (layout::form_token(signed))
            @if let Some(back) = back { input type="hidden" name="back" value=(back); }
            button.plain type="submit" name="enabled" value=(value) {
                span.track.on[key.enabled] aria-hidden="true" {}
                (words) span.hidden { " " (key.name) }
            }
        }
    }
}

/// When a key was used last.
pub fn used(at: Option<Timestamp>) -> Markup {
    html! { @match at { Some(at) => { (time(at)) } None => { span.faint { "never" } } } }
}

/// The details of a key.
pub fn facts(key: &Key, signed: &SignedIn, last_used_at: Option<Timestamp>) -> Markup {
    html! {
        dl {
            div { dt { "Id" } dd.copy {
                code id="key-id" { (key.id) }
                button.plain type="button" data-copy="key-id" hidden { "Copy" span.hidden { " the id" } }
                span.copied id="copied" role="status" {}
            } }
            div { dt { "Secret" } dd { code { (key.masked) } } }
            div { dt { "Owner" } dd { (owner(key, signed)) } }
            div { dt { "Last used" } dd { (used(last_used_at)) } }
            div { dt { "Made" } dd { (time(key.created_at)) " by " (key.created_by) } }
            div { dt { "Expires" } dd { @match key.expires_at { Some(end) => { (time(end)) } None => { "never" } } } }
            div { dt { "Models" } dd {
                @match &key.models {
                    Some(models) => { ul.models { @for model in models { li { code { (model) } } } } }
                    None => { "all" }
                }
            } }
            (limits::facts(&key.limits.shared(), "as for all keys"))
            @if let Some(mode) = key.limits.mode {
                div { dt { "Over its limits" } dd { @match mode {
                    Mode::Enforce => { "requests are refused" }
                    Mode::Observe => { "requests are counted, and none is refused" }
                } } }
            }
            (model_limits::facts(&key.limits.models))
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
