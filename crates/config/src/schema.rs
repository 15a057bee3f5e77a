//! What may be written in the configuration and in a file of keys, for editors (JSON Schema, draft 2020-12) and for
//! people. Both come from the types by which the files are read, so that they cannot say anything else.

use std::{cell::RefCell, collections::HashMap, fmt::Write as _};

use schemars::{
    JsonSchema, Schema,
    generate::SchemaSettings,
    transform::{Transform, transform_subschemas},
};
use serde_json::Value;

use super::{keys, raw};

/// The schema of the configuration file.
#[must_use]
pub fn of_configuration() -> Value {
    of::<raw::File>("keymeter.yaml")
}

/// The schema of a file of keys.
#[must_use]
pub fn of_keys() -> Value {
    of::<keys::WrittenFile>("keys.yaml")
}

fn of<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(WithoutNull);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    schema.to_value()
}

/// Takes out `null`, which stands for a field that is left out and helps nobody who writes one.
#[derive(Clone, Debug)]
struct WithoutNull;

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(choices)) = object.get_mut("enum") {
            choices.retain(|choice| !choice.is_null());
        }
        let Some(Value::Array(choices)) = object.get_mut("anyOf") else { return };
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (name, value) in only {
                object.entry(name).or_insert(value);
            }
        }
    }
}

/// Every field of both files in Markdown, a section for each object.
#[must_use]
pub fn reference() -> String {
    let mut text = REFERENCE_HEAD.to_owned();
    for (title, schema) in [("keymeter.yaml", of_configuration()), ("keys.yaml", of_keys())] {
        // Memory takes all that is written.
        let _ = write!(text, "\n## {title}\n");
        let page = Page { definitions: schema.get("$defs").unwrap_or(&Value::Null), described: RefCell::default() };
        page.section("", &schema, &mut text);
    }
    text
}

const REFERENCE_HEAD: &str = "# What may be written in the configuration

`keymeter schema --reference` writes this page, and `keymeter schema` the same for editors. Sizes are written with their unit
(`B`, `KB`, `KiB`, `MB`, `MiB`, `GB`, `GiB`), lengths of time too (`ms`, `s`, `m`, `h`). `${VAR}`, `${VAR:-default}` and
`${VAR:?message}` stand for variables of the environment in any value. Paths are relative to the file that names them. A field
that is not listed here is an error. `keymeter check` says what is wrong, and where.
";

/// The objects that a page describes.
struct Page<'schema> {
    definitions: &'schema Value,
    /// The paths of those whose fields stand above, by their names.
    described: RefCell<HashMap<&'schema str, String>>,
}

impl<'schema> Page<'schema> {
    /// The fields of an object that stands at `path`, and then of those within it.
    fn section(&self, path: &str, object: &'schema Value, text: &mut String) {
        let Some(fields) = object.get("properties").and_then(Value::as_object) else { return };
        if !path.is_empty() {
            let _ = write!(text, "\n### `{path}`\n\n{}\n", described(object));
        }
        text.push_str("\n| field | | written as | default |\n|---|---|---|---|\n");
        for (name, field) in fields {
            let (written, default) = (self.written(field), default_of(object, name, field));
            let _ = writeln!(text, "| `{name}` | {} | {written} | {default} |", described(field));
        }
        for (name, field) in fields {
            let (of_list, of_names) = (field.get("items"), field.get("additionalProperties"));
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let path = match (of_list, of_names) {
                (Some(_), _) => format!("{path}[]"),
                (None, Some(_)) => format!("{path}.*"),
                (None, None) => path,
            };
            self.section_of(&path, of_list.or(of_names).unwrap_or(field), text);
        }
    }

    /// The section of an object that is defined apart. One that was described before is not described again.
    fn section_of(&self, path: &str, schema: &'schema Value, text: &mut String) {
        let (Some(name), Some(object)) = (name_of(schema), self.defined(schema)) else { return };
        let before = self.described.borrow().get(name).cloned();
        if let Some(before) = before {
            let _ = write!(text, "\n### `{path}`\n\n{} The fields are those of `{before}`.\n", described(object));
            return;
        }
        self.described.borrow_mut().insert(name, path.to_owned());
        self.section(path, object, text);
    }

    fn defined(&self, schema: &Value) -> Option<&'schema Value> {
        self.definitions.get(name_of(schema)?)
    }

    /// How a field is written, in a few words.
    fn written(&self, field: &Value) -> String {
        if let Some(items) = field.get("items") {
            return format!("a list: {}", self.written(items));
        }
        if self.defined(field).is_some() {
            return "fields, below".to_owned();
        }
        if let Some(fields) = field.get("additionalProperties").filter(|fields| fields.is_object()) {
            return format!("for each name: {}", self.written(fields));
        }
        // A choice among forms of one thing is what it is called.
        match field.get("anyOf").and_then(Value::as_array).filter(|_| field.get("title").is_none()) {
            Some(choices) => {
                let choices = choices.iter().filter(|choice| choice.get("pattern") != Some(&VARIABLE.into()));
                choices.map(|choice| self.written(choice)).collect::<Vec<_>>().join(" or ")
            }
            None => simple(field),
        }
    }
}

/// The name under which an object is defined apart.
fn name_of(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.rsplit('/').next()
}

/// The text in which a variable stands.
const VARIABLE: &str = r"\$\{";

/// A value that is no object and no list.
fn simple(value: &Value) -> String {
    if let Some(choices) = value.get("enum").and_then(Value::as_array) {
        return choices.iter().map(code).collect::<Vec<_>>().join(", ");
    }
    if let Some(only) = value.get("const") {
        return code(only);
    }
    let text = |name| value.get(name).and_then(Value::as_str);
    match (text("title"), value.pointer("/examples/0").and_then(Value::as_str), text("type")) {
        (Some(title), Some(example), _) => format!("{title}, such as `{example}`"),
        (Some(title), None, _) => title.to_owned(),
        (None, _, Some("string")) => "text".to_owned(),
        (None, _, Some("integer")) => format!("a number from {}", value.get("minimum").unwrap_or(&Value::Null)),
        (None, _, Some("boolean")) => "`true`, `false`".to_owned(),
        (None, _, kind) => kind.unwrap_or_default().to_owned(),
    }
}

/// A default, `required`, or nothing.
fn default_of(object: &Value, name: &str, field: &Value) -> String {
    let is_required =
        object.get("required").and_then(Value::as_array).is_some_and(|names| names.contains(&name.into()));
    match field.get("default") {
        _ if is_required => "required".to_owned(),
        Some(default) => code(default),
        None => String::new(),
    }
}

fn code(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

fn described(value: &Value) -> String {
    let said = value.get("description").and_then(Value::as_str).unwrap_or_default();
    said.replace('\n', " ").replace('|', "\\|")
}

/// Every default that the schema states, as a configuration in which nothing else is written.
#[cfg(test)]
pub(super) fn defaults(object: &Value, definitions: &Value) -> serde_json::Map<String, Value> {
    let mut written = serde_json::Map::new();
    for (name, field) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if let Some(default) = field.get("default") {
            written.insert(name.clone(), default.clone());
        } else if let Some(inner) = (Page { definitions, described: RefCell::default() }).defined(field) {
            let inner = defaults(inner, definitions);
            // What cannot stand without a required field is left out with it, and so is what means something by itself.
            let needs_more = matches!(
                name.as_str(),
                "keys" | "control" | "oidc" | "cors" | "shared" | "http" | "ledger" | "tracing" | "affinity" | "health"
            );
            if !inner.is_empty() && !needs_more {
                written.insert(name.clone(), inner.into());
            }
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::{self as config};

    const LEAST: &str =
        r#"{"upstreams": [{"name": "a", "url": "http://127.0.0.1:1"}], "keys": {"yaml": {"path": "k"}}}"#;

    fn parsed(value: &Value) -> config::Config {
        config::parse(&value.to_string(), Path::new("keymeter.yaml"), &|_| None).unwrap()
    }

    fn definition<'schema>(schema: &'schema Value, name: &str) -> &'schema Value {
        &schema["$defs"][name]
    }

    #[test]
    fn what_the_schema_says_of_defaults_is_what_holds_without_them() {
        let schema = of_configuration();
        let least: Value = serde_json::from_str(LEAST).unwrap();
        let mut whole = defaults(&schema, &schema["$defs"]);
        assert!(whole.len() > 5, "{whole:?}");
        let mut upstream = defaults(definition(&schema, "Upstream"), &schema["$defs"]);
        upstream.extend(least["upstreams"][0].as_object().unwrap().clone());
        let mut keys = defaults(definition(&schema, "Keys"), &schema["$defs"]);
        keys.extend(least["keys"].as_object().unwrap().clone());
        whole.insert("upstreams".to_owned(), json!([upstream]));
        whole.insert("keys".to_owned(), keys.into());
        assert_eq!(parsed(&whole.into()), parsed(&least));
    }

    #[test]
    fn the_same_holds_of_what_is_there_only_with_something_required() {
        let schema = of_configuration();
        let service = json!({"url": "http://127.0.0.1:1/{hash}"});
        let (plane, shared) =
            (json!({"token": "0123456789abcdef0123456789abcdef"}), json!({"url": "redis://127.0.0.1:6379"}));
        let tracing = json!({"otlp": "http://127.0.0.1:4317"});
        for (name, least, around) in [
            ("KeysHttp", service, (|of| ("keys", json!({"http": of}))) as fn(Value) -> (&'static str, Value)),
            ("Control", plane, |of| ("control", of)),
            ("ControlOidc", json!({"issuer": "https://a", "client_id": "b"}), |of| {
                ("control", json!({"page_url": "https://k", "oidc": of}))
            }),
            ("Shared", shared, |of| ("limits", json!({"shared": of}))),
            ("Tracing", tracing, |of| ("tracing", of)),
        ] {
            let mut stated = defaults(definition(&schema, name), &schema["$defs"]);
            assert!(!stated.is_empty(), "{name} has no defaults");
            stated.extend(least.as_object().unwrap().clone());
            let [least, stated] = [least, stated.into()].map(|section| {
                let mut whole: Value = serde_json::from_str(LEAST).unwrap();
                let (field, section) = around(section);
                whole[field] = section;
                parsed(&whole)
            });
            assert_eq!(least, stated, "{name}");
        }
    }

    #[test]
    fn fields_and_choices_are_those_that_are_read() {
        let schema = of_configuration();
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["on_revoke"]["anyOf"][0]["enum"], json!(["cut", "finish"]));
        assert_eq!(definition(&schema, "Upstream")["required"], json!(["name"]));
        let one_of = json!([{"required": ["url"]}, {"required": ["replicas"]}]);
        assert_eq!(definition(&schema, "Upstream")["oneOf"], one_of);
        assert_eq!(of_keys()["properties"]["keys"]["type"], "array");
        assert!(!schema.to_string().contains("\"null\""), "{schema}");
    }

    #[test]
    fn the_reference_has_every_field() {
        let text = reference();
        for field in [
            "max_key_series",
            "### `upstreams[]`",
            "### `limits.shared`",
            "`60s`",
            "### `keys[].retiring[]`",
            "### `keys[].limits.quotas[]`",
            "### `keys[].limits.models.*`",
            "### `teams[]`",
        ] {
            assert!(text.contains(field), "{field} is missing:\n{text}");
        }
        for row in text.lines().filter(|line| line.starts_with("| `")) {
            let forms: Vec<_> = row.split(" | ").nth(2).unwrap().split(" or ").collect();
            assert!(forms.iter().all(|form| !form.trim().is_empty()), "how it is written is missing: {row}");
        }
    }
}
