//! A list that is shown a page at a time.

use maud::{Markup, html};
use serde::Deserialize;

/// Where a list begins, and what was just done.
#[derive(Default, Deserialize)]
pub struct ListPosition {
    /// As the page before said.
    pub cursor: Option<String>,
    /// A word for it.
    pub done: Option<String>,
}

/// Ways to the first and the next page of a list.
pub fn pager(path: &str, is_later: bool, next: Option<&str>) -> Markup {
    html! {
        @if is_later || next.is_some() {
            nav.pager aria-label="Pages of the list" {
                @if is_later { a href=(path) { "First page" } }
                // Cursors are ids, which need no escaping.
                @if let Some(next) = next { a rel="next" href=(format!("{path}?cursor={next}")) { "Next page" } }
            }
        }
    }
}
