use super::{text::LoneSurrogate, *};

/// Reads one value and what follows it, as the scanner does.
fn read(text: &str) -> Result<Vec<Kind<'_>>, BodyError> {
    let mut reader = Reader::new(text);
    let mut kinds = vec![reader.token()?.kind];
    while reader.depth() > 0 {
        kinds.push(reader.token()?.kind);
    }
    reader.finish()?;
    Ok(kinds)
}

#[test]
fn tokens_come_with_their_places() {
    let mut reader = Reader::new(" {\"a\" : [1.5e+3 ,\"b\\n\"] , \"c\":null} ");
    let mut met = Vec::new();
    loop {
        let Token { span, kind } = reader.token().unwrap();
        met.push((span, kind));
        if reader.depth() == 0 {
            break;
        }
    }
    let text = |raw, length| Text { raw, length };
    let expected = [
        (1..2, Kind::ObjectStart),
        (2..5, Kind::Name(text("a", 1))),
        (8..9, Kind::ArrayStart),
        (9..15, Kind::Number("1.5e+3")),
        (17..22, Kind::String(text("b\\n", 2))),
        (22..23, Kind::ArrayEnd),
        (26..29, Kind::Name(text("c", 1))),
        (30..34, Kind::Null),
        (34..35, Kind::ObjectEnd),
    ];
    assert_eq!(met, expected);
    reader.finish().unwrap();
}

#[test]
fn what_the_grammar_allows_is_read() {
    for text in [
        "{}",
        "[]",
        "[[],{}]",
        "0",
        "-0",
        "-0.0",
        "10",
        "1e5",
        "1E-05",
        "0e+1",
        "0.10",
        "true",
        "false",
        "null",
        "\"\"",
        r#""\"\\\/\b\f\n\r\t\u00e9\uD834\uDD1E""#,
        "\"\u{7f}\u{80}\u{10ffff}\"",
        "[1,\n\t\r 2]",
        r#"{"":{"":""}}"#,
        r#"{"a":1,"a":2}"#,
        "1e999",
    ] {
        assert!(read(text).is_ok(), "{text}: {:?}", read(text));
    }
}

#[test]
fn what_the_grammar_does_not_allow_is_refused_at_its_place() {
    let cases = [
        ("[1,]", 3),
        ("[,1]", 1),
        ("[1 2]", 3),
        ("[1}", 2),
        ("[", 1),
        ("[1", 2),
        ("{", 1),
        ("{\"a\"", 4),
        ("{\"a\":", 5),
        ("{\"a\":1", 6),
        ("{\"a\":1,}", 7),
        ("{,}", 1),
        ("{\"a\" 1}", 5),
        ("{\"a\"::1}", 5),
        ("{a:1}", 1),
        ("{'a':1}", 1),
        ("{1:1}", 1),
        ("{\"a\":1]", 6),
        ("[1:2]", 2),
        ("NaN", 0),
        ("Infinity", 0),
        ("-Infinity", 1),
        ("[-]", 2),
        ("01", 1),
        ("-01", 2),
        ("00", 1),
        ("1.", 2),
        (".5", 0),
        ("+1", 0),
        ("1e", 2),
        ("1e+", 3),
        ("1.e5", 2),
        ("--1", 1),
        ("True", 0),
        ("tru", 0),
        ("nul", 0),
        ("[nulL]", 1),
        ("/* */1", 0),
        ("\u{a0}1", 0),
        ("\u{b}1", 0),
        ("", 0),
        (" ", 1),
        ("\"", 1),
        ("\"a", 2),
        ("\"\\", 1),
        ("\"\\\"", 3),
        ("\"\\x41\"", 1),
        ("\"\\'\"", 1),
        ("\"\\U0041\"", 1),
        ("\"\\u12\"", 1),
        ("\"\\u12g4\"", 1),
        ("\"\\u+123\"", 1),
        ("\"a\nb\"", 2),
        ("\"\0\"", 1),
        ("\"\u{1f}\"", 1),
        ("\"ab\\n\t\"", 5),
    ];
    for (text, place) in cases {
        match read(text) {
            Err(BodyError::Syntax { offset, problem }) => assert_eq!(offset, place, "{text:?}: {problem}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn a_value_that_is_no_container_ends_the_text() {
    for (text, place) in [("1 2", 2), ("1x", 1), ("\"a\"b", 3), ("true,", 4), ("nullnull", 4), ("0x10", 1), ("1.5.", 3)]
    {
        assert_eq!(read(text), Err(BodyError::TrailingBytes { offset: place }), "{text:?}");
    }
}

#[test]
fn decoded_lengths_are_those_of_the_decoded_text() {
    for raw in [
        "",
        "a",
        "é€😀",
        r"\n\\\/",
        r"\u0000\u007f",
        r"\u0080\u07ff",
        r"\u0800\uffff",
        r"\ud83d\ude00x",
        r"\\u0041",
        r"\\\u0041",
    ] {
        let quoted = format!("\"{raw}\"");
        let [Kind::String(text)] = read(&quoted).unwrap()[..] else { panic!("{raw}") };
        assert_eq!((text.raw, text.length), (raw, text.decode().unwrap().len() as u64));
        assert_eq!(text.decode().unwrap(), serde_json::from_str::<String>(&quoted).unwrap());
    }
}

#[test]
fn half_a_surrogate_pair_is_read_but_not_decoded() {
    for (raw, length) in [
        (r"\ud800", 3),
        (r"\udfff", 3),
        (r"\ud800\ud800\udc00", 7),
        (r"\ud800\u0041", 4),
        (r"\udc00\ud800", 6),
        (r"\udc00\udc00", 6),
    ] {
        let quoted = format!("\"{raw}\"");
        let [Kind::String(text)] = read(&quoted).unwrap()[..] else { panic!("{raw}") };
        assert_eq!((text.length, text.decode()), (length, Err(LoneSurrogate)), "{raw}");
    }
}

#[test]
fn depth_is_a_count_and_not_the_stack() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(read(&nested(128)).is_ok());
    assert_eq!(read(&nested(129)), Err(BodyError::TooDeep { offset: 128 }));
    let mixed = "[{\"a\":".repeat(64) + "1" + &"}]".repeat(64);
    assert_eq!(read(&mixed).unwrap().len(), 64 * 5 + 1);
}
