//! `/` and `/openapi.json`.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::json;

use crate::answer::json;
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::routes::patterns;

pub(crate) async fn index(_: Arc<Inner>, _: Call) -> Result<Reply, ApiError> {
    let paths: Vec<&str> = patterns().filter(|p| *p != "/").collect();
    let body = json!({
        "name": "barrage",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Live-room numbers from IM callbacks. /v1/rooms lists rooms, /openapi.json describes every path.",
        "paths": paths,
    });
    Ok(Reply::Plain(json(StatusCode::OK, body.to_string(), "no-cache")))
}

pub(crate) async fn openapi(_: Arc<Inner>, _: Call) -> Result<Reply, ApiError> {
    Ok(Reply::Plain(json(StatusCode::OK, crate::OPENAPI.to_owned(), "no-cache")))
}
