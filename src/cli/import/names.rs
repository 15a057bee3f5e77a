//! Names as keymeter takes them, of names that other programs have.

use keymeter_core::key::KeyName;

/// A key's name of what it was called elsewhere, and what was changed in it.
pub(super) fn key_name(called: Option<&str>, otherwise: &str) -> (Option<KeyName>, Option<String>) {
    let Some(called) = called.map(str::trim).filter(|called| !called.is_empty()) else {
        return (otherwise.parse().ok(), None);
    };
    if let Ok(name) = called.parse() {
        return (Some(name), None);
    }
    let plain: String = called.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    let plain = plain.trim();
    let name = if plain.chars().count() < 3 {
        format!("key {plain}")
    } else {
        plain.chars().take(50).collect::<String>().trim().to_owned()
    };
    let why = format!("a name has 3 to 50 characters: it is called `{name}`");
    (name.parse().ok(), Some(why))
}

/// What a team or an owner may be called: 1 to 64 characters.
pub(super) fn party(name: &str) -> Option<String> {
    let fits = (1..=64).contains(&name.chars().count());
    (fits && name.trim() == name && !name.chars().any(char::is_control)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_to_fit() {
        for (called, expected) in [
            (Some("prod app"), "prod app"),
            (Some("  prod app "), "prod app"),
            (Some("p"), "key p"),
            (Some("a\tb\tc"), "a b c"),
            (Some(""), "sk-...abcd"),
            (None, "sk-...abcd"),
            (Some(&"n".repeat(60)), &"n".repeat(50)),
        ] {
            let (name, _) = key_name(called, "sk-...abcd");
            assert_eq!(name.unwrap().as_str(), expected);
        }
    }
}
