//! A disk that fills.

use super::*;

/// The path of a small file system of its own, for the process that this test starts within it.
const SMALL_DISK: &str = "KEYMETER_TEST_SMALL_DISK";

/// Runs this test in a process of its own with a file system of 32 MiB that nobody else sees.
#[test]
fn a_full_disk_stops_new_requests_and_loses_nothing() {
    if let Some(disk) = std::env::var_os(SMALL_DISK) {
        return fill_and_free(Path::new(&disk));
    }
    let disk = tempfile::tempdir().unwrap();
    let test = "limits::store::tests::disk::a_full_disk_stops_new_requests_and_loses_nothing";
    let script = r#"mount -t tmpfs -o size=32m none "$0" && exec "$1" --exact "$2" --nocapture"#;
    let binary = std::env::current_exe().unwrap();
    let mut process = Command::new("unshare");
    process.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(disk.path()).arg(binary).arg(test);
    let output = process.env(SMALL_DISK, disk.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn fill_and_free(disk: &Path) {
    let root = disk.join("limits");
    let store = QuotaStore::open(&root, now()).unwrap();
    assert!(store.has_room());
    let ballast = disk.join("ballast");
    fill(&ballast);
    wait_for("no room is left", || !store.has_room());

    // What runs is still written: its room was taken beforehand.
    let used = of("tokens_per_day", 1);
    let mut appended = 0_u64;
    let held = loop {
        let written = store.append(&[Kept { id: "key_a", used: &used }]);
        appended += 1;
        match written {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(appended > 20_000, "{appended} requests had room");
    assert!(matches!(&held, StoreError::Append(AppendError::Held(_))), "{held}");
    assert!(Lock::take(&root).unwrap().is_some_and(|lock| store.replace_snapshot(&lock, now()).is_err()));

    fs::remove_file(&ballast).unwrap();
    wait_for("there is room again", || store.has_room());
    assert_eq!(store.journal.written(), appended, "what was held is written");
    assert!(compact(&store, now()));
    kill(store);
    assert_eq!(restored(&QuotaStore::open(&root, now()).unwrap(), "key_a"), appended);
}

/// Takes all the room that there is.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = File::create(path).unwrap();
    for size in [1024 * 1024, 4096] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}
