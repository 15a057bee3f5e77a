use super::*;

fn walked(value: &str, media: Media) -> Walked {
    walk(&mut Reader::new(value), media, Matter::Said, &mut Outline::default()).unwrap()
}

fn weight(value: &str) -> (u64, u64) {
    weight_by(value, Media::OpenAi)
}

fn weight_by(value: &str, media: Media) -> (u64, u64) {
    let walked = walked(value, media);
    (walked.text_bytes, walked.media)
}

#[test]
fn counts_names_and_strings_at_any_depth_once_decoded() {
    assert_eq!(weight(r#"[{"role":"user","content":"h\u00e9\n\ud83d\ude00"}]"#), (4 + 4 + 7 + 8, 0));
    assert_eq!(weight(r#"{"a":[["b",{"c":null,"d":true}]]}"#), (4, 0));
    assert_eq!(weight("null"), (0, 0));
}

#[test]
fn media_is_counted_and_not_weighed() {
    assert_eq!(weight(r#"{"url":"data:image/png;base64,AAAA"}"#), (3, 1));
    assert_eq!(weight(r#"{"image_url":{"url":"DATA:image/png,AAAA"}}"#), (12, 1));
    assert_eq!(weight(r#"{"file":{"file_data":"AAAA"}}"#), (13, 1));
    assert_eq!(weight(r#"{"input_audio":{"format":"wav","data":"AAAA"}}"#), (11 + 6 + 3 + 4, 1));
}

#[test]
fn text_that_looks_like_media_is_text() {
    assert_eq!(weight(r#"{"content":"data:AAAA"}"#), (16, 0));
    assert_eq!(weight(r#"{"url":"http://a"}"#), (11, 0));
    assert_eq!(weight(r#"{"url":["data:,A"]}"#), (10, 0));
    assert_eq!(weight(r#"{"data":"AAAA"}"#), (8, 0));
    assert_eq!(weight(r#"[{"input_audio":{}},{"x":{"data":"AAAA"}}]"#), (11 + 1 + 8, 0));
    assert_eq!(weight(r#"{"input_audio":{"x":{"data":"AAAA"}}}"#), (11 + 1 + 8, 0));
}

#[test]
fn anthropics_sources_are_media_if_they_say_base64() {
    let weight = |value: &str| weight_by(value, Media::Anthropic);
    assert_eq!(weight(r#"{"source":{"type":"base64","media_type":"a/b","data":"AAAA"}}"#), (6 + 4 + 6 + 10 + 3 + 4, 1));
    assert_eq!(weight(r#"{"source":{"data":"AAAA","type":"base64"}}"#), (6 + 4 + 4 + 6, 1));
    assert_eq!(weight(r#"{"source":{"type":"text","data":"AAAA"}}"#), (6 + 4 + 4 + 4 + 4, 0));
    assert_eq!(weight(r#"{"source":{"data":"AAAA"}}"#), (6 + 4 + 4, 0));
    assert_eq!(weight(r#"{"source":{"type":"base64","type":"text","data":"AAAA"}}"#).1, 0);
    assert_eq!(weight(r#"{"source":{"type":"base64","typ\u0065":"text","data":"AAAA"}}"#).1, 0);
    assert_eq!(weight(r#"{"source":{"type":"base64","data":"AAAA","data":"BBBB"}}"#), (6 + 4 + 6 + 4 + 4 + 4, 1));
    assert_eq!(weight(r#"{"data":"AAAA","url":"data:,A"}"#), (4 + 4 + 3 + 7, 0));
}

#[test]
fn a_source_within_a_source_is_looked_at_instead() {
    let inner = r#"{"type":"image","source":{"type":"base64","data":"AAAA"}}"#;
    let outer = format!(r#"{{"source":{{"data":"BBBB","type":"content","content":[{inner}]}}}}"#);
    assert_eq!(weight_by(&outer, Media::Anthropic), (6 + 4 + 4 + 4 + 7 + 7 + 4 + 5 + 6 + 4 + 6 + 4, 1));
}

#[test]
fn geminis_inline_data_is_media_unless_it_is_text() {
    let weight = |value: &str| weight_by(value, Media::Gemini);
    assert_eq!(weight(r#"{"inlineData":{"mimeType":"image/png","data":"AAAA"}}"#), (10 + 8 + 9 + 4, 1));
    assert_eq!(weight(r#"{"inline_data":{"data":"AAAA","mime_type":"audio/wav"}}"#).1, 1);
    for kind in ["text/plain", "Text/csv", "text\\/plain", " text/plain", "\\u0074ext/plain"] {
        assert_eq!(weight(&format!(r#"{{"inlineData":{{"mimeType":"{kind}","data":"AAAA"}}}}"#)).1, 0, "{kind}");
    }
    assert_eq!(weight(r#"{"inlineData":{"data":"AAAA"}}"#), (10 + 4 + 4, 0));
}

#[test]
fn ollamas_images_are_media_and_what_is_beside_them_is_not() {
    let weight = |value: &str| weight_by(value, Media::Ollama);
    assert_eq!(weight(r#"[{"content":"ab","images":["AAAA","BBBB"],"x":["cd"]}]"#), (7 + 2 + 6 + 1 + 2, 2));
    assert_eq!(weight(r#"{"images":[["AAAA"],{"a":"b"}]}"#), (6 + 4 + 2, 0));
    assert_eq!(weight(r#"{"images":"AAAA"}"#), (6 + 4, 0));
}

#[test]
fn an_earlier_image_is_media_in_responses_alone() {
    let value = r#"[{"type":"image_generation_call","result":"AAAA"},{"image_url":"data:,A"}]"#;
    assert_eq!(weight_by(value, Media::Responses), (4 + 21 + 6 + 9, 2));
    assert_eq!(weight(value), (4 + 21 + 6 + 4 + 9, 1));
}

#[test]
fn bare_urls_are_media_only_where_they_may_be() {
    let url = r#"["data:image/png;base64,AAAA","data: 1, 2"]"#;
    assert_eq!(
        walked(url, Media::BareUrls),
        Walked { text_bytes: 10, media: 1, numbers: 0, is_string: false, items: 2 }
    );
    assert_eq!(walked(url, Media::OpenAi).media, 0);
    assert_eq!(walked(r#"{"content":"data:image/png;base64,AAAA"}"#, Media::BareUrls).media, 0);
}

#[test]
fn an_array_has_as_many_prompts_as_elements_that_are_no_numbers() {
    let cases = [
        ("null", 0, 0),
        (r#""a""#, 1, 0),
        ("[]", 0, 0),
        ("[1,2,3]", 0, 3),
        ("[[1,2],[3]]", 2, 3),
        (r#"["a","b","c"]"#, 3, 0),
        (r#"["a",1,[2],{"b":["c","d"]}]"#, 3, 2),
        (r#"{"prompt_string":["a","b"]}"#, 1, 0),
    ];
    for (value, items, numbers) in cases {
        let walked = walked(value, Media::OpenAi);
        assert_eq!((walked.items, walked.numbers), (items, numbers), "{value}");
    }
}
