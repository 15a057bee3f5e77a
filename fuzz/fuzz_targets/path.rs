//! The path of a request: what is recognised names one model at most, to everybody.

#![no_main]

use http::Method;
use keymeter_core::api::{Api, Call, Unrecognised, recognise, right_spelling};
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
        // A model's name may have a colon, behind which no method is served.
        Err(Unrecognised::Path) => match recognise(&Method::GET, path) {
            Ok(Call::Model(name)) => assert!(name.contains(':'), "{path}"),
            Err(Unrecognised::ModelName) => {}
            other => assert_eq!(other, Err(Unrecognised::Path)),
        },
    }
    if let Ok(Call::Model(model)) = recognise(&Method::GET, path) {
        let name = below_models(path).expect("the only such path");
        assert_eq!(model, percent_decode_str(name).decode_utf8_lossy());
    }
    if let Some((method, right)) = right_spelling(path) {
        assert_ne!(right, path);
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        assert!(!matches!(recognise(&method, &right), Err(Unrecognised::Path | Unrecognised::Method(_))), "{right}");
    }
});

/// The model that a path of Gemini's names.
fn named(path: &str) -> Option<String> {
    let (segment, method) = below_models(path)?.rsplit_once(':')?;
    assert!(!segment.contains('/') && !method.is_empty(), "{path}");
    let model = percent_decode_str(segment).decode_utf8().expect("only UTF-8 is a name").into_owned();
    assert!(!model.contains(['/', '\\']) && keymeter_core::model_name::is_valid(&model), "{path}");
    Some(model)
}

fn below_models(path: &str) -> Option<&str> {
    path.strip_prefix("/v1/models/").or(path.strip_prefix("/v1beta/models/"))
}
