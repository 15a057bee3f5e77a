//! The values by which users sign in by an issuer, and users who are made because somebody does.

use jiff::Timestamp;
use keymeter_core::{key::KeyHash, model_name::has_control, printable::steers};
use serde_json::{Value, json};

use crate::{
    Plane,
    caller::new_token,
    error::ApiError,
    store::{
        Tx,
        audit::{Actor, ActorKind, OPERATOR, note},
        people::{self, User},
    },
};

/// Refuses what no issuer says of anybody.
pub(crate) fn check_sign_in(sign_in: &str) -> Result<(), ApiError> {
    if is_sign_in(sign_in) {
        return Ok(());
    }
    let message =
        "the value by which a user signs in has 1 to 255 characters, without control characters or spaces around them";
    Err(ApiError::invalid("sign_in", message))
}

/// Whether a user may sign in by this value.
pub(crate) fn is_sign_in(value: &str) -> bool {
    (1..=255).contains(&value.chars().count()) && value.trim() == value && !has_control(value)
}

/// Refuses a value by which another user signs in.
pub(crate) async fn must_be_free(tx: &mut Tx, sign_in: Option<&str>, id: &str) -> Result<(), ApiError> {
    let Some(sign_in) = sign_in else { return Ok(()) };
    match people::signs_in_by(tx, sign_in).await? {
        Some(other) if other != id => {
            let message = format!("`{other}` signs in by `{sign_in}` already: no two users do by the same");
            Err(ApiError::conflict(message).at("sign_in"))
        }
        _ => Ok(()),
    }
}

/// What the audit says of a new user.
pub(crate) fn creation(name: &str, sign_in: Option<&str>) -> Value {
    match sign_in {
        Some(sign_in) => json!({"name": name, "sign_in": sign_in}),
        None => json!({"name": name}),
    }
}

/// Somebody who signs in for the first time.
pub(crate) struct Newcomer<'claims> {
    /// The claim's value.
    pub(crate) sign_in: &'claims str,
    /// What the issuer says that they are called.
    pub(crate) name: Option<&'claims str>,
    /// The address that they come from.
    pub(crate) address: String,
}

/// How many ids are tried that are derived from the value; after them one is made up.
const DERIVED: usize = 9;

impl Newcomer<'_> {
    /// Makes a user of them. Of several who sign in at once by one value, one is made, and all are that one.
    ///
    /// # Errors
    /// When the database does not answer, or the value is none by which a user can sign in.
    pub(crate) async fn make(&self, plane: &Plane) -> Result<(User, KeyHash), ApiError> {
        check_sign_in(self.sign_in)?;
        let base = derived_id(self.sign_in);
        for number in 1..=DERIVED + 2 {
            let id = match number {
                1 => base.clone(),
                2..=DERIVED => format!("{base}-{number}"),
                _ => format!("{base}-{}", made_up()?),
            };
            // Another user may have the id; and whoever signed in at the same time may have made this one.
            if self.try_id(plane, &id).await? {
                tracing::info!("a user {id} is made for somebody who signed in");
            }
            if let Some(found) = plane.store.user_by_sign_in(self.sign_in).await? {
                return Ok(found);
            }
        }
        Err(ApiError::conflict("no id could be found for a new user; ask the operator to make one"))
    }

    /// Makes the user with this id, if it is free and nobody signs in by the value yet.
    async fn try_id(&self, plane: &Plane, id: &str) -> Result<bool, ApiError> {
        if id == OPERATOR {
            return Ok(false);
        }
        let now = Timestamp::now();
        // Nobody gets to see this token: the user makes another, if they want one.
        let (_, hash) = new_token()?;
        let name = displayed(self.name.unwrap_or(self.sign_in), id);
        let mut tx = plane.store.begin().await?;
        match people::create_user(&mut tx, (id, &name), Some(self.sign_in), &hash, now).await {
            Err(error) if error.is_duplicate() => return Ok(false),
            made => made?,
        }
        let actor = Actor { kind: ActorKind::User, name: id.to_owned(), address: self.address.clone() };
        note(&mut tx, &actor, "user.create", id, &creation(&name, Some(self.sign_in)), now).await?;
        plane.store.commit(tx).await?;
        Ok(true)
    }
}

/// An id of a user, of what stands before the `@` of an e-mail address, or of all of another value.
fn derived_id(value: &str) -> String {
    let local = value.split_once('@').map_or(value, |(local, _)| local);
    let plain =
        |letter: char| if letter.is_ascii_alphanumeric() || letter == '_' { letter.to_ascii_lowercase() } else { '-' };
    let id: String = local.chars().map(plain).take(48).collect();
    let parts: Vec<_> = id.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "user".to_owned() } else { parts.join("-") }
}

/// The name of a user, of what the issuer says.
fn displayed(name: &str, id: &str) -> String {
    let plain: String = name.chars().filter(|letter| !steers(*letter)).take(50).collect();
    let plain = plain.trim();
    if plain.is_empty() { id.to_owned() } else { plain.to_owned() }
}

fn made_up() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 4];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_derived_of_any_value() {
        for (value, id) in [
            ("ada@example.com", "ada"),
            ("Ada.Lovelace+work@example.com", "ada-lovelace-work"),
            ("auth0|5f7c", "auth0-5f7c"),
            ("@example.com", "user"),
            ("--", "user"),
            ("ädä@example.com", "d"),
            ("operator@example.com", "operator"),
        ] {
            assert_eq!(derived_id(value), id, "{value}");
        }
        assert_eq!(derived_id(&"a".repeat(255)).len(), 48);
    }

    #[test]
    fn a_name_is_one_that_a_user_may_have() {
        for (name, shown) in [(" Ada L. ", "Ada L."), ("\u{202e}", "ada"), ("", "ada"), ("A\u{0}d\na", "Ada")] {
            assert_eq!(displayed(name, "ada"), shown, "{name:?}");
        }
        assert_eq!(displayed(&"ä".repeat(60), "ada").chars().count(), 50);
    }
}
