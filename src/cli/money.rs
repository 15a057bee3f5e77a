//! `keymeter wallets`, `keymeter usage` and `keymeter audit`: balances, usage and the audit log of a control plane.

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use keymeter_core::printable::plain_json;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    complete,
    keys::time,
    remote::{Output, RemoteArgs, RemoteError, print, print_one, print_rows, segment},
};

/// Show and credit wallets.
#[derive(Debug, Args)]
pub(super) struct WalletsArgs {
    #[command(subcommand)]
    command: Wallets,
}

#[derive(Debug, Subcommand)]
enum Wallets {
    /// List wallets: with the operator's token all, else your own and your team's
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The output format
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show a wallet
    Show {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user or team that owns the wallet
        #[arg(add = complete::wallet_owners())]
        owner: String,
        /// The output format
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Credit a wallet
    Credit {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user or team that owns the wallet
        #[arg(add = complete::wallet_owners())]
        owner: String,
        /// The amount in US dollars, such as 12.50
        usd: String,
        /// A key by which the credit counts once, however often it is sent
        #[arg(long, value_name = "KEY")]
        idempotency_key: String,
    },
}

/// Show usage.
#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// How usage is grouped; may be repeated [default: key]
    #[arg(long, value_enum, value_delimiter = ',')]
    by: Vec<Group>,
    /// The start, to the hour (RFC 3339), or a date
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// The end, to the hour (RFC 3339), or a date
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
    /// Only this key
    #[arg(long, add = complete::key_ids())]
    key: Option<String>,
    /// Only this team
    #[arg(long, add = complete::team_ids())]
    team: Option<String>,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    Key,
    Team,
    Model,
    Day,
    Hour,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// For spreadsheets
    Csv,
    /// For programs, one row a line
    Jsonl,
}

/// Show the audit log, the latest entry first.
#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn wallets(WalletsArgs { command }: WalletsArgs) -> Result<(), RemoteError> {
    let path = |owner: &str| format!("/api/v1/wallets/{}", segment(owner));
    match command {
        Wallets::List { remote, output } => {
            let columns = [("OWNER", "owner"), ("BALANCE $", "balance_usd")];
            print_rows(&remote.open()?.list("/api/v1/wallets")?, &columns, output)
        }
        Wallets::Show { remote, owner, output } => {
            print_one(&remote.open()?.call(Method::GET, &path(&owner), None)?, output)
        }
        Wallets::Credit { remote, owner, usd, idempotency_key } => {
            let credit = json!({"usd": usd, "idempotency_key": idempotency_key});
            let wallet = remote.open()?.call(Method::POST, &format!("{}/credits", path(&owner)), Some(&credit))?;
            let balance = wallet.get("balance_usd").and_then(Value::as_str).unwrap_or_default();
            eprintln!("{owner} has ${balance}");
            Ok(())
        }
    }
}

pub(super) fn usage(arguments: UsageArgs) -> Result<(), RemoteError> {
    let remote = arguments.remote.open()?;
    let groups = if arguments.by.is_empty() { vec![Group::Key] } else { arguments.by };
    let names: Vec<_> = groups.iter().map(|group| group.name()).collect();
    let mut path = format!("/api/v1/usage?group_by={}", names.join(","));
    let [from, to] = [arguments.from, arguments.to].map(|time| time.map(|time| time.to_string()));
    let filters = [("from", from), ("to", to), ("key", arguments.key), ("team", arguments.team)];
    for (name, value) in filters {
        if let Some(value) = value {
            path = format!("{path}&{name}={}", segment(&value));
        }
    }
    let output = match arguments.output {
        Format::Csv => return print(&remote.text(Method::GET, &format!("{path}&format=csv"), None)?),
        Format::Jsonl => {
            return print(&plain_json(&remote.text(Method::GET, &format!("{path}&format=jsonl"), None)?));
        }
        Format::Json => Output::Json,
        Format::Text => Output::Text,
    };
    let answer = remote.call(Method::GET, &path, None)?;
    let rows = answer.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
    let own = groups.iter().flat_map(|group| group.columns().iter().copied());
    let columns: Vec<_> = own.chain(SUMS).collect();
    print_rows(&rows, &columns, output)
}

pub(super) fn audit(AuditArgs { remote, output }: AuditArgs) -> Result<(), RemoteError> {
    print_rows(&remote.open()?.list("/api/v1/audit")?, &AUDIT, output)
}

const SUMS: [(&str, &str); 7] = [
    ("REQUESTS", "requests"),
    ("INPUT", "input_tokens"),
    ("CACHED", "cached_input_tokens"),
    ("OUTPUT", "output_tokens"),
    ("COST $", "cost_usd"),
    ("LAST USED", "last_used_at"),
    ("MODELS", "models"),
];

const AUDIT: [(&str, &str); 7] = [
    ("TIME", "at"),
    ("WHO", "actor"),
    ("KIND", "actor_kind"),
    ("FROM", "address"),
    ("DID", "action"),
    ("TO", "target"),
    ("DETAIL", "detail"),
];

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Team => "team",
            Self::Model => "model",
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }

    fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Key => &[("KEY", "key"), ("NAME", "key_name")],
            Self::Team => &[("TEAM", "team")],
            Self::Model => &[("MODEL", "model")],
            Self::Day => &[("DAY", "day")],
            Self::Hour => &[("HOUR", "hour")],
        }
    }
}
