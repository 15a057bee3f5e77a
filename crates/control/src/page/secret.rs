//! Regenerating a key's secret, and the page on which a secret is shown, once, with how to use it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::Response,
};
use keymeter_core::api::Api;
use maud::{Markup, html};
use serde_json::json;

use super::{
    form::{Form, FormField},
    layout::{self, Section, title_of},
    request::{FormFields, PageError, SignedIn, SubmittedForm},
};
use crate::{
    Plane,
    api::keys::{self, RegenerateKey},
    caller::{Caller, Uncounted},
    error::ApiError,
    store::keys::Key,
};

/// The page that has a key's secret on it.
pub fn shown(plane: &Plane, headers: &HeaderMap, title: &str, key: &Key, secret: &str, signed: &SignedIn) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let main = html! {
        div.narrow {
            h1 { (title) }
            p { "This is the secret of " strong { (key.name) } ". Copy it now: it is shown this once and not kept." }
            (once("The secret", secret))
            (use_of(plane, host, key, secret))
            div.actions { a.button.plain href=(format!("/keys/{}", key.id)) { "I have it, go on to the key" } }
        }
    };
    layout::page(title, Section::Keys, signed, &main)
}

/// What is shown once, with a way to copy it.
pub fn once(label: &str, secret: &str) -> Markup {
    html! {
        div.secret role="group" aria-label=(label) {
            code id="secret" data-secret { (secret) }
            button type="button" data-copy="secret" hidden { "Copy" span.hidden { " " (label) } }
        }
        p.copied id="copied" role="status" {}
    }
}

/// Where programs send requests, and one to try.
fn use_of(plane: &Plane, host: Option<&str>, key: &Key, secret: &str) -> Markup {
    let Some(url) = plane.gateway.url(host) else {
        return html! {
            p.hint {
                "Where the gateway is, this page does not know: the operator writes it as "
                code { "gateway_url" } " in the section " code { "control" } " of its configuration."
            }
        };
    };
    let model = plane.gateway.model_of(key.models.as_deref());
    let works = key.state == "active";
    html! {
        h2 { "Use it" }
        dl.one {
            div { dt { "Base URL" } dd.copy {
                code id="base-url" { (url) "/v1" }
                button.plain type="button" data-copy="base-url" hidden { "Copy" span.hidden { " the base URL" } }
            } }
        }
        p.hint { "For OpenAI’s clients. Those of Anthropic, Gemini and Ollama take it without the " code { "/v1" } "." }
        @if !works { p.hint { "The key is " (key.state.replace('_', " ")) " at the moment: until that changes, requests are refused." } }
        div.command {
            pre data-secret { code id="curl" { (curl(&url, secret, model.as_ref())) } }
            button.plain type="button" data-copy="curl" hidden { "Copy" span.hidden { " the command" } }
        }
        @if model.is_none() {
            p.hint { "This lists the models that the key may call; one of their ids is what requests say as " code { "model" } "." }
        }
    }
}

/// A command for a shell: a short chat where a model is known, else the list of models.
fn curl(url: &str, secret: &str, model: Option<&(String, Api)>) -> String {
    let bearer = format!("-H \"Authorization: Bearer {secret}\"");
    let Some((model, api)) = model else { return format!("curl {url}/v1/models \\\n  {bearer}") };
    let named = json!(model);
    let messages = r#""messages": [{"role": "user", "content": "Hello!"}]"#;
    let (path, more, body) = match api {
        Api::OpenAi => ("/v1/chat/completions".to_owned(), "", format!("{{\"model\": {named}, {messages}}}")),
        Api::Anthropic => (
            "/v1/messages".to_owned(),
            " \\\n  -H \"anthropic-version: 2023-06-01\"",
            format!("{{\"model\": {named}, \"max_tokens\": 100, {messages}}}"),
        ),
        Api::Ollama => ("/api/chat".to_owned(), "", format!("{{\"model\": {named}, \"stream\": false, {messages}}}")),
        Api::Gemini => {
            let body = r#"{"contents": [{"parts": [{"text": "Hello!"}]}]}"#.to_owned();
            (format!("/v1beta/models/{model}:generateContent"), "", body)
        }
    };
    post(&format!("{url}{path}"), &bearer, more, &body)
}

fn post(url: &str, bearer: &str, more: &str, body: &str) -> String {
    let [url, body] = [url, body].map(quoted);
    format!("curl {url} \\\n  {bearer}{more} \\\n  -H \"Content-Type: application/json\" \\\n  -d {body}")
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:.-_[]".contains(&byte);
    if text.bytes().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// `GET /keys/{id}/secret`.
pub async fn ask(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let key = managed(&plane, &signed.caller, &id).await?;
    let fields = FormFields::from([("seen", key.masked.clone())]);
    Ok(page(&signed, &key, &Form::new(&fields, None)))
}

/// `POST /keys/{id}/secret`. The form says which secret it was made for, so that sent again it replaces no other.
pub async fn regenerate(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Uncounted(SubmittedForm { signed, fields, .. }): Uncounted<SubmittedForm>,
) -> Result<Response, PageError> {
    let grace = fields.given("grace").map(str::to_owned);
    let seen = Some(fields.text("seen"));
    match keys::replace(&plane, &signed.caller, &id, seen, RegenerateKey { grace }).await {
        Ok(made) => {
            let secret = made.secret.as_deref().unwrap_or_default();
            Ok(shown(&plane, &headers, "The secret is regenerated", &made.key, secret, &signed))
        }
        Err(refusal) => {
            let key = managed(&plane, &signed.caller, &id).await?;
            Ok(page(&signed, &key, &Form::new(&fields, Some(&refusal))))
        }
    }
}

/// A key that is there and that the caller may change.
pub async fn managed(plane: &Arc<Plane>, caller: &Caller, id: &str) -> Result<Key, ApiError> {
    let Json(key) = keys::show(State(plane.clone()), caller.clone(), Path(id.to_owned())).await?;
    if key.deleted_at.is_some() {
        return Err(ApiError::not_found("key", id));
    }
    caller.must_manage(&key)?;
    Ok(key)
}

fn page(signed: &SignedIn, key: &Key, form: &Form<'_>) -> Response {
    let path = format!("/keys/{}", key.id);
    let main = html! {
        div.narrow {
            p.crumb { a href="/" { "Keys" } " / " a href=(path) { (key.name) } }
            h1 { "Regenerate the secret" }
            (form.around(|| html! {
                form.panel method="post" action=(format!("{path}/secret")) {
                    p {
                        strong { (key.name) } " has the secret " code { (key.masked) }
                        ". It gets another, which is shown once."
                    }
                    (layout::form_token(signed))
                    input type="hidden" name="seen" value=(form.fields.text("seen"));
                    (form.line(FormField {
                        name: "grace",
                        label: "The old secret goes on working for",
                        hint: "Such as 10m, 24h or 7d. Empty: it stops at once.",
                        ..FormField::default()
                    }))
                    div.actions {
                        button type="submit" { "Regenerate" }
                        a href=(path) { "Cancel" }
                    }
                }
            }))
        }
    };
    let title = title_of("Regenerate the secret", form.error);
    layout::refused(layout::page(&title, Section::Keys, signed, &main), form.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_says_what_the_model_takes() {
        let of = |model: &str, api| curl("http://h:1", "sk-x", Some(&(model.to_owned(), api)));
        let chat = of("it's", Api::OpenAi);
        assert!(chat.starts_with("curl http://h:1/v1/chat/completions \\\n  -H \"Authorization: Bearer sk-x\" \\\n"));
        assert!(chat.contains(r#"{"model": "it'\''s", "messages""#), "{chat}");
        assert!(of("claude", Api::Anthropic).contains("anthropic-version"));
        assert!(of("a b", Api::Gemini).contains("'http://h:1/v1beta/models/a b:generateContent'"));
        assert!(of("llama3", Api::Ollama).contains("/api/chat"));
        assert_eq!(
            curl("http://h:1", "sk-x", None),
            "curl http://h:1/v1/models \\\n  -H \"Authorization: Bearer sk-x\""
        );
    }
}
