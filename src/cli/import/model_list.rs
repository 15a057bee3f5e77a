//! The `model_list` of LiteLLM's configuration, as upstreams: those of one name are the replicas of one. Nothing is translated
//! by keymeter, so that a server whose API is its own is an upstream of that API, or none.

use std::{fs, path::Path};

use keymeter_config::UpstreamUrl;
use serde_yaml::{Mapping, Value};

use super::{ImportError, amounts::price_of_million, plan::Row};

/// The models of a configuration, as keymeter's says it.
pub(super) struct Models {
    /// The new configuration.
    pub(super) text: String,
    /// What became of each model.
    pub(super) rows: Vec<Row>,
}

/// Providers that speak OpenAI's API, and where they are if nothing else is said.
const LIKE_OPENAI: [(&str, Option<&str>); 18] = [
    ("openai", Some("https://api.openai.com/v1")),
    ("text-completion-openai", Some("https://api.openai.com/v1")),
    ("groq", Some("https://api.groq.com/openai/v1")),
    ("mistral", Some("https://api.mistral.ai/v1")),
    ("deepseek", Some("https://api.deepseek.com/v1")),
    ("openrouter", Some("https://openrouter.ai/api/v1")),
    ("xai", Some("https://api.x.ai/v1")),
    ("together_ai", Some("https://api.together.xyz/v1")),
    ("hosted_vllm", None),
    ("vllm", None),
    ("openai_like", None),
    ("custom_openai", None),
    ("lm_studio", None),
    ("llamafile", None),
    ("xinference", None),
    ("litellm_proxy", None),
    ("ollama", Some("http://127.0.0.1:11434")),
    ("ollama_chat", Some("http://127.0.0.1:11434")),
];

/// Reads a configuration of LiteLLM's.
pub(super) fn read(path: &Path) -> Result<Models, ImportError> {
    let text = fs::read_to_string(path).map_err(|error| ImportError::Unreadable(path.to_owned(), error))?;
    parse(&text).map_err(|why| ImportError::Models(path.to_owned(), why))
}

pub(super) fn parse(text: &str) -> Result<Models, String> {
    let config: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let list = config.get("model_list").and_then(Value::as_sequence).ok_or("it has no list `model_list`")?;
    let mut rows = Vec::new();
    let mut groups: Vec<Group> = Vec::new();
    for (entry, number) in list.iter().zip(1..) {
        let name = text_of(entry, "model_name").unwrap_or_default();
        let told = Row::new("model", number, &name, false);
        match deployment(entry, &name) {
            Ok(deployment) => rows.push(add(&mut groups, name, deployment, told)),
            Err(why) => rows.push(told.not_taken(why)),
        }
    }
    for (section, number) in
        ["litellm_settings", "router_settings", "general_settings", "environment_variables"].iter().zip(1..)
    {
        if config.get(section).is_some_and(|value| !value.is_null()) {
            let told = Row::new("section", number, section, false);
            rows.push(told.not_taken("what of it is wanted is written by hand: see docs/moving-from-litellm.md"));
        }
    }
    if groups.is_empty() {
        return Err("none of its models can be taken".to_owned());
    }
    Ok(Models { text: written(&groups), rows })
}

/// The servers of one name.
struct Group {
    name: String,
    api: &'static str,
    deployments: Vec<Deployment>,
}

/// One server of a model.
struct Deployment {
    api: &'static str,
    url: String,
    model: String,
    api_key: Option<String>,
    header: Option<&'static str>,
    weight: Option<i64>,
    max_in_flight: Option<i64>,
    prices: Vec<(&'static str, String)>,
    notes: Vec<String>,
}

fn add(groups: &mut Vec<Group>, name: String, mut deployment: Deployment, mut told: Row) -> Row {
    for note in std::mem::take(&mut deployment.notes) {
        told.note(note);
    }
    match groups.iter_mut().find(|group| group.name == name) {
        Some(group) if group.api == deployment.api => group.deployments.push(deployment),
        Some(group) => return told.not_taken(format!("others of its name speak the API `{}`", group.api)),
        None => groups.push(Group { name, api: deployment.api, deployments: vec![deployment] }),
    }
    told
}

fn deployment(entry: &Value, name: &str) -> Result<Deployment, String> {
    if name.is_empty() {
        return Err("it has no `model_name`".to_owned());
    }
    let parameters = entry.get("litellm_params").ok_or("it has no `litellm_params`")?;
    let model = text_of(parameters, "model").ok_or("it has no `litellm_params.model`")?;
    let (mut notes, base) = (Vec::new(), text_of(parameters, "api_base"));
    let (api, url, model, header) = place(&model, base)?;
    let url = variable(&url);
    if !url.contains("${") {
        url.parse::<UpstreamUrl>().map_err(|error| format!("api_base: {error}"))?;
    }
    if api != "openai" {
        notes.push(format!("its clients have to speak the API `{api}`: nothing is translated"));
    }
    if name.contains('*') && name != model {
        notes.push(format!("it goes upstream by the name that a client says, and not as `{model}`"));
    }
    let api_key = text_of(parameters, "api_key").map(|key| {
        let of_environment = key.strip_prefix("os.environ/").map(str::to_owned);
        let variable = of_environment.unwrap_or_else(|| {
            let made = format!("{}_API_KEY", identifier(name, '_').to_uppercase().replace(['-', '.'], "_"));
            notes.push(format!("its api_key is not copied: give it in the variable {made}"));
            made
        });
        format!("${{{variable}}}")
    });
    for parameter in ["rpm", "tpm", "timeout", "api_version", "organization", "extra_headers", "custom_llm_provider"] {
        if parameters.get(parameter).is_some_and(|value| !value.is_null()) {
            notes.push(format!("{parameter} is not taken"));
        }
    }
    let number = |field: &str| parameters.get(field).and_then(Value::as_i64).filter(|number| *number > 0);
    Ok(Deployment {
        weight: number("weight"),
        max_in_flight: number("max_parallel_requests"),
        prices: prices(parameters, entry.get("model_info")),
        api,
        url,
        model,
        api_key,
        header,
        notes,
    })
}

/// Why a provider is no upstream.
const OWN_API: &str =
    "its API is its provider's own, and keymeter translates none: put a server that speaks OpenAI's before it";

type Placed = (&'static str, String, String, Option<&'static str>);

/// The API, the URL and the model's name there, and the header of our credential.
fn place(model: &str, base: Option<String>) -> Result<Placed, String> {
    let Some((provider, rest)) = model.split_once('/') else {
        return match base {
            Some(base) => Ok(("openai", base, model.to_owned(), None)),
            None if model.starts_with("claude") => Ok(anthropic(model, base)),
            None if ["gpt-", "o1", "o3", "o4", "text-embedding-", "whisper", "tts-", "dall-e"]
                .iter()
                .any(|of| model.starts_with(of)) =>
            {
                Ok(("openai", "https://api.openai.com/v1".to_owned(), model.to_owned(), None))
            }
            None => Err(format!("it says neither where `{model}` is nor whose it is")),
        };
    };
    match provider {
        "anthropic" => return Ok(anthropic(rest, base)),
        "gemini" => {
            let url = base.unwrap_or_else(|| "https://generativelanguage.googleapis.com".to_owned());
            return Ok(("gemini", url, rest.to_owned(), Some("x-goog-api-key")));
        }
        _ => {}
    }
    match (LIKE_OPENAI.iter().find(|(name, _)| *name == provider), base) {
        (Some(_), Some(base)) => Ok(("openai", base, rest.to_owned(), None)),
        (Some((_, Some(base))), None) => Ok(("openai", (*base).to_owned(), rest.to_owned(), None)),
        (Some(_), None) => Err("it has no `api_base`".to_owned()),
        (None, _) => Err(OWN_API.to_owned()),
    }
}

fn anthropic(model: &str, base: Option<String>) -> Placed {
    let url = base.unwrap_or_else(|| "https://api.anthropic.com".to_owned());
    ("anthropic", url, model.to_owned(), Some("x-api-key"))
}

fn prices(parameters: &Value, info: Option<&Value>) -> Vec<(&'static str, String)> {
    let fields = [
        ("input", "input_cost_per_token"),
        ("cached_input", "cache_read_input_token_cost"),
        ("cache_write", "cache_creation_input_token_cost"),
        ("output", "output_cost_per_token"),
    ];
    let price = |field: &str| {
        let value = parameters.get(field).or_else(|| info?.get(field))?;
        price_of_million(&scalar(value)?)
    };
    fields.into_iter().filter_map(|(name, field)| Some((name, price(field)?))).collect()
}

/// The configuration with these upstreams.
fn written(groups: &[Group]) -> String {
    let upstreams: Vec<Value> = groups.iter().map(|group| upstream(group, groups)).collect();
    let models: Vec<Value> = groups.iter().filter_map(model).collect();
    let mut file = Mapping::from_iter([("upstreams".into(), upstreams.into())]);
    if !models.is_empty() {
        file.insert("models".into(), models.into());
    }
    file.insert("keys".into(), mapping([("yaml", mapping([("path", "keys.yaml".into())]))]));
    serde_yaml::to_string(&file).unwrap_or_default()
}

fn upstream(group: &Group, groups: &[Group]) -> Value {
    let is_alone = |name: &str| groups.iter().filter(|other| identifier(&other.name, '-') == name).count() == 1;
    let name = identifier(&group.name, '-');
    let place = groups.iter().position(|other| std::ptr::eq(other, group)).unwrap_or_default();
    let name =
        if is_alone(&name) { name } else { format!("{}-{}", name.chars().take(60).collect::<String>(), place + 1) };
    let mut upstream = Mapping::from_iter([("name".into(), name.into())]);
    let mut put = |field: &str, value: Value| drop(upstream.insert(field.into(), value));
    match group.deployments.as_slice() {
        [one] => {
            put("url", one.url.as_str().into());
            one.api_key.iter().for_each(|key| put("api_key", key.as_str().into()));
            one.max_in_flight.iter().for_each(|most| put("max_in_flight", (*most).into()));
            if let Some(rename) = rename(&group.name, one) {
                put("rename", rename);
            }
        }
        several => {
            let replicas = several.iter().zip(1..).map(|(one, number)| replica(&group.name, one, number));
            put("replicas", replicas.collect::<Vec<_>>().into());
        }
    }
    group
        .deployments
        .first()
        .and_then(|one| one.header)
        .into_iter()
        .for_each(|name| put("api_key_header", name.into()));
    put("apis", vec![Value::from(group.api)].into());
    put("models", vec![literal(&group.name)].into());
    upstream.into()
}

fn replica(name: &str, one: &Deployment, number: i64) -> Value {
    let mut replica =
        Mapping::from_iter([("url".into(), one.url.as_str().into()), ("name".into(), format!("r{number}").into())]);
    let mut put = |field: &str, value: Value| drop(replica.insert(field.into(), value));
    one.api_key.iter().for_each(|key| put("api_key", key.as_str().into()));
    one.weight.iter().for_each(|weight| put("weight", (*weight).into()));
    one.max_in_flight.iter().for_each(|most| put("max_in_flight", (*most).into()));
    if let Some(rename) = rename(name, one) {
        put("rename", rename);
    }
    replica.into()
}

fn rename(name: &str, one: &Deployment) -> Option<Value> {
    let is_needed = name != one.model && !name.contains('*') && !one.model.contains('*');
    is_needed.then(|| Mapping::from_iter([(literal(name), literal(&one.model))]).into())
}

/// The prices of a group, where one of it states some.
fn model(group: &Group) -> Option<Value> {
    let prices = group.deployments.iter().map(|one| &one.prices).find(|prices| !prices.is_empty())?;
    let fields = prices.iter().map(|(name, price)| ((*name).into(), price.as_str().into()));
    let name = std::iter::once(("name".into(), literal(&group.name)));
    Some(name.chain(fields).collect::<Mapping>().into())
}

fn mapping<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Mapping::from_iter(fields.map(|(name, value)| (name.into(), value))).into()
}

/// A text that stands for itself where variables may stand.
fn literal(text: &str) -> Value {
    if text.contains("${") || text.contains("$$") { text.replace('$', "$$").into() } else { text.into() }
}

/// What LiteLLM takes from the environment, as we do.
fn variable(text: &str) -> String {
    text.strip_prefix("os.environ/").map_or_else(|| text.to_owned(), |name| format!("${{{name}}}"))
}

/// A name of letters, digits, `.`, `_` and `-`, with `other` in the place of everything else.
fn identifier(name: &str, other: char) -> String {
    let plain = |character: char| {
        if character.is_ascii_alphanumeric() || "._-".contains(character) { character } else { other }
    };
    let name: String = name.chars().map(plain).take(64).collect();
    if name.chars().all(|character| character == other) { "all".to_owned() } else { name }
}

fn text_of(value: &Value, field: &str) -> Option<String> {
    scalar(value.get(field)?).filter(|text| !text.is_empty())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
