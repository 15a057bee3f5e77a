//! A list that is shown a page at a time, and what its address says.

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
                @if let Some(next) = next {
                    a rel="next" href=(format!("{path}?{}", query(&[("cursor", next)]))) { "Next page" }
                }
            }
        }
    }
}

/// The part of an address behind `?`, of what is said at all.
pub fn query(parts: &[(&str, &str)]) -> String {
    let said = parts.iter().filter(|(_, value)| !value.is_empty());
    let said: Vec<_> = said.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    said.join("&")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                let digit = |half: u8| DIGITS.get(usize::from(half)).copied().map_or('0', char::from);
                escaped.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_in_an_address_is_escaped() {
        assert_eq!(query(&[("q", "a&b=ü /"), ("state", ""), ("sort", "-cost")]), "q=a%26b%3D%C3%BC%20%2F&sort=-cost");
    }
}
