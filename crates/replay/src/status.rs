//! Asks a server how far its time has come.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;

use crate::connection::{Connection, Exchange};
use crate::target::Target;

/// How long the answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why a server's time cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// No connection, or no answer.
    #[error("the query service at {address} does not answer: {why}")]
    NoAnswer {
        /// Host and port.
        address: String,
        /// What went wrong.
        why: String,
    },
    /// An answer that is not a status.
    #[error("the query service at {address} answers GET /v1/status with {status} and not with its status")]
    NotAStatus {
        /// Host and port.
        address: String,
        /// HTTP status.
        status: u16,
    },
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    stream_time: Option<i64>,
}

/// Stream time of a server, ms since the epoch: the greatest time that it has received something at. Nothing when it has
/// received nothing yet, or when the target has no query service.
///
/// # Errors
/// When the query service does not answer or answers something else.
pub async fn stream_time(target: &Target) -> Result<Option<i64>, StatusError> {
    let Some(door) = &target.query else { return Ok(None) };
    let address = || door.address.clone();
    let path = format!("{}/v1/status", door.prefix());
    let mut request = door
        .request(Method::GET, &path, Bytes::new())
        .ok_or_else(|| StatusError::NoAnswer { address: address(), why: "its URL's path is not one of HTTP".into() })?;
    if let Some(authorization) = target.authorization() {
        request.headers_mut().insert(hyper::header::AUTHORIZATION, authorization.clone());
    }
    let mut connection = Connection::new(address());
    match connection.exchange(request, ANSWER_WITHIN).await {
        Exchange::Answered { status, body } => match serde_json::from_slice::<Status>(&body) {
            Ok(read) if status == 200 => Ok(read.stream_time),
            _ => Err(StatusError::NotAStatus { address: address(), status }),
        },
        Exchange::Unsent(why) | Exchange::Lost(why) => Err(StatusError::NoAnswer { address: address(), why }),
    }
}
