//! A multipart form. What is accepted names one model, to a parser that is strict, to one that is in wide use, and to
//! one that forgives whatever it can. The plan is the request's Content-Type; without one it names the boundary with which
//! the body begins.

#![no_main]

use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use keymeter_core::body::{Scanned, scan_form};
use keymeter_fuzz::Input;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/core/src/body/form/tests/lenient.rs"]
mod lenient;

fuzz_target!(|data: &[u8]| {
    let input = Input::of(data);
    let body = Bytes::copy_from_slice(input.sent);
    let content_type = input.plan.map_or_else(|| content_type_of(&body), |plan| String::from_utf8_lossy(plan).into());
    let Ok(scanned) = scan_form(&body, &content_type) else { return };
    assert_eq!(scanned.splice(&everything()), body, "a form is never changed");
    // Another parser may refuse the Content-Type (a blank before it), but not find another boundary.
    if let Ok(boundary) = multer::parse_boundary(&content_type) {
        check(&scanned, &body, &boundary);
    }
});

fn everything() -> keymeter_core::body::Change {
    keymeter_core::body::Change { include_usage: true, maximum: Some(1), ..Default::default() }
}

fn content_type_of(body: &[u8]) -> String {
    let end = body.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(body.len());
    let boundary = body[..end].strip_prefix(b"--").unwrap_or_default();
    format!("multipart/form-data; boundary={}", String::from_utf8_lossy(boundary))
}

fn check(scanned: &Scanned, body: &Bytes, boundary: &str) {
    let model: Vec<String> = scanned.model.iter().map(|model| model.bytes().map(char::from).collect()).collect();
    assert_eq!(lenient::contents_of(body, boundary, "model"), model, "{scanned:?}");
    // It may refuse what we accept (more than 32 headers), but not read it otherwise.
    if let Ok((models, files)) = read(body.clone(), boundary) {
        assert_eq!(models, scanned.model.iter().cloned().collect::<Vec<_>>());
        assert!(files <= scanned.media, "{files} files, {scanned:?}");
    }
}

/// What `multer` finds: the contents of the fields named `model`, and the number of files.
fn read(body: Bytes, boundary: &str) -> multer::Result<(Vec<String>, u64)> {
    let whole = stream::iter([Ok::<_, std::convert::Infallible>(body)]);
    let mut form = multer::Multipart::new(whole, boundary);
    let reading = async {
        let (mut models, mut files) = (Vec::new(), 0);
        while let Some(field) = form.next_field().await? {
            files += u64::from(field.file_name().is_some());
            if field.name() == Some("model") {
                models.push(String::from_utf8_lossy(&field.bytes().await?).into_owned());
            }
        }
        Ok((models, files))
    };
    reading.now_or_never().expect("all of the body is there")
}
