//! `POST /v1/events`: business events, one or many, each all or nothing.

use barrage_event::business::{self, BusinessEvent};
use barrage_event::{Position, Stamp};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::appender::Appended;
use crate::connection::ConnectionState;
use crate::metrics::Tally;
use crate::query::Params;
use crate::refusal::{Refusal, Rejection};
use crate::reply::{self, Body, ErrorBody};
use crate::service::{Receipt, Service, require, require_post};

/// The answer: one result an item, in their order.
#[derive(Debug, serde::Serialize)]
struct Answer {
    results: Vec<ItemResult>,
}

#[derive(Debug, serde::Serialize)]
struct ItemResult {
    /// The item's id; absent when it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(flatten)]
    status: ItemStatus,
}

#[derive(Debug, serde::Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum ItemStatus {
    /// Durable, at these positions.
    Accepted { positions: Vec<String> },
    /// Nothing of it is in the log, unless the code says that it may be.
    Rejected { error: ErrorBody },
}

/// An item on its way into the log.
#[derive(Debug)]
struct Pending {
    id: Option<String>,
    append: Result<Appended, Rejection>,
}

impl Service {
    /// Answers a request with business events.
    pub(crate) async fn events(&self, parts: &Parts, body: Incoming, connection: &ConnectionState) -> Response<Body> {
        let mut tally = self.metrics.events().begin();
        match self.take_events(parts, body, connection, &mut tally).await {
            Ok(response) => response,
            Err(rejection) => {
                tally.reject(rejection.refusal);
                reply::refusal(&rejection)
            }
        }
    }

    async fn take_events(
        &self,
        parts: &Parts,
        body: Incoming,
        connection: &ConnectionState,
        tally: &mut Tally<'_>,
    ) -> Result<Response<Body>, Rejection> {
        require_post(parts)?;
        let receipt = self.receipt(&parts.headers)?;
        require(receipt.key)?;
        let params = Params::parse(parts.uri.query().unwrap_or_default())?;
        let app = if params.app.is_some() { Some(params.app()?) } else { self.only_app() };
        let mut permit = self.admit(&body)?;
        let body = self.read(body, &mut permit, connection).await?;
        let pending = self.enqueue_items(&body, app, receipt, tally)?;
        drop(body);
        Ok(self.settle_items(pending, tally).await)
    }

    fn enqueue_items(
        &self,
        body: &[u8],
        app: Option<u32>,
        receipt: Receipt,
        tally: &mut Tally<'_>,
    ) -> Result<Vec<Pending>, Rejection> {
        let items = split(body)?;
        if items.is_empty() {
            return Err(Rejection::new(Refusal::WrongShape, "the array is empty"));
        }
        if items.len() > self.events_max {
            let detail = format_args!("{}, at most {}", items.len(), self.events_max);
            return Err(Rejection::new(Refusal::TooManyItems, detail));
        }
        tally.expect(items.len());
        Ok(items.into_iter().map(|item| self.enqueue_item(item.get(), app, receipt)).collect())
    }

    fn enqueue_item(&self, item: &str, app: Option<u32>, receipt: Receipt) -> Pending {
        match business::parse(item) {
            Ok(event) => {
                let append = self.append_item(&event, app, receipt);
                Pending { id: Some(event.id), append }
            }
            Err(error) => Pending { id: id_of(item), append: Err(Rejection::new(Refusal::InvalidItem, error)) },
        }
    }

    fn append_item(
        &self,
        event: &BusinessEvent<'_>,
        app: Option<u32>,
        receipt: Receipt,
    ) -> Result<Appended, Rejection> {
        let app = event.app.or(app).ok_or_else(|| {
            let detail = "`app` is missing and there is not exactly one SdkAppid on the allow-list";
            Rejection::new(Refusal::InvalidItem, detail)
        })?;
        self.check_app(app)?;
        let stamp = Stamp {
            id: self.appender.next_id(),
            app,
            received_at_ms: receipt.at_ms,
            incarnation: self.appender.incarnation(),
            rules_version: self.rules.current().version(),
            verdict: None,
        };
        Ok(self.appender.append_event(&event.callback, &stamp)?)
    }

    /// Waits for all items inside one budget; they were enqueued together and become durable together.
    async fn settle_items(&self, pending: Vec<Pending>, tally: &mut Tally<'_>) -> Response<Body> {
        let deadline = Instant::now() + self.append_budget;
        let mut results = Vec::with_capacity(pending.len());
        let mut refusals = Vec::new();
        for Pending { id, append } in pending {
            let settled = match append {
                Ok(Appended { ack, records }) => match tokio::time::timeout_at(deadline, ack).await {
                    Ok(Ok(positions)) => {
                        self.metrics.appended_records(records);
                        Ok(positions.iter().map(Position::to_string).collect())
                    }
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(Refusal::NotDurableInTime.into()),
                },
                Err(rejection) => Err(rejection),
            };
            let status = match settled {
                Ok(positions) => {
                    tally.append();
                    ItemStatus::Accepted { positions }
                }
                Err(rejection) => {
                    tally.reject(rejection.refusal);
                    refusals.push(rejection.refusal);
                    ItemStatus::Rejected { error: ErrorBody::from(&rejection) }
                }
            };
            results.push(ItemResult { id, status });
        }
        reply::answer(status_of(results.len(), &refusals), &Answer { results })
    }
}

/// 200 when every item was accepted, 207 when some were; when none was, 503 if sending them again may help and 422
/// otherwise.
fn status_of(items: usize, refusals: &[Refusal]) -> StatusCode {
    if refusals.is_empty() {
        StatusCode::OK
    } else if refusals.len() < items {
        StatusCode::MULTI_STATUS
    } else if refusals.iter().all(|refusal| refusal.retry()) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    }
}

/// The items of a body: of an array, or the one that it is. They are pieces of the body.
fn split(body: &[u8]) -> Result<Vec<&RawValue>, Rejection> {
    if body.is_empty() {
        return Err(Refusal::Empty.into());
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        Rejection::new(Refusal::InvalidUtf8, format_args!("byte {} begins no character", error.valid_up_to()))
    })?;
    // Pieces are skipped over without recursion; what is inside an item is read with a limit on its depth.
    let not_json = |error: serde_json::Error| Rejection::new(Refusal::NotJson, error);
    let whole: &RawValue = serde_json::from_str(text).map_err(not_json)?;
    match whole.get().as_bytes().first() {
        Some(b'{') => Ok(vec![whole]),
        Some(b'[') => serde_json::from_str(whole.get()).map_err(not_json),
        _ => Err(Refusal::WrongShape.into()),
    }
}

/// The id of an item that could not be read as a whole, so that its sender can tell which one it was.
fn id_of(item: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let named: Named = serde_json::from_str(item).ok()?;
    (named.id.len() <= business::limits::ID_BYTES_MAX).then_some(named.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_split_into_its_items() {
        let items =
            |body: &str| split(body.as_bytes()).map(|items| items.iter().map(|item| item.get().to_owned()).collect());
        let table: [(&str, Result<Vec<String>, Refusal>); 8] = [
            (" {\"a\":1} ", Ok(vec!["{\"a\":1}".to_owned()])),
            ("[]", Ok(vec![])),
            ("[{\"a\":[1]}, 2]", Ok(vec!["{\"a\":[1]}".to_owned(), "2".to_owned()])),
            ("", Err(Refusal::Empty)),
            (" ", Err(Refusal::NotJson)),
            ("7", Err(Refusal::WrongShape)),
            ("[1", Err(Refusal::NotJson)),
            ("{} {}", Err(Refusal::NotJson)),
        ];
        for (body, expected) in table {
            let got: Result<Vec<String>, Rejection> = items(body);
            assert_eq!(got.map_err(|rejection| rejection.refusal), expected, "{body:?}");
        }
        assert_eq!(split(b"\"\xff\"").map(|_| ()).map_err(|r| r.refusal), Err(Refusal::InvalidUtf8));
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = |closed| format!("{}{}", "[".repeat(100_000), "]".repeat(closed));
        assert_eq!(split(deep(0).as_bytes()).map(|_| ()).map_err(|r| r.refusal), Err(Refusal::NotJson));
        let deep = deep(100_000);
        let items = split(deep.as_bytes()).unwrap();
        assert_eq!(items.len(), 1);
        assert!(business::parse(items[0].get()).is_err());
        assert_eq!(id_of(items[0].get()), None);
        let named = format!("{{\"x\":{deep},\"id\":\"gift-1\"}}");
        assert!(business::parse(&named).is_err());
        assert_eq!(id_of(&named).as_deref(), Some("gift-1"));
    }

    #[test]
    fn the_status_tells_how_many_items_were_accepted() {
        let table: [(usize, &[Refusal], u16); 6] = [
            (2, &[], 200),
            (2, &[Refusal::LogFull], 207),
            (1, &[Refusal::InvalidItem], 422),
            (2, &[Refusal::LogFull, Refusal::InvalidItem], 422),
            (2, &[Refusal::LogFull, Refusal::NotDurableInTime], 503),
            (1, &[Refusal::UnknownApp], 422),
        ];
        for (items, refusals, status) in table {
            assert_eq!(status_of(items, refusals).as_u16(), status, "{items} {refusals:?}");
        }
    }
}
