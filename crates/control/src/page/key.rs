//! One key: its details, what it used, and the actions on it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::Uri,
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    edit::{IS_SAVED, SAVED},
    key_search::KeyQuery,
    key_words::{facts, state, switch},
    layout::{self, Section},
    quotas::{self, SpentByKeys},
    refusals,
    request::{PageError, PageQuery, SignedIn, SubmittedForm},
    usage::{Span, UsagePosition, Used, Whose},
};
use crate::{
    Plane,
    api::{
        self,
        body::Body,
        keys::{self, UpdateKey},
        refusals::RefusalRows,
    },
    error::ApiError,
    store::keys::Key,
};

/// `GET /keys/{id}`.
pub async fn show(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    PageQuery(asked): PageQuery<UsagePosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let Json(key) = keys::show(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
    let done = match asked.done.as_str() {
        "enabled" => Some("The key is enabled."),
        "disabled" => Some("The key is disabled."),
        SAVED => Some(IS_SAVED),
        _ => None,
    };
    let now = Timestamp::now();
    let used = Used::load(&plane, &signed, Whose::Key(&key.id), Span::parse(&asked.span), now).await?;
    let last_used_at = plane.store.last_used(&key.id).await?;
    let spent = SpentByKeys::default().of(&plane, &signed, &key, now).await;
    let caller = signed.caller.clone();
    let Json(RefusalRows { rows: refused }) =
        api::refusals::show(State(plane.clone()), caller, Path(key.id.clone())).await?;
    let main = html! {
        p.crumb { a href="/" { "Keys" } }
        div.head { h1 { (key.name) } (state(&key)) }
        (layout::notice(done))
        (actions(&key, &signed))
        (facts(&key, &signed, last_used_at))
        (quotas::bars(&spent))
        (used.section("Usage", &format!("/keys/{}", key.id), &[]))
        (refusals::section(&refused))
    };
    Ok(layout::page(&key.name, Section::Keys, &signed, &main))
}

/// `POST /keys/{id}/enabled`: from the key's page, or from a list, to which it leads back.
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
    let next = if fields.has("back") {
        back_to_list(fields.text("back"), done, &key.id)
    } else {
        format!("/keys/{}?done={done}", key.id)
    };
    Ok(Redirect::to(&next).into_response())
}

/// The list as it was, at the key. Only what an address of the list can say is taken from a form.
fn back_to_list(query: &str, done: &str, id: &str) -> String {
    let list = format!("/?{query}").parse::<Uri>().ok().and_then(|uri| Query::<KeyQuery>::try_from_uri(&uri).ok());
    let list = list.map(|Query(list)| list.text()).unwrap_or_default();
    let and = if list.is_empty() { "" } else { "&" };
    format!("/?{list}{and}done={done}#{id}")
}

fn actions(key: &Key, signed: &SignedIn) -> Markup {
    let path = format!("/keys/{}", key.id);
    html! {
        @if key.deleted_at.is_none() && signed.caller.must_manage(key).is_ok() {
            div.actions {
                a.button href=(format!("{path}/edit")) { "Edit" }
                (switch(key, signed, None))
                a.button.plain href=(format!("{path}/secret")) { "Regenerate" }
                a.button.plain.danger href=(format!("{path}/delete")) { "Delete" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_leads_back_to_a_list_and_nowhere_else() {
        for (query, next) in [
            ("", "/?done=disabled#key_1"),
            ("q=a%26b&sort=-cost&page=2", "/?q=a%26b&sort=-cost&page=2&done=disabled#key_1"),
            ("q=1&done=deleted&evil=x", "/?q=1&done=disabled#key_1"),
            ("q=%0d%0aset-cookie", "/?q=set-cookie&done=disabled#key_1"),
            ("//evil.example", "/?done=disabled#key_1"),
            ("q=1\r\nx: y", "/?done=disabled#key_1"),
        ] {
            assert_eq!(back_to_list(query, "disabled", "key_1"), next, "{query}");
        }
    }
}
