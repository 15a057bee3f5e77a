//! What a disk or a person made of the files.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

fn damaged(root: &Path) -> usize {
    let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().ends_with(".damaged")).count()
}

#[test]
fn files_that_are_something_else_stop_no_start() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("snapshot"), "something else").unwrap();
    fs::write(root.path().join("readme.txt"), "something else").unwrap();
    fs::write(root.path().join("0123456789abcdef"), "no directory").unwrap();
    fs::create_dir(root.path().join(".0123456789abcdef.new")).unwrap();
    fs::create_dir(root.path().join("fedcba9876543210")).unwrap();
    fs::write(root.path().join("fedcba9876543210").join("lock"), "").unwrap();
    for number in 1..4 {
        let path = segment::path(&root.path().join("fedcba9876543210"), number);
        fs::write(path, ["", "something else", "kmquota\u{1}and something else"][usize::try_from(number).unwrap() - 1])
            .unwrap();
    }
    let store = QuotaStore::open(root.path(), now()).unwrap();
    keep(&store, "key_a", &of("tokens_per_day", 5));
    assert!(!root.path().join(".0123456789abcdef.new").exists());
    kill(store);
    fs::remove_file(root.path().join("0123456789abcdef")).unwrap();
    let store = QuotaStore::open(root.path(), now()).unwrap();
    assert!(compact(&store, now()));
    assert_eq!(restored(&store, "key_a"), 5);
    assert_eq!(damaged(root.path()), 3, "two segments and the snapshot");
}

#[test]
fn a_store_that_cannot_be_is_told_of() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("limits");
    fs::write(&path, "").unwrap();
    let error = QuotaStore::open(&path, now()).err().unwrap().to_string();
    assert!(
        error.starts_with("cannot keep quotas in ") && error.ends_with("`limits.store` must be writable"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    /// A snapshot of which one byte is wrong, or that is cut, gives what stands before that, and nothing made up.
    #[test]
    fn a_damaged_snapshot_is_read_up_to_there(at: prop::sample::Index, mask in 0_u8..) {
        let root = tempfile::tempdir().unwrap();
        let store = QuotaStore::open(root.path(), now()).unwrap();
        for number in 0..2000 {
            keep(&store, &format!("key_{number:04}"), &of("tokens_per_day", 7));
        }
        kill(store);
        let store = QuotaStore::open(root.path(), now()).unwrap();
        assert!(compact(&store, now()));
        kill(store);
        let path = root.path().join("snapshot");
        let length = fs::metadata(&path).unwrap().len();
        let place = at.index(usize::try_from(length).unwrap()) as u64;
        let file = File::options().read(true).write(true).open(&path).unwrap();
        if mask == 0 {
            file.set_len(place).unwrap();
        } else {
            let mut byte = [0];
            file.read_exact_at(&mut byte, place).unwrap();
            file.write_all_at(&[byte[0] ^ mask], place).unwrap();
        }
        let store = QuotaStore::open(root.path(), now()).unwrap();
        assert!(compact(&store, now()));
        let left: Vec<_> = (0..2000).map(|number| restored(&store, &format!("key_{number:04}"))).collect();
        let whole = left.iter().take_while(|amount| **amount == 7).count();
        prop_assert!(left[whole..].iter().all(|amount| *amount == 0));
        prop_assert!(whole as u64 + 1 >= 2000 * place.saturating_sub(17 * 1024) / length, "{whole} of {place}");
        prop_assert_eq!(damaged(root.path()), 1);
        kill(store);
        let store = QuotaStore::open(root.path(), now()).unwrap();
        assert!(compact(&store, now()));
        prop_assert_eq!(damaged(root.path()), 1, "the new one is whole");
    }

    #[test]
    fn any_bytes_are_groups_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (name, uses) in uses::groups(&bytes) {
            let _ = uses::named(name);
            let whole = uses::merged(uses, &[], Timestamp::MIN);
            prop_assert!(uses::each(&whole).all(|used| used.name.to_string().parse() == Ok(used.name)));
            prop_assert_eq!(uses::merged(&whole, &[], Timestamp::MIN), whole);
        }
        prop_assert!(uses::each(&bytes).count() <= bytes.len());
    }
}
