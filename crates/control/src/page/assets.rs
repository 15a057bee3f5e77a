//! Style sheet, script and icon of the pages. Each name contains a part of the content's hash, so that the content of a
//! name never changes.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use keymeter_core::key::KeyHash;

use crate::error::ApiError;

/// The one sheet of styles.
pub static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("style", "css", "text/css; charset=utf-8", include_str!("assets/style.css")));

/// Copies a secret, and lets no form be sent twice. Everything works without it.
pub static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "js", "text/javascript; charset=utf-8", include_str!("assets/page.js")));

/// For the browser's tab.
pub static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")));

/// A file of ours.
pub struct Asset {
    name: String,
    content_type: &'static str,
    content: &'static str,
}

impl Asset {
    fn new(stem: &str, ending: &str, content_type: &'static str, content: &'static str) -> Self {
        let hash: String = KeyHash::digest(content.as_bytes()).to_hex().chars().take(16).collect();
        Self { name: format!("{stem}-{hash}.{ending}"), content_type, content }
    }

    /// Where it is.
    pub fn path(&self) -> String {
        format!("/assets/{}", self.name)
    }
}

/// `/assets/{name}`.
pub async fn asset(Path(name): Path<String>) -> Response {
    let Some(asset) = [&*STYLE, &*SCRIPT, &*ICON].into_iter().find(|asset| asset.name == name) else {
        return (StatusCode::NOT_FOUND, ApiError::unknown_path()).into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    (headers, asset.content).into_response()
}
