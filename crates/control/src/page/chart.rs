//! Usage by day, drawn: cost, requests and tokens, each with its sum.

use jiff::{Timestamp, ToSpan};
use keymeter_core::money::Usd;
use maud::{Markup, html};

use super::words::{cents, count, day, money, number};
use crate::store::usage::UsageRow;

const SECONDS: i64 = 24 * 3600;

/// Units of a drawing: a day's width, and the height of all.
const WIDTH: usize = 10;
const HEIGHT: i64 = 1000;

/// Days in a row, with nothing on those on which nothing was used.
pub struct Chart {
    days: Vec<Day>,
}

#[derive(Clone, Copy)]
struct Day {
    start: Timestamp,
    requests: i64,
    input: i64,
    output: i64,
    cost: Usd,
}

/// The beginning of the first of the days that end with today, of UTC.
pub fn first_day(now: Timestamp, days: usize) -> Timestamp {
    let today = now.as_second().div_euclid(SECONDS) * SECONDS;
    let before = SECONDS.saturating_mul(i64::try_from(days.saturating_sub(1)).unwrap_or(i64::MAX));
    Timestamp::from_second(today.saturating_sub(before)).unwrap_or(Timestamp::MIN)
}

impl Chart {
    /// Of the sums of days.
    pub fn new(rows: &[UsageRow], days: usize, now: Timestamp) -> Self {
        let starts = std::iter::successors(Some(first_day(now, days)), |day| day.checked_add(24.hours()).ok());
        let of = |start| {
            let row = rows.iter().find(|row| row.day == Some(start));
            let input = row.map_or([0; 3], |row| [row.input_tokens, row.cached_input_tokens, row.cache_write_tokens]);
            Day {
                start,
                requests: row.map_or(0, |row| row.requests),
                input: input.into_iter().fold(0, i64::saturating_add),
                output: row.map_or(0, |row| row.output_tokens),
                cost: row.map_or(Usd::ZERO, |row| row.cost_usd),
            }
        };
        Self { days: starts.take(days).map(of).collect() }
    }

    fn sum(&self, of: impl Fn(&Day) -> i64) -> i64 {
        self.days.iter().map(of).fold(0, i64::saturating_add)
    }

    fn cost(&self) -> Usd {
        self.days.iter().fold(Usd::ZERO, |sum, day| sum.saturating_add(day.cost))
    }
}

impl Day {
    fn tokens(&self) -> i64 {
        self.input.saturating_add(self.output)
    }
}

/// What each day cost, its requests and its tokens, side by side.
pub fn figures(chart: &Chart) -> Markup {
    let requests = chart.sum(|day| day.requests);
    if requests == 0 {
        return html! {
            div.empty {
                p { strong { "Nothing was used." } }
                p { "What requests used is here as soon as a gateway has sent its records, within seconds of their end." }
            }
        };
    }
    let (input, output) = (chart.sum(|day| day.input), chart.sum(|day| day.output));
    html! {
        div.figures {
            (figure(chart, "Cost", &money(chart.cost()), "", |day| (day.cost.nanos(), cents(day.cost))))
            (figure(chart, "Requests", &html! { (number(requests)) }, "", |day| {
                (day.requests, count(day.requests, "request", "requests"))
            }))
            (figure(
                chart, "Tokens", &html! { (number(input.saturating_add(output))) },
                &format!("{} in, {} out", number(input), number(output)),
                |day| (day.tokens(), count(day.tokens(), "token", "tokens")),
            ))
        }
    }
}

fn figure(chart: &Chart, name: &str, sum: &Markup, parts: &str, of: impl Fn(&Day) -> (i64, String)) -> Markup {
    let most = chart.days.iter().max_by_key(|day| of(day).0);
    let (Some(first), Some(last), Some(most)) = (chart.days.first(), chart.days.last(), most) else {
        return html! {};
    };
    let (height, words) = of(most);
    let told = format!(
        "{name} a day from {} to {}: at most {words} on {}",
        day(first.start),
        day(last.start),
        day(most.start)
    );
    html! {
        figure {
            figcaption {
                span.name { (name) } strong.sum { (sum) }
                span.faint { @if parts.is_empty() { "at most " (words) " on " (day(most.start)) } @else { (parts) } }
            }
            svg role="img" aria-label=(told)
                viewBox=(format!("0 0 {} {HEIGHT}", chart.days.len() * WIDTH)) preserveAspectRatio="none" {
                @for (index, day_of) in chart.days.iter().enumerate() {
                    @let (value, words) = of(day_of);
                    @let tall = scaled(value, height);
                    rect class="day" x=(index * WIDTH + 1) width=(WIDTH - 2) y=(HEIGHT - tall) height=(tall) {
                        title { (day(day_of.start)) ": " (words) }
                    }
                }
            }
            p.ends aria-hidden="true" { span { (day(first.start)) } span { (day(last.start)) } }
        }
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
        assert_eq!(first_day(now, 30).to_string(), "2026-01-31T00:00:00Z");
        let rows = [used("2026-02-28T00:00:00Z", "3"), used("2026-03-01T00:00:00Z", "1.5")];
        let chart = Chart::new(&rows, 30, now);
        assert_eq!(chart.days.len(), 30);
        assert_eq!((chart.sum(|day| day.requests), chart.cost().to_string().as_str()), (4, "4.5"));
        let drawn = figures(&chart).into_string();
        assert_eq!(drawn.matches("<rect").count(), 3 * 30);
        assert!(drawn.contains("y=\"500\" height=\"500\""), "{drawn}");
        assert!(drawn.contains("at most $3.00 on 2026-02-28"), "{drawn}");
        assert_eq!(figures(&Chart::new(&rows, 365, now)).into_string().matches("<rect").count(), 3 * 365);
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
