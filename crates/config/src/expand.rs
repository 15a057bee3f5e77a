//! Variables of the environment in the values of a file: `${VAR}`, `${VAR:-default}` and `${VAR:?message}`, as
//! the POSIX shell means them (parameter expansion); `$$` is a `$`.

use thiserror::Error;

/// Looks a variable of the environment up; `None` where it is not set.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Puts the values of variables in. Their own content is taken as it is.
///
/// # Errors
/// When a variable without a default is not set, or what follows `${` is none of the three forms.
pub(super) fn expand(text: &str, environment: &Environment<'_>) -> Result<String, ExpansionError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            after
        } else if let Some(after) = after.strip_prefix('{') {
            let (expression, after) = after.split_once('}').ok_or(ExpansionError::Unclosed)?;
            expanded.push_str(&value(expression, environment)?);
            after
        } else {
            expanded.push('$');
            after
        };
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// What stands for the expression between the braces. As in the shell, `:-` and `:?` take an empty variable for
/// one that is not set.
fn value(expression: &str, environment: &Environment<'_>) -> Result<String, ExpansionError> {
    let name_end = expression.find(|character: char| !is_of_name(character)).unwrap_or(expression.len());
    let (name, form) = expression.split_at(name_end);
    if name.is_empty() || name.starts_with(|character: char| character.is_ascii_digit()) || form.contains("${") {
        return Err(ExpansionError::Form);
    }
    let set = environment(name);
    let filled = set.clone().filter(|value| !value.is_empty());
    if form.is_empty() {
        set.ok_or_else(|| ExpansionError::Unset { name: name.to_owned() })
    } else if let Some(default) = form.strip_prefix(":-") {
        Ok(filled.unwrap_or_else(|| default.to_owned()))
    } else if let Some(message) = form.strip_prefix(":?") {
        filled.ok_or_else(|| ExpansionError::Required { name: name.to_owned(), message: message.to_owned() })
    } else {
        Err(ExpansionError::Form)
    }
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Why a value cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum ExpansionError {
    /// The variable is not set and there is no default.
    #[error("the environment variable `{name}` is not set; set it, or write ${{{name}:-default}}")]
    Unset { name: String },
    /// The variable is not set, or empty, and the file says what that means.
    #[error("the environment variable `{name}` is not set{}", said(message))]
    Required { name: String, message: String },
    /// A `${` without its `}`.
    #[error("`${{` without its `}}`; a literal `$` before a `{{` is written `$$`")]
    Unclosed,
    /// None of the three forms.
    #[error("unknown form of variable; accepted: ${{VAR}}, ${{VAR:-default}} and ${{VAR:?message}}, not nested")]
    Form,
}

/// What the file says of a variable, behind a colon.
fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_test(text: &str) -> Result<String, ExpansionError> {
        expand(text, &|name| match name {
            "SET" => Some("it${SET}$$".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn every_form_is_expanded() {
        let expected = [
            ("plain", "plain"),
            ("${SET}", "it${SET}$$"),
            ("a ${EMPTY}b${SET:-x}", "a bit${SET}$$"),
            ("${EMPTY:-default}", "default"),
            ("${UNSET:-}", ""),
            ("${UNSET:-a:-b?$}c", "a:-b?$c"),
            ("${SET:?needed}", "it${SET}$$"),
            ("$$", "$"),
            ("$${SET}", "${SET}"),
            ("$HOME costs 5$", "$HOME costs 5$"),
        ];
        for (text, value) in expected {
            assert_eq!(in_test(text).as_deref(), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_refused() {
        let error = |text| in_test(text).unwrap_err().to_string();
        assert_eq!(
            error("${UNSET}"),
            "the environment variable `UNSET` is not set; set it, or write ${UNSET:-default}"
        );
        assert_eq!(error("${EMPTY:?ask Ada}"), "the environment variable `EMPTY` is not set: ask Ada");
        assert_eq!(error("${UNSET:?}"), "the environment variable `UNSET` is not set");
        assert_eq!(in_test("x${SET"), Err(ExpansionError::Unclosed));
        for text in ["${}", "${1A}", "${SET-x}", "${SET:+x}", "${ SET}", "${UNSET:-${SET}}", "${Ä}"] {
            assert_eq!(in_test(text), Err(ExpansionError::Form), "{text}");
        }
    }

    proptest! {
        #[test]
        fn doubled_dollars_give_any_text_back(text in "[a${}:?-]{0,20}") {
            prop_assert_eq!(in_test(&text.replace('$', "$$")).unwrap(), text);
        }
    }
}
