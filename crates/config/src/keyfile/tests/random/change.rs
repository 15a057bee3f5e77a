//! What a file is to say after a change, by a model of its own.

use super::*;

pub(super) fn put(key: &mut Said, setting: &Setting) {
    let (name, value) = match setting {
        Setting::ModelLimit(limit) => {
            return put_model_limit(key.entry(MODEL_LIMITS).or_insert(Value::Null), limit);
        }
        Setting::Quota(_) => ("quotas", setting.value()),
        _ => (known(setting.path().last().unwrap()), setting.value()),
    };
    let Setting::Quota(quota) = setting else { return drop(key.insert(name, value)) };
    put_quota(key.entry(name).or_insert(Value::Null), quota);
}

/// The name as it stands here.
fn known(name: &str) -> &'static str {
    let names = FIELDS.into_iter().chain(LIMITS.map(|(name, _)| name)).chain(["concurrent_requests"]);
    names.into_iter().find(|known| *known == name).unwrap()
}

pub(super) fn put_model_limit(models: &mut Value, ModelLimit { models: glob, limit }: &ModelLimit) {
    let limits = field_of(models, glob.as_str());
    match limit {
        ScopeLimit::Quota(quota) => put_quota(field_of(limits, "quotas"), quota),
        ScopeLimit::RequestsPerMinute(number) | ScopeLimit::TokensPerMinute(number) => {
            *field_of(limits, &limit.name().to_string()) = number.number().unwrap().into();
        }
        ScopeLimit::ConcurrentRequests(_) => *field_of(limits, "concurrent_requests") = "unlimited".into(),
    }
}

fn field_of<'value>(value: &'value mut Value, name: &str) -> &'value mut Value {
    if value.is_null() {
        *value = Value::Mapping(serde_yaml::Mapping::new());
    }
    value.as_mapping_mut().unwrap().entry(name.into()).or_insert(Value::Null)
}

/// Of a quota in the place of another what was used elsewhere stays, unless it says something of that.
fn put_quota(quotas: &mut Value, quota: &Quota) {
    let mut value = Setting::Quota(quota.clone()).value();
    if quotas.is_null() {
        *quotas = Value::Sequence(Vec::new());
    }
    let quotas = quotas.as_sequence_mut().unwrap();
    let Some(old) = quotas.iter_mut().find(|other| is_named(other, quota.name)) else { return quotas.push(value) };
    for kept in ["carried", "until"] {
        if let Some(kept_value) = old.get(kept).filter(|_| quota.carried.is_none()) {
            *field_of(&mut value, kept) = kept_value.clone();
        }
    }
    *old = value;
}

pub(super) fn take(key: &mut Said, field: Field) {
    match field {
        Field::Limits => key.retain(|name, _| !LIMITS.iter().any(|(_, known)| known == name)),
        Field::ModelLimits => drop(key.remove(MODEL_LIMITS)),
        Field::Quota(quota) => {
            let Some(quotas) = key.get_mut("quotas").and_then(Value::as_sequence_mut) else { return };
            quotas.retain(|other| !is_named(other, quota));
            if quotas.is_empty() {
                key.remove("quotas");
            }
        }
        _ => drop(key.remove(field.path().last().unwrap())),
    }
}

fn is_named(quota: &Value, name: QuotaName) -> bool {
    quota.get(name.unit.as_str()).is_some() && quota["per"] == name.span.to_string().as_str()
}
