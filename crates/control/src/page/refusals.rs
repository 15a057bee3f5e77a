//! Why requests of a key were refused of late.

use maud::{Markup, html};

use super::{
    table::{Column, Row, table},
    words::{number, time},
};
use crate::store::refusals::RefusalRow;

/// What gateways have told.
pub fn section(rows: &[RefusalRow]) -> Markup {
    let columns = [Column::text("Why"), Column::text("Whose limit"), Column::number("Requests"), Column::text("Last")];
    html! {
        section aria-labelledby="refusals" {
            h2 id="refusals" { "Refusals of the last 31 days" }
            @if rows.is_empty() {
                div.empty {
                    p { strong { "Gateways have told of no refusals." } }
                    p { "Where a request of the key is refused, the reason is here some seconds later." }
                }
            } @else {
                (table("Why requests were refused, the latest first", &columns, rows.iter().map(row)))
            }
        }
    }
}

fn row(row: &RefusalRow) -> Row {
    let RefusalRow { reason, scope, count, last_at } = row;
    Row::from(vec![
        html! { (why(reason)) },
        html! { (whose(reason, scope)) },
        html! { (number(*count)) },
        time(*last_at),
    ])
}

/// A reason in words; a word of a later version stands for itself.
fn why(reason: &str) -> &str {
    match reason {
        "requests_per_minute" => "Too many requests a minute",
        "tokens_per_minute" => "Too many tokens a minute",
        "concurrent_requests" => "Too many requests at once",
        "disabled" => "The key was disabled",
        "expired" => "The key had expired",
        "archived" => "The key was archived: its owner was on a team",
        "model" => "A model that is unknown, or not the key’s",
        "balance" => "The wallet was used up",
        "requests_quota" => "A quota of requests was used up",
        "tokens_quota" => "A quota of tokens was used up",
        "output_tokens_quota" => "A quota of tokens out was used up",
        "usd_quota" => "A quota of money was used up",
        "address" => "An address that is not in the key’s networks",
        other => other,
    }
}

/// Only limits are somebody's.
fn whose<'scope>(reason: &str, scope: &'scope str) -> &'scope str {
    let is_limit = reason.ends_with("_quota") || reason.ends_with("_per_minute") || reason == "concurrent_requests";
    match scope {
        _ if !is_limit => "none",
        "key" => "the key’s",
        "model" => "the key’s, of one model",
        "team" => "the team’s",
        "owner" => "the owner’s",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use keymeter_core::{limit::Scope, rejection::Refused};

    use super::*;

    #[test]
    fn there_are_words_for_each_reason_and_each_scope() {
        for reason in Refused::ALL {
            assert_ne!(why(reason.as_str()), reason.as_str());
        }
        for scope in Scope::ALL {
            assert_ne!(whose("usd_quota", scope.as_str()), scope.as_str());
        }
        assert_eq!(whose("disabled", "key"), "none");
    }
}
