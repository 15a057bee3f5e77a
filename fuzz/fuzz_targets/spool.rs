//! A journal's segment: whatever stands in it, reading ends where no whole frame stands, and nothing before that is lost.

#![no_main]

use keymeter::journal::frame::{framed, frames};
use keymeter_core::record::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut reader = frames(data);
    let read: Vec<u8> = reader.by_ref().filter_map(framed).flatten().collect();
    assert_eq!(data.get(..reader.read()), Some(&*read), "what was read is what stands there");

    let Some((cut, rest)) = data.split_first_chunk::<2>() else { return };
    let payloads: Vec<&[u8]> = rest.split(|byte| *byte == 0).filter(|payload| !payload.is_empty()).collect();
    let mut written = Vec::new();
    let mut ends = Vec::new();
    for payload in &payloads {
        written.extend(framed(payload).unwrap_or_default());
        ends.push(written.len());
    }
    written.truncate(usize::from(u16::from_le_bytes(*cut)) % (written.len() + 1));
    let whole = ends.iter().filter(|end| **end <= written.len()).count();
    assert!(frames(&written).eq(payloads.iter().copied().take(whole)), "truncated to {}", written.len());
    written.extend([0; 64]);
    assert!(frames(&written).eq(payloads.iter().copied().take(whole)), "with the room behind it");

    if let Ok(record) = Record::parse(rest) {
        assert_eq!(Record::parse(&record.to_json()), Ok(record));
    }
});
