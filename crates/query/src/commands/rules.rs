//! `/v1/rules`: what the numbers mean.

use std::sync::Arc;

use axum::http::StatusCode;
use barrage_event::rules::RuleSet;
use serde_json::{Map, Value as Json};

use super::about_partitions;
use crate::api::{Call, Inner, Reply};
use crate::error::{ApiError, Code};
use crate::rules::{ApplyRulesError, RulesVersion};

pub(crate) async fn show(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let fields = shown(&inner.parts.rules.current())?;
    about_partitions(&inner, &call, StatusCode::OK, fields).await
}

pub(crate) async fn history(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let versions = inner.block(|inner| inner.parts.rules.history().map_err(ApiError::failed)).await?;
    let versions: Result<Vec<Json>, ApiError> = versions.iter().map(|v| shown(v).map(Json::Object)).collect();
    let fields = Map::from_iter([("versions".to_owned(), Json::Array(versions?))]);
    about_partitions(&inner, &call, StatusCode::OK, fields).await
}

/// Takes TOML, as rules are written, or JSON, as they are shown.
pub(crate) async fn apply(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let toml = read(&call)?;
    let applied_by = call.params.text("by").unwrap_or("http").to_owned();
    let apply = move |inner: &Inner| {
        inner.parts.rules.apply(&toml, &applied_by).map_err(|error| match error {
            ApplyRulesError::Invalid(_) => ApiError::new(Code::InvalidRules, error.to_string(), HINT),
            ApplyRulesError::Unavailable(_) => ApiError::unavailable(error),
        })
    };
    let applied = inner.block(apply).await?;
    let positions: Vec<Json> = applied.positions.into_iter().map(Json::from).collect();
    let fields = Map::from_iter([
        ("version".to_owned(), Json::from(applied.version)),
        ("changed".to_owned(), applied.changed.into()),
        ("positions".to_owned(), Json::Array(positions)),
    ]);
    about_partitions(&inner, &call, StatusCode::OK, fields).await
}

const HINT: &str = "send the rules as TOML; `barrage rules show --default` prints a set that is described line by line";

fn read(call: &Call) -> Result<String, ApiError> {
    let text = std::str::from_utf8(&call.body)
        .map_err(|_| ApiError::new(Code::BadBody, "the rules are not UTF-8 text", HINT))?;
    let is_json = call.content_type.split(';').next().is_some_and(|t| t.trim() == "application/json");
    if !is_json {
        return Ok(text.to_owned());
    }
    let rules: RuleSet = serde_json::from_str(text)
        .map_err(|error| ApiError::new(Code::InvalidRules, format!("the rules cannot be read: {error}"), HINT))?;
    Ok(rules.to_toml())
}

fn shown(version: &RulesVersion) -> Result<Map<String, Json>, ApiError> {
    let rules = RuleSet::from_toml(&version.toml).map_err(ApiError::failed)?;
    Ok(Map::from_iter([
        ("version".to_owned(), Json::from(version.version)),
        ("applied_at".to_owned(), version.applied_at_ms.into()),
        ("applied_by".to_owned(), version.applied_by.as_str().into()),
        ("rules".to_owned(), serde_json::to_value(rules).map_err(ApiError::failed)?),
        ("toml".to_owned(), version.toml.as_str().into()),
    ]))
}
