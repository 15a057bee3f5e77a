//! A whole HTML document, with or without a session.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::assets::{ICON, SCRIPT, STYLE};
use crate::error::ApiError;

/// A page of nobody's.
pub fn document(title: &str, header: &Markup, main: &Markup) -> Response {
    written(title, header, main, None)
}

/// A page of nobody's that leads on to another of ours by itself.
pub fn leading(title: &str, to: &str, main: &Markup) -> Response {
    written(title, &html! {}, main, Some(to))
}

fn written(title: &str, header: &Markup, main: &Markup, leads_to: Option<&str>) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(to) = leads_to { meta http-equiv="refresh" content=(format!("0;url={to}")); }
                title { (title) " · keymeter" }
                link rel="icon" type="image/svg+xml" href=(ICON.path());
                link rel="stylesheet" href=(STYLE.path());
                script src=(SCRIPT.path()) defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header { div.bar { a.brand href="/" { "keymeter" } (header) } }
                main id="main" tabindex="-1" { (main) }
            }
        }
    };
    Html(page.into_string()).into_response()
}

/// A page that says why there is no other.
pub fn trouble(refusal: &ApiError, header: &Markup) -> Response {
    let title = if refusal.status() == StatusCode::NOT_FOUND { "Not found" } else { "That was not done" };
    let main = html! {
        div.narrow {
            h1 { (title) }
            div.alert role="alert" { p { (sentence(refusal.message())) } }
            p { a href="/" { "Go to the keys" } }
        }
    };
    refused(document(title, header, &main), Some(refusal))
}

/// Gives a page the status and the headers of what is wrong on it.
pub fn refused(mut page: Response, refusal: Option<&ApiError>) -> Response {
    let Some(refusal) = refusal else { return page };
    *page.status_mut() = refusal.status();
    if let Some(seconds) = refusal.retry_after() {
        page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    page
}

/// Gives a page a cookie beside those that it has.
pub fn with_cookie(mut page: Response, cookie: Option<HeaderValue>) -> Response {
    if let Some(cookie) = cookie {
        page.headers_mut().append(header::SET_COOKIE, cookie);
    }
    page
}

/// What was just done, for those who hear a page too.
pub fn notice(text: Option<&str>) -> Markup {
    html! { @if let Some(text) = text { p.notice role="status" { (text) } } }
}

/// A message as a sentence.
pub fn sentence(message: &str) -> String {
    let mut characters = message.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let end = if message.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", characters.as_str())
}
