//! The records that the accounting service refuses for good: in a file beside the outboxes, where an operator finds them.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde_json::json;

/// The file of a ledger's refused records. Several gateways may add to it.
pub(super) struct RefusedRecords {
    path: PathBuf,
    /// How large it may become.
    most: u64,
}

/// A record that is refused, and why.
pub(super) struct RefusedRecord<'record> {
    pub json: &'record [u8],
    pub why: &'record str,
}

/// Whether records could be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// They are on the disk.
    OnDisk,
    /// The file is as large as it may be.
    Full,
}

/// Some 100,000 records. So many need an operator, and more would fill the disk.
const MOST: u64 = 64 << 20;

/// The longest reason, in characters. The service chooses its text.
const LONGEST_REASON: usize = 512;

impl RefusedRecords {
    /// The refused records of the ledger in `directory`.
    pub(super) fn new(directory: &Path) -> Self {
        Self { path: directory.join("refused.jsonl"), most: MOST }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds records. They are on the disk when this returns, unless the file is full.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn add(&self, records: &[RefusedRecord<'_>]) -> io::Result<Kept> {
        let mut file = self.open()?;
        let length = file.metadata()?.len();
        let mut lines = Vec::new();
        if !ends_a_line(&file, length)? {
            // An earlier record was not written to its end.
            lines.push(b'\n');
        }
        for RefusedRecord { json, why } in records {
            let record = serde_json::from_slice(json);
            let record = record.unwrap_or_else(|_| serde_json::Value::from(String::from_utf8_lossy(json)));
            let why: String = why.chars().take(LONGEST_REASON).collect();
            lines.extend_from_slice(json!({"refused": why, "record": record}).to_string().as_bytes());
            lines.push(b'\n');
        }
        if length + lines.len() as u64 > self.most {
            return Ok(Kept::Full);
        }
        file.write_all(&lines)?;
        file.sync_data()?;
        Ok(Kept::OnDisk)
    }

    /// Opens the file, which only its owner may read: records tell who asked for what.
    fn open(&self) -> io::Result<File> {
        const PRIVATE: u32 = 0o600;
        let is_new = !self.path.exists();
        let file = OpenOptions::new().read(true).append(true).create(true).mode(PRIVATE).open(&self.path)?;
        if file.metadata()?.permissions().mode() & 0o777 != PRIVATE {
            file.set_permissions(Permissions::from_mode(PRIVATE))?;
        }
        if is_new && let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(file)
    }
}

fn ends_a_line(file: &File, length: u64) -> io::Result<bool> {
    let mut last = *b"\n";
    if let Some(place) = length.checked_sub(1) {
        file.read_exact_at(&mut last, place)?;
    }
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn add(records: &RefusedRecords, json: &[&[u8]]) -> Kept {
        let refused: Vec<_> = json.iter().map(|json| RefusedRecord { json, why: "no\u{0}" }).collect();
        records.add(&refused).unwrap()
    }

    #[test]
    fn records_are_kept_for_nobody_else_and_no_more_than_fit() {
        let directory = tempfile::tempdir().unwrap();
        let records = RefusedRecords { most: 300, ..RefusedRecords::new(directory.path()) };
        std::fs::write(records.path(), "{\"half\":").unwrap();
        std::fs::set_permissions(records.path(), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(add(&records, &[br#"{"model":"m\u0000"}"#, b"no JSON \xff"]), Kept::OnDisk);
        assert_eq!(std::fs::metadata(records.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(records.path()).unwrap();
        let lines: Vec<Value> = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
        let record = |record: Value| json!({"refused": "no\u{0}", "record": record});
        assert_eq!(lines, [record(json!({"model": "m\u{0}"})), record(json!("no JSON \u{fffd}"))]);
        assert_eq!(add(&records, &[&[b'a'; 400]]), Kept::Full);
        assert_eq!(add(&records, &[b"1"]), Kept::OnDisk, "one that fits goes on");
        assert!(std::fs::metadata(records.path()).unwrap().len() <= 300);
    }
}
