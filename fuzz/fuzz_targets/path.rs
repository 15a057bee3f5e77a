//! The path of a request: what is recognised names one model at most, to everybody.

#![no_main]

use http::Method;
use keymeter_core::api::{Api, Call, Unrecognised, recognise};
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;

fuzz_target!(|path: &str| {
    match recognise(&Method::POST, path) {
        Ok(Call::Inference { endpoint, model }) => {
            assert_eq!(Api::of_path(path), endpoint.api());
            assert_eq!(recognise(&Method::GET, path), Err(Unrecognised::Method("POST")));
            assert_eq!(model, named(path));
        }
        Ok(other) => panic!("{other:?} is asked for with GET"),
        Err(Unrecognised::ModelName) => {
            assert_eq!(recognise(&Method::GET, path), Err(Unrecognised::Method("POST")));
        }
        Err(Unrecognised::Method(method)) => assert_eq!(method, "GET"),
        Err(Unrecognised::Path) => assert_eq!(recognise(&Method::GET, path), Err(Unrecognised::Path)),
    }
    if let Ok(Call::Model(model)) = recognise(&Method::GET, path) {
        let name = path.strip_prefix("/v1/models/").expect("the only such path");
        assert_eq!(model, percent_decode_str(name).decode_utf8_lossy());
    }
});

/// The model that a path of Gemini's names.
fn named(path: &str) -> Option<String> {
    let (segment, method) = path.strip_prefix("/v1beta/models/")?.rsplit_once(':')?;
    assert!(!segment.contains('/') && !method.is_empty(), "{path}");
    let model = percent_decode_str(segment).decode_utf8().expect("only UTF-8 is a name").into_owned();
    assert!(!model.contains(['/', '\\']) && keymeter_core::model_name::is_valid(&model), "{path}");
    Some(model)
}
