//! A million keys.

use super::*;

/// What the process takes of memory, and the most that it took, in MiB.
fn memory() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// The processor's time that this process has taken, in milliseconds.
fn processor_time() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
}

/// Says how long opening takes for so many keys, and what memory: from journals, and from a snapshot. Each is measured in a process
/// of its own, since memory that was taken once stays.
#[test]
fn a_million_keys_are_opened_fast_and_take_little() {
    const MEASURED: &str = "KEYMETER_TEST_QUOTA_KEYS";
    if let Some(directory) = std::env::var_os(MEASURED) {
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let (before, start, worked) = (memory().0, Instant::now(), processor_time());
        let store = QuotaStore::open(Path::new(&directory), now()).unwrap();
        let (took, worked, (after, most)) = (start.elapsed(), processor_time() - worked, memory());
        let sample: u64 = (0..100).map(|number| restored(&store, &id(number * 7))).sum();
        println!(
            "opened in {took:?} ({worked} ms of work), {} MiB, {} MiB at most, sample {sample}",
            after - before,
            most - before
        );
        // The next measurement finds everything as this one did.
        return kill(store);
    }
    let is_soak = std::env::var_os("KEYMETER_SOAK").is_some();
    let keys = if is_soak { 1_000_000 } else { 20_000 };
    let root = tempfile::tempdir().unwrap();
    let store = QuotaStore::open(root.path(), now()).unwrap();
    for number in 0..keys {
        keep(&store, &id(number), &of("tokens_per_month", 12_345 + number));
    }
    kill(store);
    let open = |what: &str| {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", "limits::store::tests::scale::a_million_keys_are_opened_fast_and_take_little"]);
        let output = process.arg("--nocapture").env(MEASURED, root.path()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let line = said.lines().find_map(|line| line.find("opened").map(|at| line[at..].to_owned())).unwrap();
        println!("{keys} keys from {what}: {line}");
        assert!(line.ends_with(&format!("sample {}", 12_345 * 100 + 7 * 4950)), "{line}");
    };
    open("journals");
    let store = QuotaStore::open(root.path(), now()).unwrap();
    let start = Instant::now();
    assert!(compact(&store, now()));
    println!("compacted in {:?}: {} MiB", start.elapsed(), snapshot::size(root.path()) / 1024 / 1024);
    let start = Instant::now();
    (0..keys).for_each(|number| assert!(restored(&store, &id(number)) > 0));
    println!("restored one by one in {:?}", start.elapsed());
    kill(store);
    open("a snapshot");
}

fn id(number: u64) -> String {
    format!("key_{number:016x}")
}
