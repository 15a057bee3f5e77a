//! Lists of models, and single ones, as each API writes them. What is not known here and what clients require all the same is
//! empty or zero.
//!
//! Sources: `OpenAI`'s and Anthropic's API references (models), Ollama's `docs/api.md` (`GET /api/tags`), Google's Gemini API
//! reference (`models.list`).

use keymeter_core::api::Api;
use serde_json::{Value, json};

use super::catalogue::ListedModel;

/// The time of creation is not known; clients require the field.
const LONG_AGO: &str = "1970-01-01T00:00:00Z";

/// A whole list in the form of `api`, in one page.
pub(super) fn list(api: Api, models: &[ListedModel]) -> Vec<u8> {
    let entries: Vec<Value> = models.iter().map(|model| entry(api, model)).collect();
    let list = match api {
        Api::OpenAi => json!({"object": "list", "data": entries}),
        Api::Anthropic => {
            let [first, last] = [models.first(), models.last()].map(|model| model.map(|model| model.id.as_str()));
            json!({"data": entries, "has_more": false, "first_id": first, "last_id": last})
        }
        Api::Ollama | Api::Gemini => json!({"models": entries}),
    };
    list.to_string().into_bytes()
}

/// One model in the form of `api`.
pub(super) fn one(api: Api, model: &ListedModel) -> Vec<u8> {
    entry(api, model).to_string().into_bytes()
}

fn entry(api: Api, model: &ListedModel) -> Value {
    let ListedModel { id, owned_by } = model;
    match api {
        Api::OpenAi => json!({"id": id, "object": "model", "created": 0, "owned_by": owned_by}),
        Api::Anthropic => json!({"type": "model", "id": id, "display_name": id, "created_at": LONG_AGO}),
        Api::Ollama => json!({
            "name": id,
            "model": id,
            "modified_at": LONG_AGO,
            "size": 0,
            "digest": "",
            "details": {
                "parent_model": "",
                "format": "",
                "family": "",
                "families": [],
                "parameter_size": "",
                "quantization_level": "",
            },
        }),
        Api::Gemini => json!({
            "name": format!("models/{id}"),
            "version": "",
            "displayName": id,
            "description": "",
            // Which of them the model can do is not known here, and clients hide what does not say `generateContent`.
            "supportedGenerationMethods":
                ["generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents"],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(api: Api, names: &[&str]) -> Value {
        let model = |name: &&str| ListedModel { id: (*name).to_owned(), owned_by: "vllm".to_owned() };
        serde_json::from_slice(&list(api, &names.iter().map(model).collect::<Vec<_>>())).unwrap()
    }

    #[test]
    fn each_api_has_its_own_form() {
        let openai = written(Api::OpenAi, &["a", "b"]);
        assert_eq!((&openai["object"], &openai["data"][1]["id"]), (&json!("list"), &json!("b")));
        assert_eq!(openai["data"][0], json!({"id": "a", "object": "model", "created": 0, "owned_by": "vllm"}));
        let anthropic = written(Api::Anthropic, &["a", "b"]);
        assert_eq!((&anthropic["first_id"], &anthropic["last_id"]), (&json!("a"), &json!("b")));
        assert_eq!((&anthropic["has_more"], &anthropic["data"][0]["type"]), (&json!(false), &json!("model")));
        let ollama = written(Api::Ollama, &["a:latest"]);
        assert_eq!(
            (&ollama["models"][0]["name"], &ollama["models"][0]["model"]),
            (&json!("a:latest"), &json!("a:latest"))
        );
        assert_eq!(written(Api::Gemini, &["a"])["models"][0]["name"], "models/a");
    }

    #[test]
    fn an_empty_list_is_one_too() {
        assert_eq!(written(Api::OpenAi, &[]), json!({"object": "list", "data": []}));
        let nobody = json!({"data": [], "has_more": false, "first_id": null, "last_id": null});
        assert_eq!(written(Api::Anthropic, &[]), nobody);
        assert_eq!(
            [Api::Ollama, Api::Gemini].map(|api| written(api, &[])),
            [json!({"models": []}), json!({"models": []})]
        );
    }
}
