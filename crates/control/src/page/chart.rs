//! Usage of the last thirty days, as a drawing and as a table.

use jiff::{Timestamp, ToSpan};
use keymeter_core::money::Usd;
use maud::{Markup, html};

use super::words::{cost, day, number};
use crate::store::usage::UsageRow;

const DAYS: usize = 30;
const SECONDS: i64 = 24 * 3600;

/// Units of the drawing: a day's width, and the height of all.
const WIDTH: usize = 10;
const HEIGHT: i64 = 1000;

/// Thirty days, with nothing on those on which nothing was used.
pub struct Chart {
    days: Vec<Day>,
}

struct Day {
    start: Timestamp,
    requests: i64,
    tokens: i64,
    cost: Usd,
}

/// The beginning of the first of the thirty days that end with today, of UTC.
pub fn first_day(now: Timestamp) -> Timestamp {
    let today = now.as_second().div_euclid(SECONDS) * SECONDS;
    let before = (24 * 29).hours();
    Timestamp::from_second(today).and_then(|today| today.checked_sub(before)).unwrap_or(Timestamp::MIN)
}

impl Chart {
    /// Of the sums of days.
    pub fn new(rows: &[UsageRow], now: Timestamp) -> Self {
        let first = first_day(now);
        let mut days = Vec::with_capacity(DAYS);
        let starts = std::iter::successors(Some(first), |day| day.checked_add(24.hours()).ok());
        for start in starts.take(DAYS) {
            let row = rows.iter().find(|row| row.day == Some(start));
            days.push(Day {
                start,
                requests: row.map_or(0, |row| row.requests),
                tokens: row.map_or(0, tokens),
                cost: row.map_or(Usd::ZERO, |row| row.cost_usd),
            });
        }
        Self { days }
    }

    fn requests(&self) -> i64 {
        self.days.iter().fold(0, |sum, day| sum.saturating_add(day.requests))
    }

    fn cost(&self) -> Usd {
        self.days.iter().fold(Usd::ZERO, |sum, day| sum.saturating_add(day.cost))
    }
}

fn tokens(row: &UsageRow) -> i64 {
    let parts = [row.input_tokens, row.cached_input_tokens, row.cache_write_tokens, row.output_tokens];
    parts.into_iter().fold(0, i64::saturating_add)
}

/// Bars of what each day cost, or of requests where they cost nothing, and the same in a table.
pub fn figure(chart: &Chart) -> Markup {
    if chart.requests() == 0 {
        return html! { p.empty { "Nothing was used." } };
    }
    let is_free = chart.cost() == Usd::ZERO;
    let height = |day: &Day| if is_free { day.requests } else { day.cost.nanos() };
    let words = |day: &Day| if is_free { format!("{} requests", number(day.requests)) } else { cost(day.cost) };
    let most = chart.days.iter().max_by_key(|day| height(day));
    let (Some(first), Some(last), Some(most)) = (chart.days.first(), chart.days.last(), most) else {
        return html! {};
    };
    let told = format!(
        "{} from {} to {}: {} requests, {} in all, at most {} on {}",
        if is_free { "Requests a day" } else { "Cost a day" },
        day(first.start),
        day(last.start),
        number(chart.requests()),
        cost(chart.cost()),
        words(most),
        day(most.start)
    );
    html! {
        figure {
            p.top aria-hidden="true" { (words(most)) }
            svg role="img" aria-label=(told)
                viewBox=(format!("0 0 {} {HEIGHT}", DAYS * WIDTH)) preserveAspectRatio="none" {
                @for (index, day_of) in chart.days.iter().enumerate() {
                    @let tall = scaled(height(day_of), height(most));
                    rect class="day" x=(index * WIDTH + 1) width=(WIDTH - 2) y=(HEIGHT - tall) height=(tall) {
                        title { (day(day_of.start)) ": " (words(day_of)) }
                    }
                }
            }
            p.ends aria-hidden="true" { span { (day(first.start)) } span { (day(last.start)) } }
            figcaption { (told) "." }
        }
        (table(chart))
    }
}

/// At least a thin line for what is something.
fn scaled(value: i64, most: i64) -> i64 {
    if value <= 0 || most <= 0 {
        return 0;
    }
    let tall = i128::from(value) * i128::from(HEIGHT) / i128::from(most);
    i64::try_from(tall).unwrap_or(HEIGHT).clamp(HEIGHT / 100, HEIGHT)
}

fn table(chart: &Chart) -> Markup {
    html! {
        details {
            summary { "The same as a table" }
            div.scroll role="region" aria-label="Usage by day" tabindex="0" {
                table {
                    caption.hidden { "Usage of the last 30 days by day" }
                    thead { tr {
                        th scope="col" { "Day" }
                        @for head in ["Requests", "Tokens", "Cost"] { th.number scope="col" { (head) } }
                    } }
                    tbody { @for day_of in chart.days.iter().rev().filter(|day| day.requests > 0) { tr {
                        th scope="row" { (day(day_of.start)) }
                        td.number { (number(day_of.requests)) }
                        td.number { (number(day_of.tokens)) }
                        td.number { (cost(day_of.cost)) }
                    } } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(day: &str, cost: &str) -> UsageRow {
        let cost_usd = cost.parse().unwrap();
        UsageRow { day: Some(day.parse().unwrap()), requests: 2, cost_usd, ..UsageRow::default() }
    }

    #[test]
    fn thirty_days_end_today() {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        assert_eq!(first_day(now).to_string(), "2026-01-31T00:00:00Z");
        let chart = Chart::new(&[used("2026-02-28T00:00:00Z", "3"), used("2026-03-01T00:00:00Z", "1.5")], now);
        assert_eq!(chart.days.len(), DAYS);
        assert_eq!((chart.requests(), chart.cost().to_string().as_str()), (4, "4.5"));
        let drawn = figure(&chart).into_string();
        assert_eq!(drawn.matches("<rect").count(), DAYS);
        assert!(drawn.contains("y=\"500\" height=\"500\""), "{drawn}");
        assert!(drawn.contains("at most $3.00 on 2026-02-28"), "{drawn}");
    }

    #[test]
    fn bars_are_as_tall_as_they_are_much() {
        for (value, most, tall) in
            [(0, 0, 0), (0, 5, 0), (5, 5, HEIGHT), (1, 1_000_000, 10), (i64::MAX, i64::MAX, HEIGHT)]
        {
            assert_eq!(scaled(value, most), tall);
        }
    }
}
