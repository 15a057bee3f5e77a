//! What the address of the list of keys says: what is searched for, in which order, and which page of it.

use serde::Deserialize;

use super::{owners::NOBODY, pager::query, table::Order};
use crate::{
    api::usage::visible_to,
    caller::Caller,
    store::key_list::{KeySearch, KeySort, OwnerFilter, StateFilter},
};

/// Keys on a page.
pub const ROWS: i64 = 25;

/// A list that goes on for longer is searched, not leafed through.
const MOST_PAGES: i64 = 1_000_000;

/// What the address says. What makes no sense says nothing.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct KeyQuery {
    /// What is searched for.
    #[serde(default)]
    pub q: String,
    /// Whose keys: an id, or nobody's.
    #[serde(default)]
    pub owner: String,
    /// In which state.
    #[serde(default)]
    pub state: String,
    /// By what they are sorted; with a `-` before it, the most first.
    #[serde(default)]
    pub sort: String,
    /// Which page, counted from 1.
    #[serde(default)]
    pub page: String,
    /// What was just done.
    #[serde(default)]
    pub done: String,
}

/// States, as the address and as people say them.
pub const STATES: [(&str, &str); 7] = [
    ("", "All but deleted"),
    ("active", "Active"),
    ("disabled", "Disabled"),
    ("expired", "Expired"),
    ("no_balance", "No balance"),
    ("archived", "Archived"),
    ("deleted", "Deleted"),
];

/// Orders, as the address and as people say them.
pub const SORTS: [(&str, &str); 9] = [
    ("", "Name"),
    ("-made", "Newest first"),
    ("made", "Oldest first"),
    ("-cost", "Most cost"),
    ("-requests", "Most requests"),
    ("-input", "Most tokens in"),
    ("-output", "Most tokens out"),
    ("-used", "Used last"),
    ("owner", "Owner"),
];

impl KeyQuery {
    /// Which keys of those that the caller may see.
    pub fn search(&self, caller: &Caller) -> KeySearch {
        let owner = match self.owner.trim() {
            "" => None,
            // Only the operator's keys are nobody's.
            NOBODY => Some(OwnerFilter::Nobody),
            id => Some(OwnerFilter::Of(id.to_owned())),
        };
        let (column, order) = self.order();
        KeySearch {
            visible_to: visible_to(caller),
            text: Some(self.q.trim().to_owned()).filter(|text| !text.is_empty()),
            owner,
            state: state(&self.state),
            sort: sort(column),
            is_descending: order == Order::Descending,
        }
    }

    /// The column, and how it is sorted by it.
    fn order(&self) -> (&str, Order) {
        match self.sort.strip_prefix('-') {
            Some(column) => (column, Order::Descending),
            None => (&self.sort, Order::Ascending),
        }
    }

    /// Counted from 1.
    pub fn page(&self) -> i64 {
        self.page.parse().unwrap_or(1).clamp(1, MOST_PAGES)
    }

    /// Whether not all keys are shown that there are.
    pub fn is_filtered(&self) -> bool {
        [&self.q, &self.owner, &self.state].into_iter().any(|part| !part.trim().is_empty())
    }

    /// The address of the list, without what was just done.
    pub fn address(&self) -> String {
        path(&self.text())
    }

    /// The part of it behind `?`.
    pub fn text(&self) -> String {
        let page = if self.page() == 1 { "" } else { self.page.trim() };
        let (q, owner) = (self.q.trim(), self.owner.trim());
        query(&[("q", q), ("owner", owner), ("state", &self.state), ("sort", &self.sort), ("page", page)])
    }

    /// The address of another page of the list.
    pub fn at_page(&self, page: i64) -> String {
        Self { page: page.to_string(), ..self.clone() }.address()
    }

    /// Where the head of a column leads, and how the list is sorted by it: pressed again it is turned round. Numbers begin with
    /// the greatest.
    pub fn sorted_by(&self, column: &str, is_number: bool) -> (String, Option<Order>) {
        let (present, order) = self.order();
        let present = if present.is_empty() { "name" } else { present };
        let order = (present == column).then_some(order);
        let is_descending = order.map_or(is_number, |order| order == Order::Ascending);
        let sort = format!("{}{column}", if is_descending { "-" } else { "" });
        (Self { sort, page: String::new(), ..self.clone() }.address(), order)
    }
}

fn path(query: &str) -> String {
    if query.is_empty() { "/".to_owned() } else { format!("/?{query}") }
}

fn state(text: &str) -> Option<StateFilter> {
    Some(match text {
        "active" => StateFilter::Active,
        "disabled" => StateFilter::Disabled,
        "expired" => StateFilter::Expired,
        "no_balance" => StateFilter::NoBalance,
        "archived" => StateFilter::Archived,
        "deleted" => StateFilter::Deleted,
        _ => return None,
    })
}

fn sort(text: &str) -> KeySort {
    match text {
        "owner" => KeySort::Owner,
        "requests" => KeySort::Requests,
        "input" => KeySort::Input,
        "output" => KeySort::Output,
        "cost" => KeySort::Cost,
        "used" => KeySort::LastUsed,
        "made" => KeySort::Made,
        _ => KeySort::Name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_what_is_asked_for_and_no_more() {
        let asked = KeyQuery { q: " a&b ".into(), page: "3".into(), done: "deleted".into(), ..KeyQuery::default() };
        assert_eq!(asked.address(), "/?q=a%26b&page=3");
        assert_eq!(asked.at_page(1), "/?q=a%26b");
        assert_eq!(KeyQuery::default().address(), "/");
        assert!(asked.is_filtered() && !KeyQuery::default().is_filtered());
        for (page, meant) in [("", 1), ("x", 1), ("-4", 1), ("99999999999999999999", 1), ("7", 7)] {
            assert_eq!(KeyQuery { page: page.into(), ..KeyQuery::default() }.page(), meant, "{page}");
        }
    }

    #[test]
    fn a_head_that_is_pressed_again_turns_the_list_round() {
        let list = KeyQuery { page: "3".into(), ..KeyQuery::default() };
        assert_eq!(list.sorted_by("name", false), ("/?sort=-name".to_owned(), Some(Order::Ascending)));
        assert_eq!(list.sorted_by("cost", true), ("/?sort=-cost".to_owned(), None));
        let by_cost = KeyQuery { sort: "-cost".into(), ..list };
        assert_eq!(by_cost.sorted_by("cost", true), ("/?sort=cost".to_owned(), Some(Order::Descending)));
    }
}
