//! The frame of pages for signed-in users.

use axum::response::Response;
use maud::{Markup, html};

pub use super::document::{document, notice, refused, sentence};
use super::request::{FORM_TOKEN, SignedIn};

/// A page of somebody who is signed in.
pub fn page(title: &str, signed: &SignedIn, main: &Markup) -> Response {
    let own = signed.caller.user();
    let header = html! {
        nav aria-label="Pages" {
            a href="/" { "Keys" }
            @match own.map(|user| user.team.as_ref()) {
                None => { a href="/teams" { "Teams" } a href="/users" { "Users" } a href="/wallets" { "Wallets" } }
                Some(None) => { a href="/invitations" { "Invitations" } a href="/wallets" { "Wallet" } }
                Some(Some(_)) => { a href="/teams" { "Team" } a href="/wallets" { "Wallets" } }
            }
        }
        form.out method="post" action="/sign-out" {
            (form_token(signed))
            @match own {
                None => { span.who { "operator" } }
                Some(user) => { a.who href=(format!("/users/{}", user.id)) { (user.id) } }
            }
            button.quiet type="submit" { "Sign out" }
        }
    };
    document(title, &header, main)
}

/// What each form of somebody who is signed in bears.
pub fn form_token(signed: &SignedIn) -> Markup {
    html! { input type="hidden" name=(FORM_TOKEN) value=(signed.form_token); }
}
