//! The frame of pages for signed-in users.

use axum::response::Response;
use maud::{Markup, html};

pub use super::document::{document, notice, refused, sentence};
use super::{
    document,
    request::{FORM_TOKEN, SignedIn},
};
use crate::error::ApiError;

/// What a page is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What was used.
    Overview,
    /// Keys.
    Keys,
    /// Teams, or one's own.
    Teams,
    /// Users.
    Users,
    /// One's own page.
    Own,
    /// Wallets.
    Wallets,
    /// Invitations.
    Invitations,
    /// None of them.
    Nowhere,
}

/// A page of somebody who is signed in.
pub fn page(title: &str, section: Section, signed: &SignedIn, main: &Markup) -> Response {
    document(title, &header(section, signed), main)
}

/// A page that says why there is no other, with the ways to others.
pub fn trouble(refusal: &ApiError, signed: &SignedIn) -> Response {
    document::trouble(refusal, &header(Section::Nowhere, signed))
}

fn header(section: Section, signed: &SignedIn) -> Markup {
    let own = signed.caller.user();
    let link = |target: Section, path: &str, words: &str| {
        let current = (target == section).then_some("page");
        html! { a href=(path) aria-current=[current] { (words) } }
    };
    html! {
        nav aria-label="Pages" {
            (link(Section::Overview, "/overview", "Overview"))
            (link(Section::Keys, "/", "Keys"))
            @match own.map(|user| user.team.as_ref()) {
                None => {
                    (link(Section::Teams, "/teams", "Teams"))
                    (link(Section::Users, "/users", "Users"))
                    (link(Section::Wallets, "/wallets", "Wallets"))
                }
                Some(None) => {
                    (link(Section::Invitations, "/invitations", "Invitations"))
                    (link(Section::Wallets, "/wallets", "Wallet"))
                }
                Some(Some(_)) => {
                    (link(Section::Teams, "/teams", "Team"))
                    (link(Section::Wallets, "/wallets", "Wallets"))
                }
            }
        }
        form.out method="post" action="/sign-out" {
            (form_token(signed))
            @match own {
                None => { span.who { "operator" } }
                Some(user) => { (link(Section::Own, &format!("/users/{}", user.id), &user.id)) }
            }
            button.plain type="submit" { "Sign out" }
        }
    }
}

/// What each form of somebody who is signed in bears.
pub fn form_token(signed: &SignedIn) -> Markup {
    html! { input type="hidden" name=(FORM_TOKEN) value=(signed.form_token); }
}

/// The title of a page with a form on it that may be refused.
pub fn title_of(title: &str, error: Option<&ApiError>) -> String {
    if error.is_some() { format!("Error: {title}") } else { title.to_owned() }
}
