//! `keymeter users` and `keymeter teams`: the users and teams of a control plane.

use clap::{Args, Subcommand};
use keymeter_config::keyfile::Holder;
use keymeter_control::store::people::Role;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    complete,
    keys::{KeysError, SharedLimitsArgs, limits_of},
    remote::{Output, RemoteArgs, RemoteError, print_one, print_rows, print_secret, segment},
};

/// Create, list and delete users.
#[derive(Debug, Args)]
pub(super) struct UsersArgs {
    #[command(subcommand)]
    command: Users,
}

#[derive(Debug, Subcommand)]
enum Users {
    /// Create a user; the token is printed once
    Create {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user's id: 1 to 64 characters of a-z, 0-9, _ and -
        id: String,
        /// The user's name: 1 to 50 characters
        #[arg(long)]
        name: String,
        /// What the issuer tells the user by, such as an e-mail address, where people sign in by one (`control.oidc`)
        #[arg(long, value_name = "VALUE")]
        sign_in: Option<String>,
    },
    /// Change a user's name, or what the user signs in by
    Update {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user's id
        #[arg(add = complete::user_ids())]
        id: String,
        /// The new name: 1 to 50 characters
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        sign_in: SignInArgs,
    },
    /// List all users
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The output format
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Set the limits of a user, of all their own keys together
    Limits(SharedLimitsArgs),
    /// Give a user another token, which is printed once; the one before stops working at once
    RotateToken {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user's id
        #[arg(add = complete::user_ids())]
        id: String,
    },
    /// Delete a user and the user's own keys
    Delete {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user's id
        #[arg(add = complete::user_ids())]
        id: String,
    },
}

/// What a user signs in by from now on.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct SignInArgs {
    /// What the issuer tells the user by, such as an e-mail address
    #[arg(long, value_name = "VALUE")]
    sign_in: Option<String>,
    /// Let the user sign in with a token only
    #[arg(long)]
    no_sign_in: bool,
}

/// Create, show and delete teams, and manage their members and invitations.
#[derive(Debug, Args)]
pub(super) struct TeamsArgs {
    #[command(subcommand)]
    command: Teams,
}

#[derive(Debug, Subcommand)]
enum Teams {
    /// List teams: with the operator's token all, else your own
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The output format
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Create a team
    Create {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The team's id: 1 to 64 characters of a-z, 0-9, _ and -
        id: String,
        /// The team's name: 1 to 50 characters
        #[arg(long)]
        name: String,
        /// The team's owner: a user who is on no team
        #[arg(long)]
        owner: String,
    },
    /// Set the limits of a team, of all its keys together
    Limits(SharedLimitsArgs),
    /// Show a team and its members
    Show {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The team's id
        #[arg(add = complete::team_ids())]
        id: String,
        /// The output format
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Invite a user to a team, or change a member's role. A member becomes the owner on accepting the role. With the
    /// operator's token, the change takes effect at once
    Add {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The team's id
        #[arg(add = complete::team_ids())]
        id: String,
        /// The user's id
        #[arg(add = complete::user_ids())]
        user: String,
        /// The role: member, admin or owner
        #[arg(long, default_value_t = Role::Member)]
        role: Role,
    },
    /// Remove a user from a team, or withdraw the user's invitation
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The team's id
        #[arg(add = complete::team_ids())]
        id: String,
        /// The user's id
        #[arg(add = complete::user_ids())]
        user: String,
    },
    /// List your own open invitations, or those to a team
    Invitations {
        #[command(flatten)]
        remote: RemoteArgs,
        /// List the invitations to this team, as its owner, one of its admins or the operator
        #[arg(long)]
        team: Option<String>,
        /// The output format
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Accept an invitation to a team. Your own keys are archived until you leave the team
    Accept {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The team's id
        #[arg(add = complete::team_ids())]
        id: String,
        /// Accept only this role: member, admin or owner
        #[arg(long)]
        role: Option<Role>,
    },
    /// Decline an invitation to a team, which cannot invite you again for a week
    Decline {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The team's id
        #[arg(add = complete::team_ids())]
        id: String,
    },
    /// Delete a team with its keys; its members leave, and their own keys work again
    Delete {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The team's id
        #[arg(add = complete::team_ids())]
        id: String,
        /// The user or team that gets the balance of the team's wallet [default: it stays there]
        #[arg(long, value_name = "ID")]
        refund_to: Option<String>,
    },
}

const USERS: [(&str, &str); 6] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("TEAM", "team"),
    ("ROLE", "role"),
    ("SIGNS IN AS", "sign_in"),
    ("SINCE", "created_at"),
];

const TEAMS: [(&str, &str); 3] = [("ID", "id"), ("NAME", "name"), ("SINCE", "created_at")];

const INVITATIONS: [(&str, &str); 6] = [
    ("TEAM", "team"),
    ("NAME", "team_name"),
    ("USER", "user"),
    ("ROLE", "role"),
    ("BY", "invited_by"),
    ("SINCE", "created_at"),
];

pub(super) fn users(UsersArgs { command }: UsersArgs) -> Result<(), KeysError> {
    match command {
        Users::Limits(args) => return limits_of(Holder::Owner, "/api/v1/users", args),
        Users::Create { remote, id, name, sign_in } => {
            let mut user = json!({"id": id, "name": name});
            if let (Some(sign_in), Some(fields)) = (sign_in, user.as_object_mut()) {
                // A control plane of an earlier version knows no such field.
                fields.insert("sign_in".to_owned(), json!(sign_in));
            }
            let made = remote.open()?.call(Method::POST, "/api/v1/users", Some(&user))?;
            print_secret(&made, "token", &format!("created {id}"))?;
        }
        Users::Update { remote, id, name, sign_in: SignInArgs { sign_in, no_sign_in } } => {
            let mut changes = serde_json::Map::new();
            changes.extend(name.map(|name| ("name".to_owned(), json!(name))));
            changes.extend((no_sign_in || sign_in.is_some()).then(|| ("sign_in".to_owned(), json!(sign_in))));
            if changes.is_empty() {
                return Err(KeysError::NothingToChangeOfUser(id));
            }
            let path = format!("/api/v1/users/{}", segment(&id));
            remote.open()?.call(Method::PATCH, &path, Some(&changes.into()))?;
            eprintln!("updated {id}");
        }
        Users::List { remote, output } => print_rows(&remote.open()?.list("/api/v1/users")?, &USERS, output)?,
        Users::RotateToken { remote, id } => {
            let path = format!("/api/v1/users/{}/token", segment(&id));
            let made = remote.open()?.call(Method::POST, &path, None)?;
            print_secret(&made, "token", &format!("{id} has another token"))?;
        }
        Users::Delete { remote, id } => {
            remote.open()?.call(Method::DELETE, &format!("/api/v1/users/{}", segment(&id)), None)?;
            eprintln!("deleted {id}");
        }
    }
    Ok(())
}

pub(super) fn teams(TeamsArgs { command }: TeamsArgs) -> Result<(), KeysError> {
    let member = |id: &str, user: &str| format!("/api/v1/teams/{}/members/{}", segment(id), segment(user));
    match command {
        Teams::List { remote, output } => print_rows(&remote.open()?.list("/api/v1/teams")?, &TEAMS, output)?,
        Teams::Create { remote, id, name, owner } => {
            let team = json!({"id": id, "name": name, "owner": owner});
            remote.open()?.call(Method::POST, "/api/v1/teams", Some(&team))?;
            eprintln!("created {id}");
        }
        Teams::Limits(args) => return limits_of(Holder::Team, "/api/v1/teams", args),
        Teams::Show { remote, id, output } => {
            let team = remote.open()?.call(Method::GET, &format!("/api/v1/teams/{}", segment(&id)), None)?;
            print_one(&team, output)?;
        }
        Teams::Add { remote, id, user, role } => {
            let put = remote.open()?.call(Method::PUT, &member(&id, &user), Some(&json!({"role": role})))?;
            match put.get("state").and_then(Value::as_str) {
                Some("invited") => eprintln!("invited: {user} must accept to be {role} of {id}"),
                _ => eprintln!("{user} is {role} of {id}"),
            }
        }
        Teams::Remove { remote, id, user } => {
            remote.open()?.call(Method::DELETE, &member(&id, &user), None)?;
            eprintln!("{user} is neither on {id} nor invited to it any more");
        }
        Teams::Invitations { remote, team, output } => {
            let of_team = team.map(|team| format!("?team={}", segment(&team))).unwrap_or_default();
            print_rows(&remote.open()?.list(&format!("/api/v1/invitations{of_team}"))?, &INVITATIONS, output)?;
        }
        Teams::Accept { remote, id, role } => {
            let role = role.map_or(Value::Null, |role| json!(role));
            let accepted = answer(&remote, &id, &json!({"accept": true, "role": role}))?;
            let role = accepted.get("role").and_then(Value::as_str).unwrap_or_default();
            eprintln!("accepted: you are {role} of {id}");
        }
        Teams::Decline { remote, id } => {
            answer(&remote, &id, &json!({"accept": false}))?;
            eprintln!("declined: {id} does not invite you again for a week");
        }
        Teams::Delete { remote, id, refund_to } => {
            let team = format!("/api/v1/teams/{}", segment(&id));
            remote.open()?.call(Method::DELETE, &team, Some(&json!({"refund_to": refund_to})))?;
            match refund_to {
                Some(to) => eprintln!("deleted {id}; what was in its wallet is in that of {to}"),
                None => eprintln!("deleted {id}; what was in its wallet stays there"),
            }
        }
    }
    Ok(())
}

/// Answers one of the caller's invitations.
fn answer(remote: &RemoteArgs, team: &str, answer: &Value) -> Result<Value, RemoteError> {
    remote.open()?.call(Method::POST, &format!("/api/v1/teams/{}/invitation", segment(team)), Some(answer))
}
