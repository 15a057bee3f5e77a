//! `keymeter users` and `keymeter teams`: who there is, on a control plane.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::remote::{Output, RemoteArgs, RemoteFault, print_one, print_rows, print_secret, segment};
use crate::control::store::people::Role;

/// Make users and let them go.
#[derive(Debug, Args)]
pub(super) struct UsersArgs {
    #[command(subcommand)]
    command: Users,
}

#[derive(Debug, Subcommand)]
enum Users {
    /// Make a user; their token is printed this once
    Create {
        #[command(flatten)]
        remote: RemoteArgs,
        /// 1 to 64 characters of a-z, 0-9 and _
        id: String,
        /// What people call them: 3 to 50 characters
        #[arg(long)]
        name: String,
    },
    /// List all users
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// How to print
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Let a user go, with their own keys
    Delete {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Whom
        id: String,
    },
}

/// Make teams, and put people on them.
#[derive(Debug, Args)]
pub(super) struct TeamsArgs {
    #[command(subcommand)]
    command: Teams,
}

#[derive(Debug, Subcommand)]
enum Teams {
    /// Make a team
    Create {
        #[command(flatten)]
        remote: RemoteArgs,
        /// 1 to 64 characters of a-z, 0-9 and _
        id: String,
        /// What people call it: 3 to 50 characters
        #[arg(long)]
        name: String,
        /// A user who is on no team
        #[arg(long)]
        owner: String,
    },
    /// Show a team and who is on it
    Show {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Which
        id: String,
        /// How to print
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Bring a user into a team, or give a member another role; to make another its owner is to hand it over
    Add {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Which team
        id: String,
        /// Whom
        user: String,
        /// As what: member, admin or owner
        #[arg(long, default_value_t = Role::Member)]
        role: Role,
    },
    /// Take a user off a team
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Which team
        id: String,
        /// Whom
        user: String,
    },
}

const USERS: [(&str, &str); 5] =
    [("ID", "id"), ("NAME", "name"), ("TEAM", "team"), ("ROLE", "role"), ("SINCE", "created_at")];

pub(super) fn users(UsersArgs { command }: UsersArgs) -> Result<(), RemoteFault> {
    match command {
        Users::Create { remote, id, name } => {
            let made = remote.open()?.call(Method::POST, "/api/v1/users", Some(&json!({"id": id, "name": name})))?;
            print_secret(&made, "token", &format!("created {id}"))
        }
        Users::List { remote, output } => print_rows(&remote.open()?.list("/api/v1/users")?, &USERS, output),
        Users::Delete { remote, id } => {
            remote.open()?.call(Method::DELETE, &format!("/api/v1/users/{}", segment(&id)), None)?;
            eprintln!("deleted {id}");
            Ok(())
        }
    }
}

pub(super) fn teams(TeamsArgs { command }: TeamsArgs) -> Result<(), RemoteFault> {
    let member = |id: &str, user: &str| format!("/api/v1/teams/{}/members/{}", segment(id), segment(user));
    match command {
        Teams::Create { remote, id, name, owner } => {
            let team = json!({"id": id, "name": name, "owner": owner});
            remote.open()?.call(Method::POST, "/api/v1/teams", Some(&team))?;
            eprintln!("created {id}");
        }
        Teams::Show { remote, id, output } => {
            let team = remote.open()?.call(Method::GET, &format!("/api/v1/teams/{}", segment(&id)), None)?;
            print_one(&team, output)?;
        }
        Teams::Add { remote, id, user, role } => {
            remote.open()?.call(Method::PUT, &member(&id, &user), Some(&json!({"role": role})))?;
            eprintln!("{user} is {role} of {id}");
        }
        Teams::Remove { remote, id, user } => {
            remote.open()?.call(Method::DELETE, &member(&id, &user), None)?;
            eprintln!("{user} is no longer on {id}");
        }
    }
    Ok(())
}
