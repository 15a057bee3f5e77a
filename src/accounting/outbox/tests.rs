//! The outbox on a real disk: what comes back after a process is gone, and what happens when the disk is full.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use keymeter_core::record::any::any_record;
use proptest::prelude::*;

use super::*;
use crate::journal::segment;

fn example(id: &str) -> Record {
    let json = format!(
        r#"{{"id":"{id}","gateway":"00000000000000ff","time":"2026-07-01T12:00:00Z","key_id":"key_a",
        "key_name":"Some key","model":"llama-3","input_tokens":1,"cached_input_tokens":0,"cache_write_tokens":0,
        "output_tokens":1,"reasoning_tokens":0,"cost_usd":"0.1","status":200,"usage_source":"upstream"}}"#
    );
    Record::parse(json.as_bytes()).unwrap()
}

fn session() -> Session {
    Session::generate().unwrap()
}

fn ids(batch: &Batch) -> Vec<String> {
    batch.payloads.iter().map(|json| Record::parse(json).unwrap().id.to_string()).collect()
}

/// Leaves the outbox as a killed process does: its lock is free, and nothing is tidied up.
fn kill(outbox: Outbox) {
    let path = outbox.journal.directory().to_owned();
    let copy = path.with_extension("copy");
    assert!(Command::new("cp").arg("-a").args([&path, &copy]).status().unwrap().success());
    drop(outbox);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::rename(&copy, &path).unwrap();
}

fn drained(mut orphan: Orphan) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let batch = orphan.next(500).unwrap();
        if batch.payloads.is_empty() {
            orphan.close();
            return all;
        }
        all.extend(ids(&batch));
        orphan.acknowledge(&batch).unwrap();
    }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn records_are_read_in_their_order_and_once() {
    let root = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(root.path(), &session()).unwrap();
    let mut reader = outbox.reader();
    assert!(outbox.has_room());
    assert!(reader.next(10).unwrap().payloads.is_empty());
    for id in ["a", "b", "c"] {
        outbox.append(&example(id)).unwrap();
    }
    let first = reader.next(2).unwrap();
    assert_eq!((ids(&first), outbox.pending()), (vec!["a".into(), "b".into()], 3));
    reader.acknowledge(&first).unwrap();
    assert_eq!((ids(&reader.next(2).unwrap()), outbox.pending()), (vec!["c".into()], 1));
    assert!(reader.next(2).unwrap().payloads.is_empty());
}

#[test]
fn a_process_that_ends_with_nothing_to_send_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(root.path(), &session()).unwrap();
    outbox.append(&example("a")).unwrap();
    let mut reader = outbox.reader();
    let batch = reader.next(1).unwrap();
    reader.acknowledge(&batch).unwrap();
    drop((reader, outbox));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn what_a_killed_process_left_is_adopted_by_one() {
    let root = tempfile::tempdir().unwrap();
    let killed = Outbox::open(root.path(), &session()).unwrap();
    for id in ["a", "b", "c", "d"] {
        killed.append(&example(id)).unwrap();
    }
    let mut reader = killed.reader();
    let batch = reader.next(1).unwrap();
    reader.acknowledge(&batch).unwrap();
    drop(reader);
    let next = Outbox::open(root.path(), &session()).unwrap();
    assert!(next.adopt().unwrap().is_empty(), "it lives");
    kill(killed);

    let mut orphans = next.adopt().unwrap();
    assert_eq!(orphans.len(), 1);
    assert!(next.adopt().unwrap().is_empty(), "it is somebody's");
    let mut orphan = orphans.remove(0);
    assert_eq!(orphan.count(), 3);
    let batch = orphan.next(1).unwrap();
    assert_eq!(ids(&batch), ["b"]);
    orphan.acknowledge(&batch).unwrap();
    // Whoever adopted it is killed, too.
    drop(orphan);
    let orphan = next.adopt().unwrap().remove(0);
    assert_eq!(drained(orphan), ["c", "d"]);
    assert!(next.adopt().unwrap().is_empty(), "it is gone");
    drop(next);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_lost_cursor_sends_again_and_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    for text in [None, Some(""), Some("1"), Some("1 999999999999"), Some("x 8\n"), Some("1 3\n")] {
        let outbox = Outbox::open(root.path(), &session()).unwrap();
        outbox.append(&example("a")).unwrap();
        let path = outbox.journal.directory().to_owned();
        kill(outbox);
        if let Some(text) = text {
            fs::write(path.join("cursor"), text).unwrap();
        }
        let orphan = adopt_one(root.path());
        assert_eq!(drained(orphan), ["a"], "{text:?}");
    }
}

fn adopt_one(root: &Path) -> Orphan {
    let mut orphans = orphan::adopt(root).unwrap();
    assert_eq!(orphans.len(), 1);
    orphans.remove(0)
}

#[test]
fn segments_follow_each_other_and_go_when_all_in_them_is_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(root.path(), &session()).unwrap();
    let path = outbox.journal.directory().to_owned();
    let segments = || {
        fs::read_dir(&path)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "segment"))
            .count()
    };
    let record = Record { model: "m".repeat(120).into(), ..example("a") };
    let count = 3 * usize::try_from(segment::SIZE).unwrap() / record.to_json().len();
    for at in 0..count {
        outbox.append(&Record { id: format!("r{at}").parse().unwrap(), ..record.clone() }).unwrap();
    }
    assert!(segments() >= 4, "{}", segments());
    assert_eq!(outbox.pending(), count as u64);
    let mut reader = outbox.reader();
    let mut seen = Vec::new();
    while seen.len() < count {
        let batch = reader.next(500).unwrap();
        seen.extend(ids(&batch));
        reader.acknowledge(&batch).unwrap();
    }
    assert!(seen.iter().enumerate().all(|(at, id)| *id == format!("r{at}")));
    wait_for("one to write to, and a spare one", || segments() == 2);
}

#[test]
fn many_threads_append_and_nothing_is_lost_or_torn() {
    let root = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(root.path(), &session()).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let outbox = &outbox;
            scope.spawn(move || (0..500).for_each(|at| outbox.append(&example(&format!("{thread}-{at}"))).unwrap()));
        }
    });
    kill(outbox);
    let mut all = drained(adopt_one(root.path()));
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2000);
}

#[test]
fn what_cannot_be_read_is_put_aside_and_not_deleted() {
    let root = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(root.path(), &session()).unwrap();
    for id in ["a", "b", "c"] {
        outbox.append(&example(id)).unwrap();
    }
    let path = segment::path(outbox.journal.directory(), 1);
    kill(outbox);
    let mut bytes = fs::read(&path).unwrap();
    let length = example("a").to_json().len() + 8;
    bytes[8 + length + 20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(drained(adopt_one(root.path())), ["a"]);
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].extension().unwrap(), "damaged");
    assert!(fs::read(&left[0]).unwrap() == bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn an_outbox_reads_back_from_any_truncation(
        records in prop::collection::vec(any_record(), 1..20), cut: prop::sample::Index,
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let root = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(root.path(), &session()).unwrap();
        for record in &records {
            outbox.append(record).unwrap();
        }
        let path = segment::path(outbox.journal.directory(), 1);
        let end = usize::try_from(outbox.journal.end().unwrap().offset).unwrap();
        kill(outbox);
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(cut.index(end + 1));
        let ends = records.iter().scan(8, |end, record| {
            *end += record.to_json().len() + 8;
            Some(*end)
        });
        let whole = ends.take_while(|end| *end <= bytes.len()).count();
        let expected: Vec<_> = records.iter().take(whole).map(|record| record.id.to_string()).collect();
        bytes.extend(&tail);
        fs::write(&path, &bytes).unwrap();
        let seen = drained(adopt_one(root.path()));
        prop_assert_eq!(seen, expected);
    }
}

/// The path of a small file system of its own, for the process that this test starts within it.
const SMALL_DISK: &str = "KEYMETER_TEST_SMALL_DISK";

/// Runs this test in a process of its own with a file system of 32 MiB that nobody else sees.
#[test]
fn a_full_disk_stops_new_work_and_loses_nothing() {
    if let Some(disk) = std::env::var_os(SMALL_DISK) {
        return fill_and_free(Path::new(&disk));
    }
    let disk = tempfile::tempdir().unwrap();
    let test = "accounting::outbox::tests::a_full_disk_stops_new_work_and_loses_nothing";
    let script = r#"mount -t tmpfs -o size=32m none "$0" && exec "$1" --exact "$2" --nocapture"#;
    let binary = std::env::current_exe().unwrap();
    let mut process = Command::new("unshare");
    process.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(disk.path()).arg(binary).arg(test);
    let output = process.env(SMALL_DISK, disk.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

fn fill_and_free(disk: &Path) {
    let outbox = Outbox::open(&disk.join("spool"), &session()).unwrap();
    assert!(outbox.has_room());
    let ballast = disk.join("ballast");
    let start = Instant::now();
    fill(&ballast);
    wait_for("no room is left", || !outbox.has_room());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    // What runs is still written: its room was taken beforehand.
    let mut ids = Vec::new();
    let held = loop {
        let id = format!("r{}", ids.len());
        let written = outbox.append(&example(&id));
        ids.push(id);
        match written {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(ids.len() > 20_000, "{} records had room", ids.len());
    assert!(matches!(&held, OutboxError::Held(error) if error.kind() == io::ErrorKind::StorageFull), "{held}");
    assert_eq!(outbox.pending(), ids.len() as u64 - 1);

    fs::remove_file(&ballast).unwrap();
    wait_for("there is room again", || outbox.has_room());
    assert_eq!(outbox.pending(), ids.len() as u64, "what was held is written");
    ids.push("last".to_owned());
    outbox.append(&example("last")).unwrap();
    let mut reader = outbox.reader();
    let mut seen = Vec::new();
    while seen.len() < ids.len() {
        let batch = reader.next(500).unwrap();
        assert!(!batch.payloads.is_empty());
        seen.extend(self::ids(&batch));
        reader.acknowledge(&batch).unwrap();
    }
    assert_eq!(seen, ids);
}

/// Takes all the room that there is.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    for size in [1024 * 1024, 4096] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn many_records_a_second_are_no_full_disk() {
    let root = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(root.path(), &session()).unwrap();
    let record = example("req_many");
    // Whoever appends is now and then a segment ahead of whoever puts segments on the disk.
    for number in 0..120_000 {
        outbox.append(&record).unwrap();
        assert!(outbox.has_room(), "after {number} records");
    }
}
