//! What LiteLLM's database says of keys and teams, as keymeter says it. LiteLLM keeps the SHA-256 of a whole key, which is
//! what keymeter looks up: a key goes on working as it is.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use jiff::Timestamp;
use keymeter_config::keyfile::{Holder, Setting};
use keymeter_core::{
    glob::Glob,
    key::KeyHash,
    limit::{Carried, Limit, Quota},
    money::Usd,
};

use super::{
    ImportError,
    amounts::{above_zero, usd, usd_quota},
    names::{key_name, party},
    plan::{Plan, PlannedHolder, PlannedKey, Row, Wallet},
    table::{Table, TableRow},
};

/// LiteLLM's tables.
pub(super) struct Tables {
    keys: Table,
    teams: Option<Table>,
    budgets: Option<Table>,
}

const KEYS: &str = "LiteLLM_VerificationToken";
const TEAMS: &str = "LiteLLM_TeamTable";
const BUDGETS: &str = "LiteLLM_BudgetTable";

impl Tables {
    /// The tables in dumps, or without one of keys in the database of the environment.
    pub(super) fn read(keys: Option<&Path>, teams: Option<&Path>, budgets: Option<&Path>) -> Result<Self, ImportError> {
        Ok(Self {
            teams: Table::read_beside(keys, teams, TEAMS, "team_id")?,
            budgets: Table::read_beside(keys, budgets, BUDGETS, "budget_id")?,
            keys: Table::read(keys, KEYS, "token")?,
        })
    }

    #[cfg(test)]
    pub(super) fn new(keys: Table, teams: Option<Table>, budgets: Option<Table>) -> Self {
        Self { keys, teams, budgets }
    }
}

/// A team as its keys see it.
struct Team {
    /// What it is called here.
    name: String,
    models: Models,
    is_blocked: bool,
}

/// Models that may be called.
#[derive(Clone)]
enum Models {
    All,
    These(Vec<String>),
}

/// What is to be taken.
pub(super) fn plan(tables: &Tables, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let budgets: HashMap<_, _> = rows(tables.budgets.as_ref(), "budget_id").collect();
    let mut teams = HashMap::new();
    let aliases = names_of_teams(tables.teams.as_ref());
    for (id, row) in rows(tables.teams.as_ref(), "team_id") {
        let name = aliases.get(id).cloned().flatten();
        let told = Row::new("team", row.number, row.text("team_alias").unwrap_or(id), false);
        let Some(name) = name else {
            plan.others.push(told.not_taken("its name and its id have more than 64 characters, or odd ones"));
            continue;
        };
        match team(row, &name, told, now) {
            Ok((planned, team)) => {
                // One without limits is written nowhere, and its keys name it all the same.
                if planned.limits.is_empty() && planned.left.is_none() {
                    plan.others.push(planned.row);
                } else {
                    plan.holders.push(planned);
                }
                teams.insert(id, team);
            }
            Err(row) => plan.others.push(*row),
        }
    }
    for row in tables.keys.rows() {
        match key(row, &teams, &budgets, now) {
            Ok(key) => plan.keys.push(key),
            Err(row) => plan.others.push(*row),
        }
    }
    plan.balances = balances(&plan);
    plan
}

/// What wallets have: a team's of its own budget, a user's of those of their keys that are no team's.
fn balances(plan: &Plan) -> BTreeMap<Wallet, Usd> {
    let mut balances = BTreeMap::new();
    let mut add = |wallet, left: Usd| {
        let balance: &mut Usd = balances.entry(wallet).or_default();
        *balance = balance.saturating_add(left);
    };
    for holder in &plan.holders {
        if let (Holder::Team(name), Some(left)) = (&holder.holder, holder.left) {
            add(Wallet::Team(name.clone()), left);
        }
    }
    for key in &plan.keys {
        let owner = key.settings.iter().find_map(|setting| match setting {
            Setting::Owner(owner) => Some(owner.clone()),
            _ => None,
        });
        let is_teams = key.settings.iter().any(|setting| matches!(setting, Setting::Team(_)));
        if let (Some(owner), Some(left), false) = (owner, key.left, is_teams) {
            add(Wallet::Owner(owner), left);
        }
    }
    balances
}

/// The rows of a table by what stands in a column.
fn rows<'table>(
    table: Option<&'table Table>,
    column: &'static str,
) -> impl Iterator<Item = (&'table str, TableRow<'table>)> {
    table.into_iter().flat_map(Table::rows).filter_map(move |row| Some((row.text(column)?, row)))
}

/// What teams are called here: by their aliases, where no two have the same, else by their ids.
fn names_of_teams(table: Option<&Table>) -> HashMap<&str, Option<String>> {
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for alias in table.into_iter().flat_map(Table::rows).filter_map(|row| row.text("team_alias")) {
        *uses.entry(alias).or_default() += 1;
    }
    let name = |(id, row): (_, TableRow<'_>)| {
        let alias = row.text("team_alias").filter(|alias| uses.get(alias) == Some(&1)).and_then(party);
        (id, alias.or_else(|| party(id)))
    };
    rows(table, "team_id").map(name).collect()
}

fn team(row: TableRow<'_>, name: &str, mut told: Row, now: Timestamp) -> Result<(PlannedHolder, Team), Box<Row>> {
    let mut limits = Vec::new();
    let read =
        read_limits(row, None, &mut limits, &mut told, now).and_then(|closed| Ok((closed, row.array("models")?)));
    let (Limited { is_closed, left }, models) = read.map_err(|why| told.clone().not_taken(why))?;
    for column in ["model_max_budget", "budget_limits", "router_settings"] {
        if row.json(column).is_some() {
            told.note(format!("{column} is not taken"));
        }
    }
    let is_blocked = row.flag("blocked") || is_closed;
    if is_blocked {
        told.note("it is blocked: its keys are disabled");
    }
    let models =
        if models.is_empty() || models.iter().any(|model| model == ALL) { Models::All } else { Models::These(models) };
    let team = Team { name: name.to_owned(), models, is_blocked };
    let holder = Holder::Team(name.to_owned());
    Ok((PlannedHolder { row: told, holder, limits, left }, team))
}

/// Words of LiteLLM's that stand where a model's name does.
const ALL: &str = "all-proxy-models";
const OF_TEAM: &str = "all-team-models";
const NONE: &str = "no-default-models";
/// The team of the keys that LiteLLM's own page makes for whoever signs in.
const DASHBOARD: &str = "litellm-dashboard";
/// The user of keys that were made without one.
const NOBODY: &str = "default_user_id";

fn key(
    row: TableRow<'_>,
    teams: &HashMap<&str, Team>,
    budgets: &HashMap<&str, TableRow<'_>>,
    now: Timestamp,
) -> Result<PlannedKey, Box<Row>> {
    let otherwise = row.text("key_name").map_or_else(|| format!("LiteLLM key {}", row.number), str::to_owned);
    let mut told = Row::new("key", row.number, row.text("key_alias").unwrap_or(&otherwise), true);
    let refuse = |told: &Row, why: String| Box::new(told.clone().not_taken(why));
    if row.text("team_id") == Some(DASHBOARD) {
        return Err(refuse(&told, "it is a session of LiteLLM's page".to_owned()));
    }
    let hash = hash(row.text("token").unwrap_or_default(), &mut told)
        .ok_or_else(|| refuse(&told, "its token is no SHA-256 in hexadecimal digits".to_owned()))?;
    let (name, note) = key_name(row.text("key_alias"), &otherwise);
    if let Some(note) = note {
        told.note(note);
    }
    let name = name.ok_or_else(|| refuse(&told, "its name cannot be written".to_owned()))?;
    let mut settings = vec![Setting::Name(name), Setting::Hash(hash)];
    let team = row.text("team_id");
    let known = team.and_then(|id| teams.get(id));
    let mut is_enabled = !row.flag("blocked") && !known.is_some_and(|team| team.is_blocked);
    let mut limits = Vec::new();
    let budget = row.text("budget_id");
    let read = read_limits(row, budget.and_then(|id| budgets.get(id)), &mut limits, &mut told, now);
    let Limited { is_closed, left } = read.map_err(|why| refuse(&told, why))?;
    is_enabled &= !is_closed;
    if let Some(id) = budget.filter(|id| !budgets.contains_key(id)) {
        told.note(format!("the limits of its budget `{id}` are not taken: name the dump of {BUDGETS} by --budgets"));
    }
    let models = row.array("models").map_err(|why| refuse(&told, why))?;
    match models_of(models, team, known) {
        Ok(Models::All) => {}
        Ok(Models::These(models)) if models.is_empty() => {
            told.note("it may call no model: it is disabled");
            is_enabled = false;
        }
        Ok(Models::These(models)) => {
            let globs: Result<Vec<Glob>, _> = models.iter().map(|model| model.parse()).collect();
            settings.push(Setting::Models(globs.map_err(|error| refuse(&told, format!("models: {error}")))?));
        }
        Err(why) => return Err(refuse(&told, why)),
    }
    settings.extend((!is_enabled).then_some(Setting::Enabled(false)));
    if let Some(user) = row.text("user_id").filter(|user| *user != NOBODY) {
        match party(user) {
            Some(user) => settings.push(Setting::Owner(user)),
            None => told.note("its user is not taken: an owner's name has 1 to 64 characters"),
        }
    }
    match (known, team.map(party)) {
        (Some(team), _) => settings.push(Setting::Team(team.name.clone())),
        (None, Some(Some(id))) => {
            told.note(format!("its team's limits are not taken: its team is not in {TEAMS}"));
            settings.push(Setting::Team(id));
        }
        (None, Some(None)) => told.note("its team is not taken: a team's name has 1 to 64 characters"),
        (None, None) => {}
    }
    let expires = row.moment("expires").map_err(|why| refuse(&told, why))?;
    settings.extend(limits);
    settings.extend(expires.map(Setting::ExpiresAt));
    note_others(row, &mut told);
    Ok(PlannedKey { row: told, hash, settings, left })
}

fn hash(token: &str, told: &mut Row) -> Option<KeyHash> {
    if token.starts_with("sk-") {
        told.note("it was kept in the clear: its hash is");
        return Some(KeyHash::digest(token.as_bytes()));
    }
    format!("sha256:{token}").parse().ok()
}

/// The models that a key may call: those that it names and its team has.
fn models_of(models: Vec<String>, team: Option<&str>, known: Option<&Team>) -> Result<Models, String> {
    if models.iter().any(|model| model == NONE) {
        return Ok(Models::These(Vec::new()));
    }
    let wants_teams = models.iter().any(|model| model == OF_TEAM);
    let of_team = match known {
        Some(team) => team.models.clone(),
        None if wants_teams && team.is_some() => {
            return Err(format!(
                "it may call its team's models, and its team is not in {TEAMS}: name the dump by --teams"
            ));
        }
        None => Models::All,
    };
    if models.is_empty() || wants_teams || models.iter().any(|model| model == ALL) {
        return Ok(of_team);
    }
    let Models::These(of_team) = of_team else { return Ok(Models::These(models)) };
    let covers = |all: &String, one: &String| Glob::new(all).covers(&Glob::new(one));
    let within = models.iter().filter(|model| of_team.iter().any(|all| covers(all, model)));
    let narrower = of_team.iter().filter(|model| models.iter().any(|all| all != *model && covers(all, model)));
    let mut both: Vec<_> = within.chain(narrower).cloned().collect();
    both.dedup();
    Ok(Models::These(both))
}

/// What limits come to.
#[derive(Clone, Copy)]
struct Limited {
    /// Whether one lets nothing through.
    is_closed: bool,
    /// What is left of a budget that never begins anew.
    left: Option<Usd>,
}

/// Reads the limits of a key or a team, where they are not its own those of its `budget`.
fn read_limits(
    row: TableRow<'_>,
    budget: Option<&TableRow<'_>>,
    limits: &mut Vec<Setting>,
    told: &mut Row,
    now: Timestamp,
) -> Result<Limited, String> {
    let mut is_closed = false;
    for column in ["rpm_limit", "tpm_limit", "max_parallel_requests"] {
        let number = match (row.number(column)?, budget) {
            (None, Some(budget)) => budget.number(column)?,
            (own, _) => own,
        };
        match number.map(|number| u64::try_from(number).ok().and_then(Limit::at)) {
            Some(Some(limit)) => limits.push(match column {
                "rpm_limit" => Setting::RequestsPerMinute(limit),
                "tpm_limit" => Setting::TokensPerMinute(limit),
                _ => Setting::ConcurrentRequests(limit),
            }),
            Some(None) => {
                told.note(format!("{column} lets nothing through: it is disabled"));
                is_closed = true;
            }
            None => {}
        }
    }
    let of_money = if row.text("max_budget").is_some() { Some(row) } else { budget.copied() };
    let Some((from, text)) = of_money.and_then(|from| Some((from, from.text("max_budget")?))) else {
        return Ok(Limited { is_closed, left: None });
    };
    let most = usd(text).ok_or_else(|| format!("max_budget `{text}` is no amount of dollars"))?;
    let spent = row.text("spend").and_then(usd).unwrap_or(Usd::ZERO).max(Usd::ZERO);
    let Some(amount) = above_zero(most) else {
        told.note("max_budget lets nothing through: it is disabled");
        return Ok(Limited { is_closed: true, left: None });
    };
    let Some(duration) = from.text("budget_duration") else {
        let left = most.checked_sub(spent).unwrap_or_default().max(Usd::ZERO);
        if left == Usd::ZERO {
            told.note(format!("its budget of ${most} is used up: it is disabled"));
            return Ok(Limited { is_closed: true, left: None });
        }
        return Ok(Limited { is_closed, left: Some(left) });
    };
    let Some(name) = usd_quota(duration) else {
        told.note(format!("its budget of ${most} is not taken: no quota lasts `{duration}`, from 1m to 31d"));
        return Ok(Limited { is_closed, left: None });
    };
    let quota = Quota::new(name, amount, None).map_err(|error| error.to_string())?;
    let reset = row.moment("budget_reset_at")?.filter(|reset| *reset > now);
    let carried = reset.zip(u64::try_from(spent.nanos()).ok().filter(|spent| *spent > 0));
    let carried = carried.map(|(until, amount)| Carried { amount, until });
    if carried.is_none() && spent > Usd::ZERO {
        told.note(format!("${spent} was spent of a span that is over: it does not count"));
    }
    limits.push(Setting::Quota(Quota { carried, ..quota }));
    Ok(Limited { is_closed, left: None })
}

/// Tells what else a key has, of which nothing is taken.
fn note_others(row: TableRow<'_>, told: &mut Row) {
    for (column, instead) in [
        ("aliases", "`rename` of an upstream does it for all keys"),
        ("model_max_budget", "quotas of single models are set by `keymeter keys update --model-limit`"),
        ("config", "the configuration says it for all keys"),
        ("permissions", "there are none here"),
        ("router_settings", "the configuration says it for all keys"),
    ] {
        if row.json(column).is_some() {
            told.note(format!("{column} is not taken: {instead}"));
        }
    }
    if let Some(metadata) = row.json("metadata") {
        for name in ["model_rpm_limit", "model_tpm_limit", "guardrails", "tags"] {
            if metadata.get(name).is_some_and(|value| !value.is_null()) {
                told.note(format!("metadata.{name} is not taken"));
            }
        }
    }
    for column in ["allowed_routes", "access_group_ids", "policies", "organization_id", "project_id"] {
        if row.text(column).is_some_and(|text| text != "{}") {
            told.note(format!("{column} is not taken"));
        }
    }
}
