//! The protocol as it is described for other people's tools, `docs/key-source.openapi.yaml`: its records are what the
//! gateway reads, field by field.

use std::collections::BTreeSet;

use keymeter::keys::push::parse_change;
use keymeter_config::keys::parse_record;
use keymeter_core::record::Record;
use serde_json::{Map, Value, json};

/// The document.
struct Description(Value);

/// An object that is described, and where in a record it stands.
const OBJECTS: [(&str, Option<&str>); 6] = [
    ("Key", None),
    ("Limits", Some("limits")),
    ("ScopeLimits", Some("team_limits")),
    ("Retiring", Some("retiring")),
    ("Wallet", Some("wallet")),
    ("Allowance", Some("allowance")),
];

impl Description {
    fn load() -> Self {
        let text = include_str!("../../docs/key-source.openapi.yaml");
        Self(serde_yaml::from_str(text).expect("the description is YAML"))
    }

    fn schema(&self, name: &str) -> Value {
        self.resolved(&self.0["components"]["schemas"][name])
    }

    /// With what it refers to; what it says itself goes before that.
    fn resolved(&self, schema: &Value) -> Value {
        let Some(reference) = schema["$ref"].as_str() else { return schema.clone() };
        let mut all = self.resolved(self.0.pointer(reference.strip_prefix('#').unwrap()).expect(reference));
        for (name, value) in schema.as_object().unwrap().iter().filter(|(name, _)| *name != "$ref") {
            all[name] = value.clone();
        }
        all
    }

    fn properties(&self, object: &str) -> Vec<(String, Value)> {
        let schema = self.schema(object);
        assert!(schema["type"] == "object" && schema["additionalProperties"] == false, "{object} takes anything");
        let properties = schema["properties"].as_object().unwrap().iter();
        properties.map(|(name, schema)| (name.clone(), self.resolved(schema))).collect()
    }

    /// One with every property.
    fn example(&self, schema: &Value) -> Value {
        let schema = self.resolved(schema);
        if let Some(example) = schema["examples"].get(0) {
            return example.clone();
        }
        if schema["type"] == "array" {
            return json!([self.example(&schema["items"])]);
        }
        let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("no example of {schema}"));
        properties.iter().map(|(name, schema)| (name.clone(), self.example(schema))).collect::<Map<_, _>>().into()
    }

    /// What becomes of a record in which one of the objects is changed.
    fn read(&self, place: Option<&str>, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), String> {
        let mut record = self.example(&self.schema("Key"));
        let object = match place {
            None => &mut record,
            Some("retiring") => &mut record["retiring"][0],
            Some("allowance") => &mut record["wallet"]["allowance"],
            Some(name) => &mut record[name],
        };
        change(object.as_object_mut().unwrap());
        parse_record(record.to_string().as_bytes()).map(drop)
    }

    /// What becomes of a record with this in one place.
    fn read_with(&self, place: Option<&str>, property: &str, value: Value) -> Result<(), String> {
        self.read(place, |object| drop(object.insert(property.to_owned(), value)))
    }
}

/// The words that stand in backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn a_record_has_the_described_fields_and_no_others() {
    let described = Description::load();
    assert_eq!(described.read(None, |_| ()), Ok(()), "one with all of them");
    for (object, place) in OBJECTS {
        let names: BTreeSet<_> = described.properties(object).into_iter().map(|(name, _)| name).collect();
        let error = described.read_with(place, "no_such_field", "x".into()).unwrap_err();
        if object == "Key" {
            // A secret has no place at a source.
            let secret = described.read_with(None, "secret", "sk-1".into()).unwrap_err();
            assert!(secret.contains("secret itself"), "{secret}");
        }
        let (unknown, accepted) = error.split_once("expected").unwrap_or_else(|| panic!("{object}: {error}"));
        assert!(unknown.contains("unknown field `no_such_field`"), "{object}: {error}");
        assert_eq!(quoted(accepted), names, "{object}: {error}");
    }
}

#[test]
fn fields_are_required_as_described_and_none_is_passed_over() {
    let described = Description::load();
    for (object, place) in OBJECTS {
        let required = described.schema(object)["required"].clone();
        for (name, _) in described.properties(object) {
            let is_required = required.as_array().is_some_and(|names| names.contains(&json!(name)));
            let without = described.read(place, |object| {
                object.remove(&name);
                // Nobody's limits are those of a team that is not named.
                object.remove(&format!("{name}_limits"));
            });
            assert_eq!(without.is_err(), is_required, "{object} without {name}: {without:?}");
            let nonsense = described.read_with(place, &name, json!({"nonsense": [{}]}));
            assert!(nonsense.is_err(), "{object}.{name} is not read");
        }
    }
}

#[test]
fn values_are_accepted_up_to_the_described_bounds() {
    let described = Description::load();
    let mut bounds = 0;
    for (object, place) in OBJECTS {
        for (name, schema) in described.properties(object) {
            for example in schema["examples"].as_array().into_iter().flatten() {
                assert_eq!(described.read_with(place, &name, example.clone()), Ok(()), "{object}.{name}: {example}");
            }
            let mut try_bound = |bound: &Value, outside: i64, value: &dyn Fn(usize) -> Value| {
                let Some(bound) = bound.as_u64() else { return };
                let beyond = bound.checked_add_signed(outside).unwrap();
                let [at, beyond] = [bound, beyond].map(|size| value(usize::try_from(size).unwrap()));
                assert_eq!(described.read_with(place, &name, at.clone()), Ok(()), "{object}.{name}: {at}");
                assert!(described.read_with(place, &name, beyond.clone()).is_err(), "{object}.{name}: {beyond}");
                bounds += 1;
            };
            let text = |length| "é".repeat(length).into();
            try_bound(&schema["minLength"], -1, &text);
            try_bound(&schema["maxLength"], 1, &text);
            try_bound(&schema["oneOf"][0]["minimum"], -1, &|number| number.into());
        }
    }
    assert_eq!(bounds, 14, "of a name, three parties and twice three limits");
}

#[test]
fn the_described_states_are_all_there_are() {
    let described = Description::load();
    let states: Vec<_> = described.schema("Key")["properties"]["state"]["enum"].as_array().unwrap().clone();
    for state in &states {
        assert_eq!(described.read_with(None, "state", state.clone()), Ok(()));
    }
    let error = described.read_with(None, "state", "zzz".into()).unwrap_err();
    let names: Vec<_> = states.iter().filter_map(Value::as_str).collect();
    assert!(error.ends_with(&format!("accepted: {}", names.join(", "))), "{error}");
}

#[test]
fn the_described_change_is_one() {
    let described = Description::load();
    let change = described.example(&described.schema("Change"));
    assert!(matches!(
        parse_change(&change.to_string()),
        Ok(keymeter::keys::Change::Key { id: Some(_), hash: Some(_) })
    ));
}

#[test]
fn a_usage_record_has_what_is_described() {
    let description = Description::load();
    let example = description.example(&description.schema("Record"));
    let record = Record::parse(example.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}: {example}"));
    assert_eq!(serde_json::from_slice::<Value>(&record.to_json()).unwrap(), example);
    let schema = description.schema("Record");
    for field in schema["required"].as_array().unwrap() {
        let mut less = example.clone();
        less.as_object_mut().unwrap().remove(field.as_str().unwrap());
        assert!(Record::parse(less.to_string().as_bytes()).is_err(), "{field}");
    }
}
