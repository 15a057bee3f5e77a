use std::io::Write;

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const TEXT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one two \u{1f600}\"}}]}\n\n";

/// The ways to encode a body, one of them twice: as it is named, and as some send it under that name.
pub(crate) const WAYS: [(&str, ContentCoding); 5] = [
    ("gzip", ContentCoding::Gzip),
    ("deflate", ContentCoding::Deflate),
    ("deflate without zlib's header", ContentCoding::Deflate),
    ("br", ContentCoding::Brotli),
    ("zstd", ContentCoding::Zstd),
];

pub(crate) fn encoded(way: &str, plain: &[u8]) -> Vec<u8> {
    fn written<W: Write>(mut encoder: W, plain: &[u8]) -> W {
        // In two pieces, each of which can be read when it is there, as a server sends its events.
        let (one, other) = plain.split_at(plain.len() / 2);
        encoder.write_all(one).unwrap();
        encoder.flush().unwrap();
        encoder.write_all(other).unwrap();
        encoder
    }
    match way {
        "gzip" => written(GzEncoder::new(Vec::new(), Compression::default()), plain).finish().unwrap(),
        "deflate" => written(ZlibEncoder::new(Vec::new(), Compression::default()), plain).finish().unwrap(),
        "br" => {
            let mut bytes = Vec::new();
            drop(written(brotli::CompressorWriter::new(&mut bytes, 4096, 5, 22), plain));
            bytes
        }
        "zstd" => written(zstd::Encoder::new(Vec::new(), 3).unwrap(), plain).finish().unwrap(),
        _ => written(DeflateEncoder::new(Vec::new(), Compression::default()), plain).finish().unwrap(),
    }
}

/// What comes out of the pieces, whether that was all, and why no more came.
fn decoded<'a>(
    coding: ContentCoding,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, bool, Result<(), DecodeError>) {
    let mut decoder = Decoder::new(coding).unwrap();
    let mut given = Vec::new();
    let read = pieces.into_iter().try_for_each(|piece| decoder.feed(piece, |plain| given.extend_from_slice(plain)));
    (given, decoder.is_whole(), read)
}

/// So many events, no two of them alike.
fn stream(events: usize) -> String {
    (0..events).map(|event| TEXT.replace("two", &event.to_string())).collect()
}

fn coding(lines: &[&'static str]) -> ContentCoding {
    let lines = lines.iter().map(|line| (header::CONTENT_ENCODING, HeaderValue::from_static(line)));
    ContentCoding::of(&lines.collect::<HeaderMap>())
}

#[test]
fn a_header_says_the_coding() {
    for (lines, expected) in [
        (&[][..], ContentCoding::Identity),
        (&["identity"], ContentCoding::Identity),
        (&[""], ContentCoding::Identity),
        (&["gzip"], ContentCoding::Gzip),
        (&[" GZip "], ContentCoding::Gzip),
        (&["x-gzip"], ContentCoding::Gzip),
        (&["deflate"], ContentCoding::Deflate),
        (&["br"], ContentCoding::Brotli),
        (&["zstd"], ContentCoding::Zstd),
        (&["identity, br"], ContentCoding::Brotli),
        (&["identity", "zstd"], ContentCoding::Zstd),
        (&["utf-8"], ContentCoding::Unknown),
        (&["gzip, br"], ContentCoding::Unknown),
        (&["gzip", "gzip"], ContentCoding::Unknown),
    ] {
        assert_eq!(coding(lines), expected, "{lines:?}");
    }
    let named =
        HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static("br, utf-8, identity, GZIP"))]);
    assert_eq!(ContentCoding::known(&named), [ContentCoding::Brotli, ContentCoding::Gzip]);
    assert!(Decoder::new(ContentCoding::Identity).is_none() && Decoder::new(ContentCoding::Unknown).is_none());
}

#[test]
fn a_body_is_decoded_in_whatever_pieces_it_comes() {
    for (way, coding) in WAYS {
        for plain in [String::new(), TEXT.to_owned(), TEXT.repeat(40)] {
            let body = encoded(way, plain.as_bytes());
            let expected = (plain.clone().into_bytes(), true, Ok(()));
            for at in 0..=body.len() {
                let (one, other) = body.split_at(at);
                assert_eq!(decoded(coding, [one, other]), expected, "{way} cut at {at}");
                let (begun, is_whole, read) = decoded(coding, [one]);
                assert!(plain.as_bytes().starts_with(&begun) && read.is_ok(), "{way} up to {at}");
                assert!(!is_whole || begun == plain.as_bytes(), "{way} is not whole at {at}");
            }
            assert_eq!(decoded(coding, body.chunks(1)), expected, "{way} byte by byte");
            assert!(!decoded(coding, [&body[..body.len() - 1]]).1, "{way}: its last byte is missing");
        }
    }
}

#[test]
fn what_was_flushed_is_there_at_once() {
    for (way, coding) in WAYS {
        let plain = TEXT.repeat(2);
        let body = encoded(way, plain.as_bytes());
        let first = (0..body.len()).find(|end| decoded(coding, [&body[..*end]]).0.len() >= TEXT.len());
        assert!(first.is_some_and(|end| end + 3 < body.len()), "{way}: one event before the other");
    }
}

#[test]
fn a_body_may_have_several_parts_and_something_after_its_end() {
    for (way, coding) in WAYS {
        let part = encoded(way, TEXT.as_bytes());
        let several = way == "gzip" || way == "zstd";
        let twice = [part.clone(), part.clone()].concat();
        let expected = if several { TEXT.repeat(2) } else { TEXT.to_owned() };
        for size in [1, 7, 10_000] {
            assert_eq!(decoded(coding, twice.chunks(size)), (expected.clone().into_bytes(), true, Ok(())), "{way}");
            let padded = [part.clone(), vec![0; 9]].concat();
            assert_eq!(decoded(coding, padded.chunks(size)), (TEXT.as_bytes().to_vec(), true, Ok(())), "{way}");
        }
    }
}

#[test]
fn what_comes_after_the_end_is_told_from_another_part() {
    for (way, coding) in WAYS {
        let part = encoded(way, TEXT.as_bytes());
        for (rest, is_trailing) in
            [(&b""[..], false), (b"{", true), (&[0; 3], true), (&part, way != "gzip" && way != "zstd")]
        {
            for size in [1, 7, 10_000] {
                let mut decoder = Decoder::new(coding).unwrap();
                let mut given = 0;
                for mut piece in [part.as_slice(), rest].concat().chunks(size) {
                    while let Some(plain) = decoder.next_piece(&mut piece).unwrap() {
                        given += plain.len();
                    }
                    assert!(piece.is_empty(), "{way}");
                }
                assert_eq!((decoder.is_whole(), decoder.has_trailing()), (true, is_trailing), "{way} and {rest:?}");
                assert!(given == TEXT.len() || (!is_trailing && given == 2 * TEXT.len()), "{way}: {given}");
            }
        }
    }
}

#[test]
fn whoever_takes_the_pieces_bounds_them() {
    for (way, coding) in WAYS {
        let body = encoded(way, &vec![b'0'; 20 << 20]);
        let (mut decoder, mut rest, mut given) = (Decoder::new(coding).unwrap(), body.as_slice(), 0);
        while let Some(plain) = decoder.next_piece(&mut rest).unwrap() {
            assert!(plain.len() <= STEP, "{way}");
            given += plain.len();
        }
        assert_eq!((given, decoder.is_whole(), decoder.has_trailing()), (20 << 20, true, false), "{way}");
    }
}

#[test]
fn what_is_not_encoded_so_is_broken() {
    for (way, coding) in WAYS {
        for bytes in [&b"{\"choices\":[]}"[..], b"data: {\"choices\":[]}\n\n", &[0xff; 40]] {
            let (_, is_whole, read) = decoded(coding, [bytes]);
            assert!(!is_whole || read.is_err() || coding == ContentCoding::Brotli, "{way}: {bytes:?}");
        }
        let mut body = encoded(way, stream(400).as_bytes());
        let from = body.len() * 3 / 4;
        body[from..].fill(0xff);
        let (given, is_whole, _) = decoded(coding, body.chunks(100));
        assert!(!is_whole, "{way}");
        assert!(given.starts_with(stream(100).as_bytes()), "{way}: what came before stands");
    }
    assert_eq!(decoded(ContentCoding::Gzip, [&b"{}"[..]]).2, Err(DecodeError::Broken));
    assert_eq!(decoded(ContentCoding::Zstd, [&b"{}"[..]]).2, Err(DecodeError::Broken));
    let legacy = [0x27, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0];
    assert_eq!(decoded(ContentCoding::Zstd, [&legacy[..]]).2, Err(DecodeError::Broken), "from before RFC 8878");
}

#[test]
fn windows_are_those_of_the_web() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(24).unwrap();
    encoder.write_all(TEXT.as_bytes()).unwrap();
    let body = encoder.finish().unwrap();
    assert_eq!(decoded(ContentCoding::Zstd, [body.as_slice()]).2, Err(DecodeError::Broken), "zstd");
    let large_brotli = [0x11, 0x1e, 0x00, 0x00, 0x00];
    assert_eq!(decoded(ContentCoding::Brotli, [&large_brotli[..]]).2, Err(DecodeError::Broken), "brotli");
}

#[test]
fn little_that_stands_for_very_much_is_not_read_to_its_end() {
    let zeros = vec![0; 64 << 20];
    for (way, coding) in WAYS {
        let body = encoded(way, &zeros);
        assert!(body.len() < 1 << 20, "{way}: {} bytes", body.len());
        for size in [1000, 65_536] {
            let mut decoder = Decoder::new(coding).unwrap();
            let (mut given, mut taken) = (0_u64, 0_u64);
            let read = body.chunks(size).try_for_each(|piece| {
                taken += piece.len() as u64;
                decoder.feed(piece, |plain| given += plain.len() as u64)?;
                assert!(given <= FREE + RATIO * taken, "{way}: {given} bytes of {taken}");
                Ok(())
            });
            assert_eq!(read, Err(DecodeError::TooLarge), "{way}");
            assert!(given >= FREE - STEP as u64, "{way}: {given} bytes");
        }
    }
}

#[test]
fn a_stream_that_says_the_same_again_and_again_is_read_to_its_end() {
    let stream = stream(150_000);
    assert!(stream.len() as u64 > FREE);
    for (way, coding) in WAYS {
        let body = encoded(way, stream.as_bytes());
        let (given, is_whole, read) = decoded(coding, body.chunks(4096));
        assert!(
            is_whole && read.is_ok() && given == stream.as_bytes(),
            "{way}: {} bytes in {}",
            given.len(),
            body.len()
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_fail(
        (way, coding) in prop::sample::select(&WAYS[..]),
        noise in any::<Vec<u8>>(),
        at in any::<prop::sample::Index>(),
        size in 1_usize..200,
    ) {
        let body = encoded(way, TEXT.repeat(9).as_bytes());
        let (before, after) = body.split_at(at.index(body.len() + 1));
        let bytes = [before, &noise, after].concat();
        let whole = decoded(coding, [bytes.as_slice()]);
        let (given, is_whole, read) = decoded(coding, bytes.chunks(size));
        prop_assert_eq!(read.is_ok(), whole.2.is_ok());
        prop_assert!(read.is_err() || (given, is_whole) == (whole.0, whole.1));
    }
}

#[test]
fn what_follows_the_end_is_passed_over_however_it_is_cut() {
    for (way, coding) in WAYS {
        // The beginnings of a member and of frames stand behind something that is neither.
        let bytes = [encoded(way, TEXT.as_bytes()), vec![0; 9], vec![0x1f, 0x8b, 8, 0x28, 0x50, 0x5f]].concat();
        let whole = decoded(coding, [bytes.as_slice()]);
        for size in 1..bytes.len() {
            let (given, is_whole, read) = decoded(coding, bytes.chunks(size));
            assert_eq!((given, is_whole, read.is_ok()), (whole.0.clone(), whole.1, whole.2.is_ok()), "{way}, {size}");
        }
    }
}
