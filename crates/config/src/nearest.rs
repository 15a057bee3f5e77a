//! The accepted name that is closest to a misspelled one.

/// ` did you mean x?` where a name is close, and the list of what is accepted.
pub(super) fn suggestion(written: &str, accepted: &[&str]) -> String {
    let meant = nearest(written, accepted).map(|name| format!(" did you mean `{name}`?")).unwrap_or_default();
    format!("{meant} accepted: {}", accepted.join(", "))
}

/// The accepted name with the fewest edits from what is written, if these are few for its length.
fn nearest<'a>(written: &str, accepted: &[&'a str]) -> Option<&'a str> {
    let written = written.to_lowercase();
    let distances = accepted.iter().map(|name| (distance(&written, name), *name));
    let (edits, name) = distances.min_by_key(|(edits, _)| *edits)?;
    (edits <= (name.len() / 3).max(1)).then_some(name)
}

/// How many characters must be inserted, deleted or replaced to get from one text to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (line, left) in from.chars().enumerate() {
        let mut diagonal = line;
        let mut previous = line + 1;
        for (cell, right) in row.iter_mut().zip(std::iter::once(None).chain(to.chars().map(Some))) {
            let Some(right) = right else {
                *cell = previous;
                continue;
            };
            let edited = diagonal + usize::from(left != right);
            diagonal = *cell;
            previous = edited.min(*cell + 1).min(previous + 1);
            *cell = previous;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_levenshtein() {
        let expected =
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("listen", "lissten", 1)];
        for (from, to, edits) in expected {
            assert_eq!((distance(from, to), distance(to, from)), (edits, edits), "{from} {to}");
        }
    }

    #[test]
    fn a_name_is_suggested_only_where_it_is_close() {
        let accepted = ["listen", "tls", "threads"];
        assert_eq!(nearest("lissten", &accepted), Some("listen"));
        assert_eq!(nearest("Threads", &accepted), Some("threads"));
        assert_eq!(nearest("tlss", &accepted), Some("tls"));
        assert_eq!(nearest("on_client_abort", &accepted), None);
        assert_eq!(nearest("x", &[]), None);
        assert_eq!(suggestion("lisen", &accepted), " did you mean `listen`? accepted: listen, tls, threads");
        assert_eq!(suggestion("x", &accepted), " accepted: listen, tls, threads");
    }
}
