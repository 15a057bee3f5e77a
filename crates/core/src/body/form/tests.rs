mod lenient;
mod properties;

use super::*;
use crate::body::{Change, scan_form};

pub(super) const TYPE: &str = "multipart/form-data; boundary=----WebKitFormBoundaryX";

/// A field of a form without its boundary.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    format!("Content-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}").into_bytes()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let head = format!(
        "Content-Disposition: form-data; name=\"{name}\"; filename=\"a.mp3\"\r\nContent-Type: audio/mpeg\r\n\r\n"
    );
    [head.as_bytes(), content].concat()
}

/// A form of these parts.
pub(super) fn form(parts: &[Vec<u8>]) -> Bytes {
    let mut body = Vec::new();
    for part in parts {
        body.extend_from_slice(b"------WebKitFormBoundaryX\r\n");
        body.extend_from_slice(part);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"------WebKitFormBoundaryX--\r\n");
    body.into()
}

fn scanned(parts: &[Vec<u8>]) -> Result<Scanned, BodyError> {
    scan_form(&form(parts), TYPE)
}

#[test]
fn a_transcription_is_read() {
    let audio = b"ID3\x00\xff\xfe\r\n\r\n--WebKitFormBoundaryX\r\n";
    let body =
        form(&[file("file", audio), field("model", "whisper-1"), field("stream", "true"), field("prompt", "né")]);
    let scanned = scan_form(&body, TYPE).unwrap();
    assert_eq!(scanned.model.as_deref(), Some("whisper-1"));
    assert_eq!((scanned.stream, scanned.choices, scanned.media, scanned.maximum), (true, 1, 1, None));
    let outline = &scanned.outline;
    assert_eq!((scanned.prompt_text_bytes, outline.prose.bytes()), (3, 3));
    assert!(outline.prose.pieces().eq(["né"]));
    assert_eq!(scanned.body().as_ptr(), body.as_ptr(), "nothing is copied");
}

#[test]
fn an_edit_of_images_is_read_in_whatever_order() {
    let mut parts = vec![
        field("n", "3"),
        file("image[]", b"\x89PNG"),
        file("image[]", b"\x89PNG"),
        field("size", "1024x1024"),
        file("mask", b""),
        field("prompt", "a hat"),
        field("model", "gpt-image"),
    ];
    for _ in 0..parts.len() {
        parts.rotate_left(1);
        let scanned = scanned(&parts).unwrap();
        assert_eq!((scanned.model.as_deref(), scanned.choices, scanned.media), (Some("gpt-image"), 3, 3));
        assert_eq!((scanned.prompt_text_bytes, scanned.stream), (5, false));
    }
}

#[test]
fn what_is_not_stated_has_its_default() {
    for parts in [vec![], vec![field("stream", ""), field("n", "")], vec![field("language", "en")]] {
        let scanned = scanned(&parts).unwrap();
        assert_eq!((scanned.model.as_deref(), scanned.stream, scanned.choices), (None, false, 1));
        assert_eq!((scanned.prompt_text_bytes, scanned.media), (0, 0));
    }
}

#[test]
fn values_are_read_as_clients_write_them() {
    for (value, stream) in
        [("true", true), ("True", true), ("1", true), ("false", false), ("FALSE", false), ("0", false)]
    {
        assert_eq!(scanned(&[field("stream", value)]).unwrap().stream, stream, "{value}");
    }
    for (value, choices) in [("0", 1), ("1", 1), ("10", 10), ("007", 7), ("99999999999999999999", u64::MAX)] {
        assert_eq!(scanned(&[field("n", value)]).unwrap().choices, choices, "{value}");
    }
    for model in ["Qwen/千问", "a b", "--", &"m".repeat(256)] {
        assert_eq!(scanned(&[field("model", model)]).unwrap().model.as_deref(), Some(model));
    }
}

#[test]
fn values_of_another_type_are_refused_by_name() {
    let long = "m".repeat(257);
    let cases = [
        ("model", vec![" m", "m ", "m\n", "m\r", "\u{feff}m", "a\u{0}b", "m\u{a0}", "", "a\u{85}b", "a\u{7f}", &long]),
        ("stream", vec!["yes", "true ", "null", "2"]),
        ("n", vec!["-1", "+1", "1.0", " 1", "x", "1\r\n2"]),
    ];
    for (name, values) in cases {
        for value in values {
            let error = scanned(&[field(name, value)]).unwrap_err();
            assert!(
                matches!(error, BodyError::WrongType { offset, .. } if offset == 27 + 39 + name.len() + 4),
                "{value:?}: {error}"
            );
            assert_eq!(error.field(), Some(name));
        }
    }
}

#[test]
fn a_field_that_counts_is_there_once_and_plainly_named() {
    for (name, _) in FIELDS {
        let once = field(name, if name == "model" { "m" } else { "" });
        let error = scanned(&[once.clone(), file("file", b"x"), once.clone()]).unwrap_err();
        assert!(matches!(error, BodyError::DuplicateField { .. }), "{error}");
        assert_eq!(error.field(), Some(name));
        let upper = name.to_uppercase();
        let error = scanned(&[field(&upper, "")]).unwrap_err();
        assert_eq!(error, BodyError::MiscasedField { name, offset: 27 });
        for listed in [format!("{name}[]"), format!("{name}[0]"), format!("{upper}[]"), format!("{name}[")] {
            let error = scanned(&[field(&listed, "")]).unwrap_err();
            assert!(error.to_string().contains("brackets"), "{listed}: {error}");
        }
        assert!(scanned(&[field(&format!("{name}s"), "a"), field(&format!("x{name}"), "b"), once]).is_ok());
    }
    for name in ["_charset_", "_Charset_"] {
        let error = scanned(&[field(name, "utf-16")]).unwrap_err();
        assert!(error.to_string().contains("charset"), "{error}");
    }
    assert_eq!(scanned(&[file("file", b""), file("file", b"")]).unwrap().media, 2, "others may be there twice");
}

#[test]
fn a_field_that_counts_is_no_file() {
    for (name, _) in FIELDS {
        for filename in ["filename=\"\"", "filename=\"a\"", "filename*=utf-8''a"] {
            let part = format!("Content-Disposition: form-data; name=\"{name}\"; {filename}\r\n\r\n1");
            let error = scanned(&[part.into_bytes()]).unwrap_err();
            assert_eq!(error, BodyError::FileField { name, offset: 27 });
            assert_eq!(error.field(), Some(name));
        }
    }
}

#[test]
fn a_field_that_counts_is_plain_text() {
    let with = |header: &str, value: &str| {
        scanned(&[format!("Content-Disposition: form-data; name=\"model\"\r\n{header}\r\n\r\n{value}").into_bytes()])
    };
    for header in [
        "Content-Type: text/plain",
        "Content-Type: text/plain; charset=UTF-8",
        "Content-Type: text/plain;charset=\"utf-8\"",
        "Content-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit",
        "content-type: Text/Plain; charset=us-ascii\r\ncontent-length: 1",
    ] {
        assert_eq!(with(header, "m").unwrap().model.as_deref(), Some("m"), "{header}");
    }
    for (header, value) in [
        ("Content-Type: application/octet-stream", "m"),
        ("Content-Type: application/json", "m"),
        ("Content-Type: text/html", "m"),
        ("Content-Type: text/plain; charset=utf-16", "m"),
        ("Content-Type: text/plain; charset=utf-7", "m"),
        ("Content-Type: text/plain; charset=iso-8859-1", "né"),
        ("Content-Type: text/plain; charset=utf-8; x=y", "m"),
        ("Content-Type:", "m"),
        ("Content-Encoding: gzip", "m"),
        ("X-Other: y", "m"),
    ] {
        let error = with(header, value).unwrap_err();
        assert!(error.to_string().contains("headers that may change how it is read"), "{header}: {error}");
    }
}

#[test]
fn fields_that_count_are_utf_8_and_others_may_be_anything() {
    for (name, _) in FIELDS {
        let part = [field(name, "ab"), vec![0xff]].concat();
        let offset = 27 + part.len() - 1;
        assert_eq!(scanned(&[part]).unwrap_err(), BodyError::NotUtf8 { offset }, "{name}");
    }
    assert!(scanned(&[[field("language", ""), vec![0xff]].concat()]).is_ok());
}

#[test]
fn a_long_prompt_leaves_a_short_sample() {
    let prompt = "é".repeat(1 << 20);
    let scanned = scanned(&[field("prompt", &prompt)]).unwrap();
    let sample = scanned.outline.prose;
    assert_eq!((scanned.prompt_text_bytes, sample.bytes()), (2 << 20, 2 << 20));
    let kept: usize = sample.pieces().map(str::len).sum();
    assert!((2048..=4096).contains(&kept), "{kept}");
}

#[test]
fn a_form_goes_upstream_as_it_came() {
    let body = form(&[field("model", "m"), field("stream", "true")]);
    let all = Change { include_usage: true, maximum: Some(5), ..Change::default() };
    let result = scan_form(&body, TYPE).unwrap().splice(&all);
    assert_eq!((result.as_ptr(), result.len()), (body.as_ptr(), body.len()));
}

#[test]
fn faults_say_what_where_and_what_to_do() {
    let boundary = "------WebKitFormBoundaryX";
    let cases = [
        ("application/json", String::new(), "the content-type is not that of a form: send multipart/form-data"),
        ("multipart/form-data", String::new(), "the content-type names no boundary: add one that occurs in no part"),
        (
            TYPE,
            "{}".to_owned(),
            "the form is malformed or ambiguous at byte 0: it does not begin with its boundary: send nothing before it",
        ),
        (
            TYPE,
            format!("{boundary}\r\n"),
            "the form is malformed or ambiguous at byte 27: it ends without its closing boundary: send it whole",
        ),
        (
            TYPE,
            format!("{boundary}\r\nContent-Disposition: form-data; name=\"n\"; filename=\"x\"\r\n\r\n\r\n{boundary}--"),
            "the field n at byte 27 is sent as a file: send it without a filename",
        ),
    ];
    for (content_type, body, message) in cases {
        let error = scan_form(&Bytes::from(body), content_type).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}
