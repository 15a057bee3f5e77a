//! The boundary that a Content-Type states (RFC 2046 section 5.1.1).

use super::parameter::parameters;

pub(in super::super) const NOT_A_FORM: &str = "is not that of a form: send multipart/form-data";

/// The longest boundary, in characters.
const LONGEST: usize = 70;

/// The boundary in `content_type`, or what is wrong with it. Of the characters that RFC 2046 allows
/// those are taken that need no quotes and are none, so that no parser cuts it short. No other
/// parameter is taken than UTF-8 as the charset, which some parsers decode all fields by.
pub(super) fn parse(content_type: &str) -> Result<&str, &'static str> {
    let end = content_type.find(';').unwrap_or(content_type.len());
    let (kind, rest) = content_type.split_at(end);
    if !kind.trim_matches([' ', '\t']).eq_ignore_ascii_case("multipart/form-data") {
        return Err(NOT_A_FORM);
    }
    let mut boundary = None;
    for parameter in parameters(rest)? {
        match parameter.name.to_ascii_lowercase().as_str() {
            "boundary" if boundary.is_some() => return Err("names more than one boundary: name one"),
            "boundary" => boundary = Some(parameter.value),
            "charset" if parameter.value.eq_ignore_ascii_case("utf-8") => {}
            _ => return Err("has a parameter other than a boundary and charset=utf-8: leave it out"),
        }
    }
    checked(boundary.ok_or("names no boundary: add one that occurs in no part")?)
}

fn checked(boundary: &str) -> Result<&str, &'static str> {
    match boundary.len() {
        0 => Err("names an empty boundary: name one of up to 70 characters"),
        1..=LONGEST if boundary.chars().all(is_plain) => Ok(boundary),
        1..=LONGEST => Err("names a boundary with odd characters: use letters, digits and +_.- alone"),
        _ => Err("names a boundary of more than 70 characters: name a shorter one"),
    }
}

fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "+_.-".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_read_as_clients_write_it() {
        for (written, boundary) in [
            ("multipart/form-data; boundary=abc", "abc"),
            ("Multipart/Form-Data;boundary=\"----WebKitFormBoundary7MA4YWxk\"", "----WebKitFormBoundary7MA4YWxk"),
            ("multipart/form-data ; charset=utf-8; boundary=ab+c_d.e-f", "ab+c_d.e-f"),
            ("multipart/form-data; boundary=-", "-"),
            ("multipart/form-data; BOUNDARY=abc ", "abc"),
        ] {
            assert_eq!(parse(written), Ok(boundary), "{written}");
        }
        let longest = "b".repeat(70);
        assert_eq!(parse(&format!("multipart/form-data; boundary={longest}")), Ok(longest.as_str()));
    }

    #[test]
    fn a_boundary_that_can_be_read_in_two_ways_is_refused() {
        for written in [
            "",
            "application/json",
            "multipart/mixed; boundary=abc",
            "multipart/form-datax; boundary=abc",
            "text/plain; multipart/form-data; boundary=abc",
            "multipart/form-data",
            "multipart/form-data; charset=utf-8",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a; boundary=a",
            "multipart/form-data; boundary=a; Boundary=b",
            "multipart/form-data; xboundary=a; boundary=b",
            "multipart/form-data; boundary*=utf-8''a",
            "multipart/form-data; boundary*0=a; boundary*1=b",
            "multipart/form-data; charset=\"boundary=a\"; boundary=b",
            "multipart/form-data; boundary=\"a b\"",
            "multipart/form-data; boundary=\"a=b\"",
            "multipart/form-data; boundary=\"a\\b\"",
            "multipart/form-data; boundary=a=b",
            "multipart/form-data; boundary=a, multipart/form-data; boundary=b",
            "multipart/form-data boundary=a",
            "multipart/form-data; boundary=é",
            "multipart/form-data; boundary='a'",
            "multipart/form-data; boundary=a; charset=utf-7",
            "multipart/form-data; charset=utf-16; boundary=a",
            "multipart/form-data; boundary=a; version=1",
            "multipart/form-data; boundary=a;",
        ] {
            assert!(parse(written).is_err(), "{written}: {:?}", parse(written));
        }
        let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
        assert_eq!(parse(&long), Err("names a boundary of more than 70 characters: name a shorter one"));
    }
}
