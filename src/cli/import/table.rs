//! Tables of another gateway's database, as PostgreSQL writes them in CSV: by psql's `\copy`, or by the same command of ours.

use std::{collections::HashMap, fs, path::Path};

use jiff::{Timestamp, civil, tz::TimeZone};
use keymeter_core::clock::moment;

use super::{ImportError, database};

/// A table, row by row.
#[derive(Debug, Default)]
pub(super) struct Table {
    columns: HashMap<String, usize>,
    rows: Vec<csv::StringRecord>,
}

/// One row of a table.
#[derive(Clone, Copy)]
pub(super) struct TableRow<'table> {
    table: &'table Table,
    fields: &'table csv::StringRecord,
    /// Its line in the dump, for people.
    pub(super) number: usize,
}

impl Table {
    /// The table `name`, which has the column `column`, in a dump, or where there is none in the database of the environment.
    pub(super) fn read(dump: Option<&Path>, name: &'static str, column: &str) -> Result<Self, ImportError> {
        match dump {
            Some(path) => {
                let bytes = fs::read(path).map_err(|error| ImportError::Unreadable(path.to_owned(), error))?;
                Self::checked(&bytes, path.display().to_string(), name, column)
            }
            None => Self::in_database(name, column)?
                .ok_or_else(|| ImportError::Database(format!("it has no table \"{name}\""))),
        }
    }

    /// The same of a table that may be left out: beside a `dump` of another it is in a dump of its own, or not there.
    pub(super) fn read_beside(
        dump: Option<&Path>,
        own: Option<&Path>,
        name: &'static str,
        column: &str,
    ) -> Result<Option<Self>, ImportError> {
        match (dump, own) {
            (_, Some(own)) => Self::read(Some(own), name, column).map(Some),
            (Some(_), None) => Ok(None),
            (None, None) => Self::in_database(name, column),
        }
    }

    fn in_database(name: &'static str, column: &str) -> Result<Option<Self>, ImportError> {
        let bytes = database::copy(name)?;
        bytes.map(|bytes| Self::checked(&bytes, format!("the table {name}"), name, column)).transpose()
    }

    fn checked(bytes: &[u8], from: String, name: &'static str, column: &str) -> Result<Self, ImportError> {
        match Self::parse(bytes) {
            Ok(table) if table.columns.contains_key(column) => Ok(table),
            Ok(_) => Err(ImportError::Dump(from, format!("it has no column `{column}`"), name)),
            Err(error) => Err(ImportError::Dump(from, error.to_string(), name)),
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, csv::Error> {
        let mut reader = csv::Reader::from_reader(bytes);
        let columns = reader.headers()?.iter().enumerate().map(|(place, name)| (name.to_owned(), place)).collect();
        Ok(Self { columns, rows: reader.into_records().collect::<Result<_, _>>()? })
    }

    /// The rows, counted as the lines of a dump whose first one has the names.
    pub(super) fn rows(&self) -> impl Iterator<Item = TableRow<'_>> {
        self.rows.iter().zip(2..).map(|(fields, number)| TableRow { table: self, fields, number })
    }
}

impl<'table> TableRow<'table> {
    /// What stands in a column, if anything does.
    pub(super) fn text(&self, column: &str) -> Option<&'table str> {
        let place = *self.table.columns.get(column)?;
        self.fields.get(place).filter(|text| !text.is_empty())
    }

    /// Whether a column says yes, as PostgreSQL and MySQL write it.
    pub(super) fn flag(&self, column: &str) -> bool {
        self.text(column).is_some_and(|text| matches!(text, "t" | "true" | "TRUE" | "1"))
    }

    /// The whole number in a column. `Err`: there is something else.
    pub(super) fn number(&self, column: &'static str) -> Result<Option<i64>, String> {
        let Some(text) = self.text(column) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{column} `{text}` is no whole number"))
    }

    /// The texts of an array. `Err`: there is something else.
    pub(super) fn array(&self, column: &'static str) -> Result<Vec<String>, String> {
        let Some(text) = self.text(column) else { return Ok(Vec::new()) };
        array(text).ok_or_else(|| format!("{column} is no array"))
    }

    /// The moment in a column; without a zone it is of UTC. `Err`: there is something else.
    pub(super) fn moment(&self, column: &'static str) -> Result<Option<Timestamp>, String> {
        let Some(text) = self.text(column) else { return Ok(None) };
        date(text).map(Some).ok_or_else(|| format!("{column} `{text}` is no time"))
    }

    /// What a column of JSON holds besides nothing.
    pub(super) fn json(&self, column: &str) -> Option<serde_json::Value> {
        let value: serde_json::Value = serde_json::from_str(self.text(column)?).ok()?;
        let is_nothing = match &value {
            serde_json::Value::Null => true,
            serde_json::Value::Object(fields) => fields.is_empty(),
            serde_json::Value::Array(elements) => elements.is_empty(),
            _ => false,
        };
        (!is_nothing).then_some(value)
    }
}

/// An array as PostgreSQL writes it: `{a,"b c","d\"e",NULL}`.
fn array(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('{')?.strip_suffix('}')?.chars().peekable();
    let mut elements = Vec::new();
    while rest.peek().is_some() {
        let mut element = String::new();
        let is_quoted = rest.next_if_eq(&'"').is_some();
        loop {
            match rest.next() {
                Some('\\') => element.push(rest.next()?),
                Some('"') if is_quoted => {
                    rest.next_if_eq(&',');
                    break;
                }
                None if is_quoted => return None,
                Some(',') if !is_quoted => break,
                None => break,
                Some(character) => element.push(character),
            }
        }
        if is_quoted || element != "NULL" {
            elements.push(element);
        }
    }
    Some(elements)
}

/// A time as PostgreSQL writes it, `2026-12-31 23:59:59.5` or with `+00` behind it, or as JSON does.
fn date(text: &str) -> Option<Timestamp> {
    if let Some(moment) = moment(text) {
        return Some(moment);
    }
    let with_t = text.replacen(' ', "T", 1);
    if let Ok(moment) = with_t.parse::<Timestamp>() {
        return Some(moment);
    }
    let moment: civil::DateTime = with_t.parse().ok()?;
    Some(moment.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn arrays_are_read_as_postgresql_writes_them() {
        for (text, expected) in [
            ("{}", vec![]),
            ("{a}", vec!["a"]),
            ("{a,b}", vec!["a", "b"]),
            (r#"{"a b","c,d","e\"f","g\\h",NULL,"NULL"}"#, vec!["a b", "c,d", "e\"f", "g\\h", "NULL"]),
            (r#"{""}"#, vec![""]),
        ] {
            assert_eq!(array(text).unwrap(), expected, "{text}");
        }
        for text in ["", "a", "{a", r#"{"a}"#, r#"{"a\"#] {
            assert_eq!(array(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_of_utc_unless_they_say_otherwise() {
        for (text, expected) in [
            ("2026-12-31 23:59:59.5", "2026-12-31T23:59:59.5Z"),
            ("2026-12-31 23:59:59+00", "2026-12-31T23:59:59Z"),
            ("2026-12-31 23:59:59.123+02", "2026-12-31T21:59:59.123Z"),
            ("2026-12-31T23:59:59Z", "2026-12-31T23:59:59Z"),
            ("2026-12-31T23:59:59", "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(date(text).map(|time| time.to_string()).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(date("soon"), None);
    }

    proptest! {
        #[test]
        fn every_array_reads_back(elements in prop::collection::vec("\\PC{0,8}|[a,\"\\\\{} ]{0,6}", 0..5)) {
            let quoted = elements.iter().map(|text| format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"")));
            let text = format!("{{{}}}", quoted.collect::<Vec<_>>().join(","));
            prop_assert_eq!(array(&text), Some(elements));
        }

        #[test]
        fn any_bytes_are_a_table_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(table) = Table::parse(&bytes) {
                for row in table.rows() {
                    let _ = (row.text("a"), row.array("b"), row.moment("c"), row.json("d"));
                }
            }
        }
    }
}
