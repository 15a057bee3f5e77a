//! Lists of teams and users, from which an owner is chosen.

use std::sync::Arc;

use super::{
    form::{Choice, Choices},
    words::cents,
};
use crate::{
    Plane,
    store::{StoreError, holders::Holder},
};
use keymeter_core::money::Usd;

/// As many of each as a list shows. Where there are more, an id can be typed, and the first ones are proposed.
const MOST: i64 = 200;

/// What stands for nobody: no id has such characters.
pub const NOBODY: &str = "(nobody)";

/// Teams, and users who are on none: whose a new key can be. Those with an empty wallet cannot pay for one.
///
/// # Errors
/// When the database does not answer.
pub async fn payers(plane: &Arc<Plane>) -> Result<Choices, StoreError> {
    let first = vec![(String::new(), "Charged to nobody".to_owned())];
    choices(plane, first, true, |holder| {
        let is_empty = holder.balance <= Usd::ZERO;
        let wallet = if is_empty { "its wallet is empty".to_owned() } else { cents(holder.balance) };
        Choice { words: format!("{} · {wallet}", named(holder)), value: holder.id.clone(), is_disabled: is_empty }
    })
    .await
}

/// All teams and all users, after what is said `first`.
///
/// # Errors
/// When the database does not answer.
pub async fn all(plane: &Arc<Plane>, first: &[(&str, &str)]) -> Result<Choices, StoreError> {
    let first = first.iter().map(|(value, words)| ((*value).to_owned(), (*words).to_owned())).collect();
    choices(plane, first, false, plain).await
}

/// Users who are on no team.
///
/// # Errors
/// When the database does not answer.
pub async fn free_users(plane: &Arc<Plane>) -> Result<Choices, StoreError> {
    let users = plane.store.user_holders(true, MOST + 1).await?;
    let is_whole = is_short(&users);
    let first = vec![(String::new(), "Choose a user".to_owned())];
    Ok(Choices { first, groups: vec![("Users on no team", users.iter().map(plain).collect())], is_whole })
}

/// All teams, after what is said `first`.
///
/// # Errors
/// When the database does not answer.
pub async fn teams(plane: &Arc<Plane>, first: (&str, &str)) -> Result<Choices, StoreError> {
    let teams = plane.store.team_holders(MOST + 1).await?;
    let is_whole = is_short(&teams);
    let first = vec![(first.0.to_owned(), first.1.to_owned())];
    Ok(Choices { first, groups: vec![("Teams", teams.iter().map(plain).collect())], is_whole })
}

async fn choices(
    plane: &Arc<Plane>,
    first: Vec<(String, String)>,
    is_on_no_team: bool,
    choice: impl Fn(&Holder) -> Choice,
) -> Result<Choices, StoreError> {
    let teams = plane.store.team_holders(MOST + 1).await?;
    let users = plane.store.user_holders(is_on_no_team, MOST + 1).await?;
    let is_whole = is_short(&teams) && is_short(&users);
    let groups = vec![("Teams", teams.iter().map(&choice).collect()), ("Users", users.iter().map(&choice).collect())];
    Ok(Choices { first, groups, is_whole })
}

fn is_short(holders: &[Holder]) -> bool {
    i64::try_from(holders.len()).is_ok_and(|length| length <= MOST)
}

fn plain(holder: &Holder) -> Choice {
    Choice { words: named(holder), value: holder.id.clone(), is_disabled: false }
}

fn named(holder: &Holder) -> String {
    if holder.name == holder.id { holder.id.clone() } else { format!("{} ({})", holder.name, holder.id) }
}
