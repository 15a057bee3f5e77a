use http::Method;

use super::path::{ENDPOINTS, METHODS, MODELS};
use super::*;

fn asked(endpoint: Endpoint, model: Option<&str>) -> Call {
    Call::Inference { endpoint, model: model.map(str::to_owned) }
}

#[test]
fn every_path_and_nothing_else() {
    for (path, endpoint) in ENDPOINTS {
        assert_eq!(recognise(&Method::POST, path), Ok(asked(endpoint, None)));
        assert_eq!(recognise(&Method::GET, path), Err(Unrecognised::Method("POST")));
        assert_eq!(recognise(&Method::POST, &format!("{path}/")), Err(Unrecognised::Path));
        assert_eq!(recognise(&Method::POST, &path.to_uppercase()), Err(Unrecognised::Path));
    }
    for path in ["/v1/models", "/v1beta/models", "/api/tags"] {
        assert_eq!(recognise(&Method::GET, path), Ok(Call::Models));
        assert_eq!(recognise(&Method::POST, path), Err(Unrecognised::Method("GET")));
    }
    assert_eq!(recognise(&Method::GET, "/api/version"), Ok(Call::Version));
    assert_eq!(recognise(&Method::GET, "/v1beta/models/gemma3:4b"), Ok(Call::Model("gemma3:4b".to_owned())));
    assert_eq!(recognise(&Method::GET, "/v1/usage"), Ok(Call::Usage));
    assert_eq!(recognise(&Method::POST, "/v1/usage"), Err(Unrecognised::Method("GET")));
    assert_eq!(recognise(&Method::GET, "/v1/models/org%2Fname"), Ok(Call::Model("org/name".to_owned())));
    assert_eq!(recognise(&Method::GET, "/v1/models/org/name"), Ok(Call::Model("org/name".to_owned())));
    assert_eq!(recognise(&Method::POST, "/v1/models"), Err(Unrecognised::Method("GET")));
    for path in ["/", "/v1", "/v1/models/", "/v1/modelsx", "/v1/chat/completions/", "//v1/completions", "/v1/files"] {
        assert_eq!(recognise(&Method::GET, path), Err(Unrecognised::Path), "{path}");
    }
}

#[test]
fn geminis_paths_name_the_model_and_the_method() {
    for (path, endpoint, model) in [
        ("gemini-2.5-flash:generateContent", Endpoint::GenerateContent, "gemini-2.5-flash"),
        ("gemini-2.5-flash:streamGenerateContent", Endpoint::StreamGenerateContent, "gemini-2.5-flash"),
        ("embed%2D1:embedContent", Endpoint::EmbedContent, "embed-1"),
        ("gemma3:4b:generateContent", Endpoint::GenerateContent, "gemma3:4b"),
        ("gemma3%3A4b:generateContent", Endpoint::GenerateContent, "gemma3:4b"),
        ("%e5%8d%83:generateContent", Endpoint::GenerateContent, "千"),
        ("%2541:generateContent", Endpoint::GenerateContent, "%41"),
        ("embed-1:batchEmbedContents", Endpoint::BatchEmbedContents, "embed-1"),
        ("gemini-2.5-flash:countTokens", Endpoint::GeminiCountTokens, "gemini-2.5-flash"),
    ] {
        for models in MODELS {
            let path = format!("{models}/{path}");
            assert_eq!(recognise(&Method::POST, &path), Ok(asked(endpoint, Some(model))), "{path}");
            assert_eq!(recognise(&Method::GET, &path), Err(Unrecognised::Method("POST")), "{path}");
            assert_eq!(Api::of_path(&path), Api::Gemini, "{path}");
        }
    }
}

#[test]
fn a_path_that_could_name_two_models_names_none() {
    for path in [
        "/v1beta/models/a:",
        "/v1beta/models/a:predict",
        "/v1beta/models/a:GenerateContent",
        "/v1beta/models/a:generateContent/",
        "/v1beta/models/a%3AgenerateContent",
        "/v1beta/models/a:generate%43ontent",
        "/v1beta/models/org/a:generateContent",
        "/v1beta/models/org%2Fa:generateContent",
        "/v1beta/models/org%5ca:generateContent",
        "/v1beta/models/../b/a:generateContent",
        "/v1beta/models/a%ff:generateContent",
        "/v1beta/models/a%:generateContent",
        "/v1beta/models/a%4:generateContent",
        "/v1beta/models/a%zz:generateContent",
        "/v1beta/tunedModels/a:generateContent",
        "/v1/models/a:generateContent/",
    ] {
        assert_eq!(recognise(&Method::POST, path), Err(Unrecognised::Path), "{path}");
        let of_openai = path.replace("/v1beta/", "/v1/");
        assert_eq!(recognise(&Method::POST, &of_openai), Err(Unrecognised::Path), "{of_openai}");
    }
    for path in ["/v1beta/models/generateContent", "/v1beta/models/a", "/v1/models/a", "/v1/models/org/a"] {
        assert_eq!(recognise(&Method::POST, path), Err(Unrecognised::Method("GET")), "{path}");
    }
}

#[test]
fn no_model_has_a_name_without_bytes_of_too_many_or_with_control_characters() {
    let longest = "m".repeat(256);
    assert_eq!(recognise(&Method::GET, &format!("/v1/models/{longest}")), Ok(Call::Model(longest.clone())));
    for name in ["m1%00x", "%00", "a%0a", "a%7f", "a%c2%80", "a%C2%9Fb", "a\u{85}", &format!("{longest}m"), "%00/b"] {
        assert_eq!(recognise(&Method::GET, &format!("/v1/models/{name}")), Err(Unrecognised::ModelName), "{name}");
        assert_eq!(recognise(&Method::POST, &format!("/v1/models/{name}")), Err(Unrecognised::Method("GET")), "{name}");
        if !name.contains('/') {
            for (method, _) in METHODS {
                let path = format!("/v1beta/models/{name}:{method}");
                assert_eq!(recognise(&Method::POST, &path), Err(Unrecognised::ModelName), "{path}");
            }
        }
    }
    assert_eq!(recognise(&Method::POST, "/v1beta/models/:generateContent"), Err(Unrecognised::ModelName));
}

#[test]
fn what_is_no_escape_stays() {
    for (written, meant) in [("a%2", "a%2"), ("%zz", "%zz"), ("100%", "100%"), ("%41b", "Ab"), ("%%41", "%A")] {
        assert_eq!(percent_decoded(written), meant);
    }
}

#[test]
fn an_unknown_path_has_the_api_that_it_begins_with() {
    for (path, api) in [
        ("/v1/messages", Api::Anthropic),
        ("/v1/messages/batches", Api::Anthropic),
        ("/v1/messagesx", Api::OpenAi),
        ("/api/tags", Api::Ollama),
        ("/api", Api::Ollama),
        ("/apis", Api::OpenAi),
        ("/v1beta/models/a:countTokens", Api::Gemini),
        ("/v1/files", Api::OpenAi),
        ("/", Api::OpenAi),
        ("", Api::OpenAi),
    ] {
        assert_eq!(Api::of_path(path), api, "{path}");
    }
    for (path, endpoint) in ENDPOINTS {
        assert_eq!(Api::of_path(path), endpoint.api(), "{path}");
    }
}

#[test]
fn the_paths_of_models_are_of_the_api_that_the_headers_say() {
    let headers = |names: &[&'static str]| -> HeaderMap {
        names.iter().map(|name| (HeaderName::from_static(name), http::HeaderValue::from_static("x"))).collect()
    };
    for path in ["/v1/models", "/v1/models/m", "/v1/models/org/m"] {
        for (query, names, api) in [
            (None, &[][..], Api::OpenAi),
            (Some("limit=20&monkey=1"), &["authorization"], Api::OpenAi),
            (None, &["anthropic-version", "x-api-key"], Api::Anthropic),
            (None, &["x-goog-api-key"], Api::Gemini),
            (Some("pageSize=5&key=sk-a"), &[], Api::Gemini),
            (Some("%6bey=sk-a"), &[], Api::Gemini),
        ] {
            assert_eq!(Api::of_request(path, query, &headers(names)), api, "{path} {query:?} {names:?}");
        }
    }
    let all = headers(&["anthropic-version", "x-goog-api-key"]);
    for (path, api) in [
        ("/v1/chat/completions", Api::OpenAi),
        ("/v1/messages", Api::Anthropic),
        ("/v1beta/models", Api::Gemini),
        ("/api/tags", Api::Ollama),
        ("/v1/modelsx", Api::OpenAi),
    ] {
        assert_eq!(Api::of_request(path, Some("key=a"), &all), api, "{path}");
    }
}

#[test]
fn forms_and_counting_are_the_exceptions() {
    let all = || ENDPOINTS.iter().chain(&METHODS).map(|(_, endpoint)| *endpoint);
    let forms: Vec<_> = all().filter(|endpoint| endpoint.shape() == Shape::Form).collect();
    assert_eq!(forms, [Endpoint::ImageEdits, Endpoint::Transcriptions, Endpoint::Translations]);
    let free: Vec<_> = all().filter(|endpoint| !endpoint.takes_tokens()).collect();
    assert_eq!(
        free,
        [
            Endpoint::CountTokens,
            Endpoint::OllamaShow,
            Endpoint::Tokenize,
            Endpoint::Detokenize,
            Endpoint::GeminiCountTokens
        ]
    );
    let asked: Vec<_> = all().filter(|endpoint| endpoint.injects_usage()).collect();
    assert_eq!(asked, [Endpoint::ChatCompletions, Endpoint::Completions]);
    assert!(all().filter(|endpoint| endpoint.injects_usage()).all(Endpoint::has_output));
}
