//! Tables. On a narrow screen each row is a card, whichever table it is: then only roles still tell it from other text.

use maud::{Markup, html};

/// A column of a table.
#[derive(Clone, Default)]
pub struct Column {
    /// What it is called; empty: only those who hear the page are told that there are actions.
    name: &'static str,
    is_number: bool,
    /// Where its head leads, and how the table is sorted by it.
    sort: Option<(String, Option<Order>)>,
}

/// In which order a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The least first.
    Ascending,
    /// The most first.
    Descending,
}

impl Column {
    /// Of text.
    pub fn text(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// Of numbers.
    pub fn number(name: &'static str) -> Self {
        Self { name, is_number: true, ..Self::default() }
    }

    /// Of what can be done.
    pub fn actions() -> Self {
        Self::default()
    }

    /// The same, by which the table is sorted when its head is pressed.
    #[must_use]
    pub fn sorted(self, href: String, order: Option<Order>) -> Self {
        Self { sort: Some((href, order)), ..self }
    }

    fn head(&self) -> Markup {
        let sorted = self.sort.as_ref().and_then(|(_, order)| *order).map(|order| match order {
            Order::Ascending => "ascending",
            Order::Descending => "descending",
        });
        html! {
            th.number[self.is_number] scope="col" role="columnheader" aria-sort=[sorted] {
                @match (&self.sort, self.name) {
                    (_, "") => { span.hidden { "Actions" } }
                    (None, name) => { (name) }
                    (Some((href, _)), name) => { a href=(href) { (name) } }
                }
            }
        }
    }
}

/// A row: its cells, of which the first says what it is of, and by which id it can be gone to.
pub struct Row {
    id: Option<String>,
    cells: Vec<Markup>,
}

impl From<Vec<Markup>> for Row {
    fn from(cells: Vec<Markup>) -> Self {
        Self { id: None, cells }
    }
}

impl Row {
    /// The same with an id.
    #[must_use]
    pub fn with_id(self, id: &str) -> Self {
        Self { id: Some(id.to_owned()), ..self }
    }
}

/// The table.
pub fn table(caption: &str, columns: &[Column], rows: impl IntoIterator<Item = Row>) -> Markup {
    html! {
        div.table {
            table role="table" {
                caption.hidden { (caption) }
                thead role="rowgroup" { tr role="row" { @for column in columns { (column.head()) } } }
                tbody role="rowgroup" { @for row in rows { (shown(columns, &row)) } }
            }
        }
    }
}

fn shown(columns: &[Column], row: &Row) -> Markup {
    html! {
        tr role="row" id=[row.id.as_deref()] {
            @for (index, (column, cell)) in columns.iter().zip(&row.cells).enumerate() {
                @let head = Some(column.name).filter(|name| !name.is_empty());
                @if index == 0 {
                    th scope="row" role="rowheader" { (cell) }
                } @else {
                    td.number[column.is_number].acts[head.is_none()] role="cell" data-head=[head] { div { (cell) } }
                }
            }
        }
    }
}
