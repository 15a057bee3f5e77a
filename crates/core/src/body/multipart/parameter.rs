//! The parameters of a header (RFC 9110 section 5.6.6): `; name=value; name="value"`. Parsers that
//! cut at every semicolon, and those that know no backslash, must come to the same.

/// One parameter, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parameter<'a> {
    pub name: &'a str,
    /// Without its quotes.
    pub value: &'a str,
    pub is_quoted: bool,
}

const BLANKS: [char; 2] = [' ', '\t'];

/// The parameters that `text` consists of, or what is wrong with it.
pub(super) fn parameters(text: &str) -> Result<Vec<Parameter<'_>>, &'static str> {
    let mut parameters = Vec::new();
    let mut rest = text.trim_end_matches(BLANKS);
    while !rest.is_empty() {
        let parameter;
        (parameter, rest) = first(rest)?;
        parameters.push(parameter);
    }
    Ok(parameters)
}

/// The parameter that `text` begins with, and what follows it.
fn first(text: &str) -> Result<(Parameter<'_>, &str), &'static str> {
    let text = text.trim_start_matches(BLANKS).strip_prefix(';');
    let text = text.ok_or("has something other than a semicolon between its parameters: write `; name=value`")?;
    let (name, text) = text.trim_start_matches(BLANKS).split_once('=').unwrap_or_default();
    if !is_token(name) {
        return Err("has a parameter without a name: write `; name=value`");
    }
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|character| !is_token_character(character)).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        let parameter = Parameter { name, value, is_quoted: false };
        return if value.is_empty() { Err("has a parameter without a value") } else { Ok((parameter, rest)) };
    };
    let (value, rest) = quoted.split_once('"').ok_or("has a quoted value that does not end: close the quotes")?;
    if value.ends_with('\\') || value.contains(';') {
        return Err("has a quote or a semicolon within a quoted value: leave it out");
    }
    Ok((Parameter { name, value, is_quoted: true }, rest))
}

/// Whether `text` is a token (RFC 9110 section 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_character)
}

fn is_token_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(&str, &str, bool)>, &'static str> {
        let all = parameters(text)?;
        Ok(all.into_iter().map(|parameter| (parameter.name, parameter.value, parameter.is_quoted)).collect())
    }

    #[test]
    fn parameters_are_tokens_or_quoted() {
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(read("; a=b"), Ok(vec![("a", "b", false)]));
        assert_eq!(read(";a=b;\t c=\"d e\" "), Ok(vec![("a", "b", false), ("c", "d e", true)]));
        assert_eq!(read(r#"; a="" ; b*=utf-8''x%20y"#), Ok(vec![("a", "", true), ("b*", "utf-8''x%20y", false)]));
        assert_eq!(read(r#"; a="b\c=d""#), Ok(vec![("a", r"b\c=d", true)]));
    }

    #[test]
    fn what_parsers_cut_differently_is_refused() {
        for text in [
            "a=b",
            ";",
            "; a=b;",
            "; a",
            "; =b",
            "; a =b",
            "; a= b",
            "; a=",
            "; a=b c",
            "; a=b=c",
            "; a=b,c=d",
            "; a=é",
            r#"; a="b"#,
            r#"; a="b"c"#,
            r#"; a=b"c""#,
            r#"; a="b\"; c=d""#,
            r#"; a="b\""#,
            r#"; a="b\\""#,
            r#"; a="b; c=d""#,
        ] {
            assert!(read(text).is_err(), "{text}: {:?}", read(text));
        }
    }
}
