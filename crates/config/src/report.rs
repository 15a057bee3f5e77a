//! Errors of a file with their places. All errors of one reading are collected, so that one run reports every one of
//! them.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::yaml::{Mark, Marks, PathStep, SyntaxError};

/// One thing that is wrong with a file, as `file:line:column: what is wrong, and what is accepted`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
#[error("{}:{line}:{column}: {message}", file.display())]
pub struct ConfigError {
    /// The file as it was named.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong there, and what to write instead. Never a secret.
    pub message: String,
}

impl ConfigError {
    /// A fault of a file as a whole.
    #[must_use]
    pub fn of_file(file: &Path, message: String) -> Self {
        Self { file: file.to_owned(), line: 1, column: 1, message }
    }

    pub(super) fn of_syntax(file: &Path, error: SyntaxError) -> Self {
        Self { file: file.to_owned(), line: error.line, column: error.column, message: error.message }
    }
}

/// One thing that is wrong with a value that stands in no file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{message}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct FieldError {
    /// Where in it, as `quotas[0].per`; empty where all of it is meant.
    pub field: String,
    /// What is wrong there, and what to write instead.
    pub message: String,
}

/// The faults that were found in one file so far.
pub(super) struct Report<'a> {
    file: &'a Path,
    marks: &'a Marks,
    faults: RefCell<Vec<ConfigError>>,
    first: RefCell<Option<FieldError>>,
    /// Values that were faulty and were taken out, so that the rest could be looked at.
    dropped: RefCell<BTreeSet<Vec<PathStep>>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a Path, marks: &'a Marks) -> Self {
        Self { file, marks, faults: RefCell::default(), first: RefCell::default(), dropped: RefCell::default() }
    }

    /// The top of the file.
    pub(super) fn root(&self) -> Place<'_> {
        Place { report: self, path: Vec::new() }
    }

    /// Whether any fault was found.
    pub(super) fn has_faults(&self) -> bool {
        !self.faults.borrow().is_empty()
    }

    /// The faults in the order of the file.
    pub(super) fn into_faults(self) -> Vec<ConfigError> {
        let mut faults = self.faults.into_inner();
        faults.sort();
        faults.dedup();
        faults
    }

    /// The fault that was found first.
    pub(super) fn into_first(self) -> Option<FieldError> {
        self.first.into_inner()
    }
}

/// A place in a file, for which faults can be reported.
#[derive(Clone)]
pub(super) struct Place<'a> {
    report: &'a Report<'a>,
    path: Vec<PathStep>,
}

impl Place<'_> {
    /// The field of that name.
    pub(super) fn field(&self, name: &str) -> Self {
        self.step(PathStep::Key(name.to_owned()))
    }

    /// The element, counted from 0.
    pub(super) fn element(&self, index: usize) -> Self {
        self.step(PathStep::Index(index))
    }

    pub(super) fn step(&self, step: PathStep) -> Self {
        let mut path = self.path.clone();
        path.push(step);
        Self { report: self.report, path }
    }

    /// Reports a fault of the value that stands here or, where nothing does, of what it belongs to.
    pub(super) fn error(&self, message: impl Into<String>) {
        self.add(self.mark(), message.into());
    }

    /// Reports a fault of the name of the field here.
    pub(super) fn fault_of_name(&self, message: impl Into<String>) {
        let mark = self.report.marks.locate_key(&self.path).unwrap_or_else(|| self.mark());
        self.add(mark, message.into());
    }

    /// Reports the value here as faulty and remembers that it is taken out.
    pub(super) fn drop_with(&self, message: impl Into<String>) {
        self.error(message);
        self.report.dropped.borrow_mut().insert(self.path.clone());
    }

    /// The value of a required field; reports that it is missing, unless it was there and faulty.
    pub(super) fn required<T>(&self, name: &str, value: Option<T>, what: &str) -> Option<T> {
        if value.is_none() && !self.dropped(name) {
            self.error(format!("missing field `{name}`{}: {what}", self.inside()));
        }
        value
    }

    /// The elements of the list here with their places; reports those that were left empty.
    pub(super) fn elements<T>(&self, list: Vec<Option<T>>) -> Vec<(Self, T)> {
        let placed = list.into_iter().enumerate().map(|(index, element)| (self.element(index), element));
        let filled = placed.filter_map(|(place, element)| {
            if element.is_none() && !place.was_dropped() {
                place.error("the element has no value");
            }
            element.map(|element| (place, element))
        });
        filled.collect()
    }

    /// ` in server.tls`, or nothing at the top of the file.
    pub(super) fn inside(&self) -> String {
        let name = self.to_string();
        if name.is_empty() { name } else { format!(" in {name}") }
    }

    /// The line on which the value stands.
    pub(super) fn line(&self) -> usize {
        self.mark().line
    }

    /// Whether the field was there and taken out as faulty.
    pub(super) fn dropped(&self, name: &str) -> bool {
        self.field(name).was_dropped()
    }

    /// Whether the value here was taken out as faulty.
    pub(super) fn was_dropped(&self) -> bool {
        self.report.dropped.borrow().contains(&self.path)
    }

    fn mark(&self) -> Mark {
        let nearest = (0..=self.path.len()).rev().filter_map(|length| self.path.get(..length));
        let mut marks = nearest.filter_map(|path| self.report.marks.locate(path));
        marks.next().unwrap_or(Mark { offset: 0, line: 1, column: 1 })
    }

    fn add(&self, mark: Mark, message: String) {
        let first = || FieldError { field: self.to_string(), message: message.clone() };
        self.report.first.borrow_mut().get_or_insert_with(first);
        let error = ConfigError { file: self.report.file.to_owned(), line: mark.line, column: mark.column, message };
        self.report.faults.borrow_mut().push(error);
    }
}

/// As in `server.tls` and `upstreams[0].url`.
impl fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.path.iter().enumerate() {
            match step {
                PathStep::Key(name) if depth == 0 => formatter.write_str(name)?,
                PathStep::Key(name) => write!(formatter, ".{name}")?,
                PathStep::Index(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}
