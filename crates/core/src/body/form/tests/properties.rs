//! What holds of any form.

use proptest::prelude::*;

use super::{super::*, TYPE, form, lenient::contents_of};
use crate::body::scan_form;

/// A part, as a client means it.
#[derive(Debug, Clone)]
struct Meant {
    name: String,
    filename: Option<String>,
    value: Vec<u8>,
    style: Style,
}

/// How clients write the same.
#[derive(Debug, Clone, Copy)]
enum Style {
    Browser,
    DotNet,
    Java,
}

impl Meant {
    fn bytes(&self) -> Vec<u8> {
        let Self { name, filename, value, style } = self;
        let file = filename.as_ref();
        let head = match style {
            Style::Browser => {
                let filename = file.map(|file| format!("; filename=\"{file}\"\r\nContent-Type: audio/mpeg"));
                format!("Content-Disposition: form-data; name=\"{name}\"{}", filename.unwrap_or_default())
            }
            Style::DotNet => {
                let filename = file.map(|_| "; filename=a; filename*=utf-8''a".to_owned());
                let kind = if file.is_some() { "" } else { "Content-Type: text/plain; charset=utf-8\r\n" };
                // Its names need quotes where they are no tokens.
                let name = if name.contains('[') { format!("\"{name}\"") } else { name.clone() };
                format!("{kind}Content-Disposition: form-data; name={name}{}", filename.unwrap_or_default())
            }
            Style::Java => {
                let filename = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
                let length = value.len();
                format!(
                    "content-disposition: form-data; name=\"{name}\"{filename}\r\ncontent-transfer-encoding: binary\r\ncontent-length: {length}"
                )
            }
        };
        [head.as_bytes(), b"\r\n\r\n", value].concat()
    }
}

fn any_style() -> impl Strategy<Value = Style> {
    prop::sample::select(vec![Style::Browser, Style::DotNet, Style::Java])
}

/// Content that comes close to being a boundary and never is.
fn any_content() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"\r\n",
        b"\r",
        b"\n",
        b"--",
        b"----WebKitFormBoundary",
        b"model",
        b"\r\n\r\n",
        b"\x00\xff",
        b"a",
        b"\"; name=\"n\"",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..8).prop_map(|pieces| pieces.concat())
}

fn any_other() -> impl Strategy<Value = Meant> {
    let names = ["file", "image[]", "mask", "language", "temperature", "models", "prompts"];
    let filename = prop::option::of(prop::sample::select(vec!["", "a.mp3", "name=model", "né", "model"]));
    (prop::sample::select(names.to_vec()), filename, any_content(), any_style()).prop_map(
        |(name, filename, value, style)| Meant {
            name: name.to_owned(),
            filename: filename.map(str::to_owned),
            value,
            style,
        },
    )
}

fn field(name: &str, values: Vec<&'static str>) -> BoxedStrategy<Option<Meant>> {
    let name = name.to_owned();
    let meant = (prop::sample::select(values), any_style()).prop_map(move |(value, style)| Meant {
        name: name.clone(),
        filename: None,
        value: value.as_bytes().to_vec(),
        style,
    });
    prop::option::of(meant).boxed()
}

fn any_form() -> impl Strategy<Value = Vec<Meant>> {
    let fields = (
        field("model", vec!["whisper-1", "千问", "a b", "--"]),
        field("stream", vec!["true", "false", ""]),
        field("prompt", vec!["", "say\r\nthis", "\r\n", "é"]),
        field("n", vec!["1", "3", ""]),
    );
    let others = prop::collection::vec(any_other(), 0..4);
    (fields, others).prop_flat_map(|((model, stream, prompt, n), others)| {
        let all: Vec<_> = [model, stream, prompt, n].into_iter().flatten().chain(others).collect();
        Just(all).prop_shuffle()
    })
}

fn body(parts: &[Meant]) -> Bytes {
    form(&parts.iter().map(Meant::bytes).collect::<Vec<_>>())
}

fn value<'a>(parts: &'a [Meant], name: &str) -> Option<&'a str> {
    parts.iter().find(|part| part.name == name).map(|part| std::str::from_utf8(&part.value).unwrap())
}

const BOUNDARY: &str = "----WebKitFormBoundaryX";

/// What may be put into a form to have it read in two ways.
fn any_piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"\r\n------WebKitFormBoundaryX\r\n",
        b"\n------WebKitFormBoundaryX\n",
        b"\r\n------WebKitFormBoundaryX \r\n",
        b"\r\n------WebKitFormBoundaryX--\r\n",
        b"\r\n--\"----WebKitFormBoundaryX\"\r\n",
        b"Content-Disposition: form-data; name=\"model\"\r\n\r\nother",
        b"Content-Disposition: form-data; name=\"model\"\r\n",
        b"Content-Disposition: form-data; name=\"model\"\n\nother",
        b"; name=\"model\"",
        b"; name=model; x=",
        b"; x=y\nContent-Disposition: form-data; name=\"model\"",
        b"\nContent-Disposition: form-data; name=\"model\"",
        b"; name*=utf-8''model",
        b"name=\"model\"; ",
        b"\\\"; name=\"model",
        b"Content-Type: multipart/mixed; boundary=Y\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\\",
        b"\"",
        b";",
        b"%65",
        b"[]",
        b"M",
        b"\x00",
        b"\xff",
    ];
    prop_oneof![
        4 => prop::sample::select(pieces).prop_map(<[u8]>::to_vec),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ]
}

proptest! {
    #[test]
    fn a_form_says_what_its_client_meant(parts in any_form()) {
        let body = body(&parts);
        let scanned = scan_form(&body, TYPE).unwrap();
        prop_assert_eq!(scanned.model.as_deref(), value(&parts, "model"));
        prop_assert_eq!(scanned.stream, value(&parts, "stream") == Some("true"));
        prop_assert_eq!(scanned.choices, value(&parts, "n").and_then(|n| n.parse().ok()).unwrap_or(1));
        prop_assert_eq!(scanned.prompt_text_bytes, value(&parts, "prompt").unwrap_or_default().len() as u64);
        prop_assert_eq!(scanned.media, parts.iter().filter(|part| part.filename.is_some()).count() as u64);
        let model: Vec<_> = value(&parts, "model").into_iter().map(|model| model.bytes().map(char::from).collect::<String>()).collect();
        prop_assert_eq!(contents_of(&body, BOUNDARY, "model"), model);
    }

    /// Whatever a stranger sends is read or refused, and what is read names no other model to anybody.
    #[test]
    fn what_is_accepted_names_one_model_to_every_parser(
        parts in any_form(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, any_piece()), 1..4),
    ) {
        let mut bytes = body(&parts).to_vec();
        for (place, gone, piece) in edits {
            let place = place.index(bytes.len() + 1);
            let end = bytes.len().min(place + gone);
            drop(bytes.splice(place..end, piece));
        }
        let bytes = Bytes::from(bytes);
        if let Ok(scanned) = scan_form(&bytes, TYPE) {
            let model: Vec<_> = scanned.model.iter().map(|model| model.bytes().map(char::from).collect::<String>()).collect();
            prop_assert_eq!(contents_of(&bytes, BOUNDARY, "model"), model, "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn any_bytes_and_any_content_type_are_read_or_refused(
        body in prop::collection::vec(any_piece(), 0..12),
        content_type in "(multipart/form-data)?[;= \"a-z\\\\-]{0,20}(boundary=)?\"?(----WebKitFormBoundaryX)?\"?",
    ) {
        let body = Bytes::from(body.concat());
        if let Ok(scanned) = scan_form(&body, &content_type) {
            prop_assert!(body.starts_with(b"--"), "{scanned:?}");
        }
        let _ = scan_form(&body, TYPE);
    }
}
