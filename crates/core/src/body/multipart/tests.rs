use super::*;

const TYPE: &str = "multipart/form-data; boundary=XX";

/// Lines as they are sent.
fn lines(lines: &str) -> Vec<u8> {
    lines.replace('\n', "\r\n").into_bytes()
}

fn read(body: &[u8]) -> Result<Vec<Part<'_>>, BodyError> {
    Parts::new(body, TYPE)?.collect()
}

/// A form of one part with these headers.
fn headed(headers: &str) -> Vec<u8> {
    lines(&format!("--XX\n{headers}\n\nvalue\n--XX--\n"))
}

fn head(headers: &str) -> Result<bool, BodyError> {
    let body = headed(headers);
    let part = Parts::new(&body, TYPE)?.next().unwrap()?;
    Ok(part.head.is_file())
}

fn problem(body: &[u8]) -> (usize, &'static str) {
    match read(body) {
        Err(BodyError::Form { offset, problem }) => (offset, problem),
        other => panic!("{}: {other:?}", String::from_utf8_lossy(body)),
    }
}

#[test]
fn parts_come_in_their_order_and_uncopied() {
    let body = lines(
        "--XX\nContent-Disposition: form-data; name=\"a\"\n\none\n--XX\ncontent-disposition:form-data;name=b;filename=\"c\"\n\
         Content-Type: audio/wav\n\n\n\n--X\n-XX-- \n--XX\nContent-Disposition: form-data; name=\"d[]\"\n\n\n--XX--",
    );
    let parts = read(&body).unwrap();
    let expected: [(&str, &[u8]); 3] = [("a", b"one"), ("b", b"\r\n\r\n--X\r\n-XX-- "), ("d[]", b"")];
    assert_eq!(parts.iter().map(|part| (part.head.name, part.content)).collect::<Vec<_>>(), expected);
    for Part { content, content_offset, .. } in parts {
        assert_eq!(content.as_ptr(), body[content_offset..].as_ptr());
    }
}

#[test]
fn a_form_may_be_empty_and_may_end_with_a_line() {
    for body in ["--XX--", "--XX--\r\n"] {
        assert_eq!(read(body.as_bytes()), Ok(vec![]));
    }
    assert_eq!(read(&headed("Content-Disposition: form-data; name=\"a\"")).unwrap().len(), 1);
}

#[test]
fn what_parsers_divide_differently_is_refused() {
    let part = "--XX\nContent-Disposition: form-data; name=\"a\"\n\none\n";
    for (body, place, error) in [
        (String::new(), 0, "begin with its boundary"),
        ("\n--XX--".to_owned(), 0, "begin with its boundary"),
        (format!("preamble\n{part}--XX--"), 0, "begin with its boundary"),
        (format!(" {part}--XX--"), 0, "begin with its boundary"),
        ("--XX".to_owned(), 4, "followed by something other than CRLF"),
        ("--XX \n--XX--".to_owned(), 4, "followed by something other than CRLF"),
        ("--XXY\n--XX--".to_owned(), 4, "followed by something other than CRLF"),
        ("--XX-\n--XX--".to_owned(), 4, "followed by something other than CRLF"),
        ("--XX--\n\n".to_owned(), 4, "goes on after its closing boundary"),
        ("--XX-- ".to_owned(), 4, "goes on after its closing boundary"),
        (format!("--XX--\n{part}--XX--"), 4, "goes on after its closing boundary"),
        ("--XX---".to_owned(), 4, "goes on after its closing boundary"),
        (part.to_owned(), 55, "without its closing boundary"),
        (format!("{part}--XX"), 59, "followed by something other than CRLF"),
        (format!("{part}--XX-"), 59, "followed by something other than CRLF"),
        (format!("{part}--XX\t\n--XX--"), 59, "followed by something other than CRLF"),
        (format!("{part}x--XX--"), 56, "stands within a line"),
        (format!("{part}---XX--"), 56, "stands within a line"),
        (format!("{part}--XX--{part}"), 59, "goes on after its closing boundary"),
        ("--XX\n--XX--".to_owned(), 6, "stands within a line"),
        ("--XX\n\n--XX--".to_owned(), 6, "no empty line follows"),
        ("--XX\na: b\n--XX--".to_owned(), 6, "no empty line follows"),
        ("--XX\na: b\n\n--XX--".to_owned(), 6, "no empty line follows"),
        ("--XX\n\na: b\n\nc\n--XX--".to_owned(), 6, "has no name"),
    ] {
        let (offset, problem) = problem(&lines(&body));
        assert!(problem.contains(error), "{body}: {problem}");
        assert_eq!(offset, place, "{body}: {problem}");
    }
}

#[test]
fn no_line_ends_but_by_crlf() {
    let body = "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n--XX--";
    assert!(read(body.as_bytes()).is_ok());
    // Each of them in turn.
    for (place, _) in body.match_indices("\r\n") {
        for other in ["\n", "\r", "\n\r", "\r\r\n"] {
            let mut odd = body.to_owned();
            odd.replace_range(place..place + 2, other);
            // What stands before a CRLF within the content is content.
            if place == body.rfind("\r\n").unwrap() && other == "\r\r\n" {
                assert_eq!(read(odd.as_bytes()).unwrap()[0].content, b"one\r");
            } else {
                assert!(
                    matches!(read(odd.as_bytes()), Err(BodyError::Form { .. })),
                    "{odd:?}: {:?}",
                    read(odd.as_bytes())
                );
            }
        }
    }
    assert_eq!(
        read(b"--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n\n\r\r\n--XX--").unwrap()[0].content,
        b"\n\r"
    );
}

#[test]
fn no_header_hides_in_another() {
    for hidden in
        ["\nContent-Disposition: form-data; name=\"model\"", "\rX: y", "\n X: y", "\n", "\r", "\u{b}", "\u{2028}\n"]
    {
        for place in ["Content-Type: audio/wav", "X: y", "Content-Disposition: form-data; name=\"a\""] {
            let headers = format!("X-First: y\r\nContent-Disposition: form-data; name=\"a\"\r\n{place}{hidden}");
            let body = format!("--XX\r\n{headers}\r\n\r\nvalue\r\n--XX--");
            assert!(problem(body.as_bytes()).1.contains("control character"), "{body:?}");
        }
    }
}

#[test]
fn quotes_around_the_boundary_are_no_part_of_it() {
    let quoted = "multipart/form-data; boundary=\"XX\"";
    assert_eq!(Parts::new(b"--XX--", quoted).unwrap().count(), 0);
    assert!(Parts::new(b"--\"XX\"--", quoted).is_err());
    let both = lines("--XX\nContent-Disposition: form-data; name=\"a\"\n\none\n--\"XX\"\ntwo\n--XX--");
    assert_eq!(problem(&both), (55, STRAY_BOUNDARY));
}

#[test]
fn headers_are_read_as_clients_write_them() {
    for (headers, is_file) in [
        ("Content-Disposition: form-data; name=\"model\"", false),
        ("content-disposition: form-data; name=model", false),
        ("CONTENT-DISPOSITION:form-data;name=\"a\"", false),
        (
            "Content-Disposition: form-data; name=\"a\"\nContent-Type: text/plain; charset=utf-8\nContent-Length: 5",
            false,
        ),
        (
            "Content-Type: text/plain\nContent-Transfer-Encoding: 8BIT\nContent-Disposition: form-data; name=\"a\"",
            false,
        ),
        ("Content-Disposition: form-data; name=\"file\"; filename=\"ünï ='côde'.mp3\"\nContent-Type: audio/mpeg", true),
        ("Content-Disposition: form-data; name=file; filename=a.mp3; filename*=utf-8''a.mp3", true),
        ("Content-Disposition: form-data; name=\"file\"; filename*=utf-8''%e2%82%ac.mp3", true),
        ("Content-Disposition: form-data; name=\"file\"; filename=\"\"", true),
        ("Content-Disposition: form-data; name=\"file\"; filename=\"C:\\x\\a.mp3\"", true),
        ("Content-Disposition: form-data; name=\"image[]\"\nContent-Type: image/png\nX-Other: \ty", true),
        ("Content-Disposition: form-data; name=\"file\"; filename=\"a\"\nContent-Transfer-Encoding: binary", true),
    ] {
        assert_eq!(head(headers), Ok(is_file), "{headers}");
    }
}

#[test]
fn headers_that_parsers_read_differently_are_refused() {
    let named = "Content-Disposition: form-data; name=\"a\"";
    for (headers, error) in [
        ("", "has no name"),
        ("X: y", "has no content-disposition"),
        ("Content-Disposition", "has no name"),
        ("Content-Disposition : form-data; name=\"a\"", "has no name"),
        (": form-data; name=\"a\"", "has no name"),
        ("Content-Disposition: form-data;\n name=\"a\"", "has no name"),
        (" Content-Disposition: form-data; name=\"a\"", "has no name"),
        ("Content-Disposition: form-data;\u{0} name=\"a\"", "control character"),
        ("Content-Disposition: form-data; name=\"a\u{7f}\"", "control character"),
        ("Content-Disposition: form-data; name=\"a\u{85}\"", "control character"),
        ("Content-Disposition: form-data", "write it so"),
        ("Content-Disposition: attachment; name=\"a\"", "write it so"),
        ("Content-Disposition: Form-Data; name=\"a\"", "write it so"),
        ("Content-Disposition: form-data; filename=\"b\"", "write it so"),
        ("Content-Disposition: form-data; filename=\"b\"; name=\"a\"", "write it so"),
        ("Content-Disposition: form-data; name=\"a\"; name=\"model\"", "write it so"),
        ("Content-Disposition: form-data; name=\"a\"; Name=\"model\"", "write it so"),
        ("Content-Disposition: form-data; name=\"a\"; name*=utf-8''model", "write it so"),
        ("Content-Disposition: form-data; name*=utf-8''model", "write it so"),
        ("Content-Disposition: form-data; name*0=mo; name*1=del", "write it so"),
        ("Content-Disposition: form-data; name=\"a\"; filename=\"b\"; filename=\"c\"", "write it so"),
        ("Content-Disposition: form-data; name=\"a\"; filename*=\"b\"", "write it so"),
        ("Content-Disposition: form-data; name=\"a\"; size=3", "write it so"),
        ("Content-Disposition: form-data, name=\"a\"", "leave them out"),
        ("Content-Disposition: form-data; name=\"a\";", "leave them out"),
        ("Content-Disposition: form-data; name=\"a", "leave them out"),
        ("Content-Disposition: form-data; name=\"a\\\"b\"", "leave them out"),
        ("Content-Disposition: form-data; name=\"a\"; filename=\"b\\\"; name=\\\"model\"", "leave them out"),
        ("Content-Disposition: form-data; name=\"a\"; filename=\"b; name=model\"", "leave them out"),
        ("Content-Disposition: form-data; name=\"a\\b\"", "odd characters"),
        ("Content-Disposition: form-data; name=\"\"", "odd characters"),
        ("Content-Disposition: form-data; name=\"mod%65l\"", "odd characters"),
        ("Content-Disposition: form-data; name=\" model\"", "odd characters"),
        ("Content-Disposition: form-data; name=\"modèl\"", "odd characters"),
        ("Content-Disposition: form-data; name=\"=?utf-8?B?bW9kZWw=?=\"", "odd characters"),
        (&format!("{named}\n{named}"), "a header twice"),
        (&format!("{named}\ncontent-disposition: form-data; name=\"b\""), "a header twice"),
        (&format!("{named}\nContent-Type: text/plain\nContent-type: text/plain"), "a header twice"),
        (&format!("{named}\nContent-Transfer-Encoding: base64"), "content-transfer-encoding"),
        (&format!("{named}\nContent-Transfer-Encoding: quoted-printable"), "content-transfer-encoding"),
        (&format!("{named}\nContent-Transfer-Encoding:"), "content-transfer-encoding"),
        (&format!("{named}\nContent-Type: multipart/mixed; boundary=YY"), "multipart itself"),
        (&format!("{named}\nContent-Type: Multipart/Form-Data; boundary=XX"), "multipart itself"),
        (&format!("{named}\nContent-Length: 6"), "content-length is not its length"),
        (&format!("{named}\nContent-Length: 05"), "content-length is not its length"),
    ] {
        match head(headers) {
            Err(BodyError::Form { offset: 6, problem }) => assert!(problem.contains(error), "{headers}: {problem}"),
            other => panic!("{headers}: {other:?}"),
        }
    }
    let latin = b"--XX\r\nContent-Disposition: form-data; name=\"a\"; filename=\"\xfc\"\r\n\r\n\r\n--XX--";
    assert_eq!(problem(latin), (6, "a part's headers are not UTF-8: write them so"));
}

#[test]
fn headers_are_short() {
    let named = "Content-Disposition: form-data; name=\"a\"\nX: ";
    let longest = "y".repeat(LONGEST_HEAD - named.len() - 1);
    assert_eq!(head(&format!("{named}{longest}")), Ok(false));
    assert_eq!(problem(&headed(&format!("{named}{longest}y"))), (6, "a part's headers are over 16 KiB: shorten them"));
    let endless = [b"--XX\r\n".to_vec(), vec![b'y'; 1 << 20], b"\r\n--XX--".to_vec()].concat();
    assert_eq!(problem(&endless), (6, "a part's headers are over 16 KiB: shorten them"));
}

#[test]
fn parts_are_few() {
    let part = "--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n";
    let of = |count: usize| format!("{}--XX--", part.repeat(count));
    assert_eq!(read(of(MOST_PARTS).as_bytes()).unwrap().len(), MOST_PARTS);
    let place = MOST_PARTS * part.len() + "--XX\r\n".len();
    assert_eq!(problem(of(MOST_PARTS + 1).as_bytes()), (place, "it has more than 1000 parts: send fewer"));
}

#[test]
fn after_a_fault_there_are_no_more_parts() {
    let body = lines("--XX\nx\n\n\n--XX\nContent-Disposition: form-data; name=\"a\"\n\n\n--XX--");
    let mut parts = Parts::new(&body, TYPE).unwrap();
    assert!(parts.next().unwrap().is_err());
    assert!(parts.next().is_none());
}
