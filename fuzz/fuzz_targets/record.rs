//! What a key service answers and tells: records, wallets, changes. It is trusted with keys and not with our lives.

#![no_main]

use keymeter::keys::push::parse_change;
use keymeter_config::keys::{parse_record, parse_wallet};
use keymeter_core::record::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok((record, word)) = parse_record(data) {
        assert!(word.is_none() || record.wallet.is_some(), "what is said of a wallet is said of the key's");
    }
    if let Ok(value) = serde_json::from_slice(data) {
        drop(parse_wallet(value));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        drop(parse_change(text));
    }
    if let Ok(record) = Record::parse(data) {
        assert_eq!(Record::parse(&record.to_json()), Ok(record));
    }
});
