//! The headers of a part: its name, whether it is a file, and what else bears on how its content
//! is read (RFC 7578 section 4).

use super::parameter::{Parameter, is_token, parameters};

/// What the headers of a part say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Head<'a> {
    pub name: &'a str,
    /// Whether it has a filename.
    pub has_filename: bool,
    pub content_type: Option<&'a str>,
    /// Its content's length, as it is stated.
    pub length: Option<&'a str>,
    encoding: Option<&'a str>,
    /// Whether it has headers that say nothing to us.
    pub has_others: bool,
}

impl<'a> Head<'a> {
    /// The headers in `bytes`, without the empty line after them, or what is wrong with them.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "a part's headers are not UTF-8: write them so")?;
        let mut head = Self::default();
        let mut disposition = None;
        for line in text.split("\r\n") {
            let (name, value) = header(line)?;
            let known = match name.to_ascii_lowercase().as_str() {
                "content-disposition" => &mut disposition,
                "content-type" => &mut head.content_type,
                "content-length" => &mut head.length,
                "content-transfer-encoding" => &mut head.encoding,
                _ => {
                    head.has_others = true;
                    continue;
                }
            };
            if known.replace(value).is_some() {
                return Err("a part has a header twice: send it once");
            }
        }
        let disposition = disposition.ok_or("a part has no content-disposition: name it there")?;
        (head.name, head.has_filename) = named(disposition)?;
        head.check()
    }

    fn check(self) -> Result<Self, &'static str> {
        let is_plain =
            |encoding: &str| ["7bit", "8bit", "binary"].iter().any(|plain| encoding.eq_ignore_ascii_case(plain));
        if !self.encoding.is_none_or(is_plain) {
            return Err("a part has a content-transfer-encoding: send its bytes as they are");
        }
        if self.content_type.is_some_and(|kind| starts_with(kind, "multipart/")) {
            return Err("a part is a multipart itself: send its parts in the form");
        }
        Ok(self)
    }

    /// Whether the part is a file, or what only a file is.
    pub fn is_file(&self) -> bool {
        self.has_filename || self.content_type.is_some_and(|kind| !starts_with(kind, "text/"))
    }
}

fn starts_with(kind: &str, start: &str) -> bool {
    kind.get(..start.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(start))
}

/// A line's name and value. No control character is taken, so that no line ends but by CRLF, and
/// none goes on in the next.
fn header(line: &str) -> Result<(&str, &str), &'static str> {
    if line.chars().any(|character| character.is_control() && character != '\t') {
        return Err("a control character stands in a part's headers: end lines with CRLF and use no other");
    }
    let (name, value) = line.split_once(':').unwrap_or_default();
    if is_token(name) {
        Ok((name, value.trim_matches([' ', '\t'])))
    } else {
        Err("a line of a part's headers has no name: write each as `name: value` in one line")
    }
}

const ORDER: &str = "a content-disposition is not `form-data; name=\"…\"; filename=\"…\"`: write it so";
const PARAMETERS: &str = "a name or filename has a quote or a semicolon, or its quotes are open: leave them out";

/// The name in a Content-Disposition, and whether there is a filename beside it.
fn named(disposition: &str) -> Result<(&str, bool), &'static str> {
    let rest = disposition.strip_prefix("form-data").ok_or(ORDER)?;
    let parameters = parameters(rest).map_err(|_| PARAMETERS)?;
    let (first, others) = parameters.split_first().ok_or(ORDER)?;
    let are_filenames = match others {
        [] => true,
        [one] => is_filename(one),
        [one, other] => is_filename(one) && is_filename(other) && one.name != other.name,
        _ => false,
    };
    if first.name != "name" || !are_filenames {
        return Err(ORDER);
    }
    if !is_plain_name(first.value) {
        return Err("a part's name is empty or has odd characters: use letters, digits and _.-[] alone");
    }
    Ok((first.value, !others.is_empty()))
}

/// `filename*` should not be sent (RFC 7578 section 4.2), and .NET does.
fn is_filename(parameter: &Parameter<'_>) -> bool {
    parameter.name == "filename" || parameter.name == "filename*" && !parameter.is_quoted
}

/// No escape, no percent-encoding and nothing beyond ASCII, all of which parsers decode each in
/// its own way.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-[]".contains(&byte))
}
