//! `POST /callback`: from IM's request to its answer.

use barrage_event::command::{STREAM_INTERRUPT, STREAM_OTHER, STREAM_PUSH};
use barrage_event::{Outcome, Stamp, Verdict};
use barrage_log::AppendError;
use hyper::Response;
use hyper::body::Incoming;
use hyper::http::request::Parts;

use crate::appender::Appended;
use crate::auth::{Key, Signed};
use crate::connection::ConnectionState;
use crate::metrics::{Tally, VerdictOutcome};
use crate::query::Params;
use crate::refusal::{Refusal, Rejection};
use crate::reply::{self, Body};
use crate::service::{Receipt, Service, require_post};

/// A callback that is on its way into the log.
#[derive(Debug)]
struct Enqueued {
    append: Result<Appended, AppendError>,
    /// What is decided, if the callback asks.
    verdict: Option<Verdict>,
}

impl Service {
    /// Answers a callback, in IM's shape whatever happens.
    pub(crate) async fn callback(&self, parts: &Parts, body: Incoming, connection: &ConnectionState) -> Response<Body> {
        let mut tally = self.metrics.callbacks().begin();
        match self.take(parts, body, connection, &mut tally).await {
            Ok(response) => response,
            Err(rejection) => {
                tally.reject(rejection.refusal);
                reply::im_refusal(&rejection)
            }
        }
    }

    async fn take(
        &self,
        parts: &Parts,
        body: Incoming,
        connection: &ConnectionState,
        tally: &mut Tally<'_>,
    ) -> Result<Response<Body>, Rejection> {
        require_post(parts)?;
        let params = Params::parse(parts.uri.query().unwrap_or_default())?;
        let app = params.app()?;
        self.check_app(app)?;
        let receipt = self.receipt(&parts.headers)?;
        // What signs itself is only seen in the body: nothing of it is kept before it was checked.
        let unsigned = self.may_sign_itself(&params, receipt);
        if !unsigned {
            self.check_signature(&params, receipt)?;
        }
        let mut permit = self.admit(&body)?;
        let body = self.read(body, &mut permit, connection).await?;
        let enqueued = self.enqueue(&params, app, receipt, unsigned, &body)?;
        // From here on only the acknowledgement is awaited: the memory is free for others.
        drop(body);
        match enqueued.verdict {
            None => self.settle_after(enqueued.append?, connection, tally).await,
            Some(verdict) => self.settle_before(enqueued.append, verdict, connection, tally).await,
        }
    }

    /// A sender with a key need not sign: recordings hold no signature, or one of another token. A signature that is
    /// there must be right all the same.
    fn check_signature(&self, params: &Params<'_>, receipt: Receipt) -> Result<(), Rejection> {
        if receipt.key == Key::Valid && params.sign.is_none() {
            return Ok(());
        }
        let (sign, request_time) = (params.sign.as_deref(), params.request_time.as_deref());
        let signed = self.signatures.check(sign, request_time, &[receipt.at_ms, receipt.own_ms])?;
        // One that is refused for its time tells most of all that a clock is wrong.
        if let (Signed::At(at_ms) | Signed::Old(at_ms), false) = (signed, receipt.stated) {
            self.metrics.clock_skew(receipt.own_ms, at_ms);
        }
        if let Signed::Old(_) = signed { Err(Refusal::SignatureOld.into()) } else { Ok(()) }
    }

    /// Whether a request may be a live-streaming callback: those name no command and have no signature in their URL, but
    /// one in their body.
    fn may_sign_itself(&self, params: &Params<'_>, receipt: Receipt) -> bool {
        self.stream_signatures.is_on() && receipt.key != Key::Valid && params.sign.is_none() && params.command.is_none()
    }

    /// A live-streaming callback must be signed in its body, whatever its URL says; what is none must be signed in its
    /// URL. A sender with a key need not sign: a recording's signature has expired.
    fn check_body(&self, command: &str, receipt: Receipt, unsigned: bool, body: &[u8]) -> Result<(), Rejection> {
        let of_stream = [STREAM_PUSH, STREAM_INTERRUPT, STREAM_OTHER].contains(&command);
        if of_stream && self.stream_signatures.is_on() && receipt.key != Key::Valid {
            self.stream_signatures.check(body, receipt.at_ms)?;
        } else if unsigned {
            self.signatures.check(None, None, &[receipt.at_ms])?;
        }
        Ok(())
    }

    /// Reads the callback, decides, and hands its records to the log.
    fn enqueue(
        &self,
        params: &Params<'_>,
        app: u32,
        receipt: Receipt,
        unsigned: bool,
        body: &[u8],
    ) -> Result<Enqueued, Rejection> {
        let rules = self.rules.current();
        let command = params.command.as_deref().unwrap_or_default();
        let platform = params.platform.as_deref().unwrap_or_default();
        let callback = barrage_event::callback::decode(command, platform, body, &rules)?;
        self.check_body(callback.command(), receipt, unsigned, body)?;
        if let Some(reason) = callback.untyped_reason() {
            self.metrics.untyped(reason);
        }
        let stamp = Stamp {
            id: self.appender.next_id(),
            app,
            received_at_ms: receipt.at_ms,
            incarnation: self.appender.incarnation(),
            rules_version: rules.version(),
            verdict: rules.verdict(&callback),
        };
        let append = self.appender.append_event(&callback, &stamp);
        Ok(Enqueued { append, verdict: stamp.verdict })
    }

    /// An after-callback is answered OK when it is durable, and only then: otherwise IM may send it again.
    async fn settle_after(
        &self,
        append: Appended,
        connection: &ConnectionState,
        tally: &mut Tally<'_>,
    ) -> Result<Response<Body>, Rejection> {
        let records = append.records;
        match self.durable(append, connection).await {
            Some(Ok(_)) => {
                tally.append();
                self.metrics.appended_records(records);
                Ok(reply::im_ok())
            }
            Some(Err(error)) => Err(error.into()),
            None => Err(Refusal::NotDurableInTime.into()),
        }
    }

    /// A before-callback is answered whatever the log does: a message must not wait for a disk.
    ///
    /// Past the budget the decision stands, because the record that holds it is on its way. What the log did not take
    /// is allowed, which is what IM does when it gets no answer.
    async fn settle_before(
        &self,
        append: Result<Appended, AppendError>,
        verdict: Verdict,
        connection: &ConnectionState,
        tally: &mut Tally<'_>,
    ) -> Result<Response<Body>, Rejection> {
        let append = match append {
            Ok(append) => append,
            Err(AppendError::Full { .. } | AppendError::Failed { .. } | AppendError::Closed) => {
                return Ok(self.allow_unrecorded(tally));
            }
            Err(error) => return Err(error.into()),
        };
        let records = append.records;
        match self.durable(append, connection).await {
            Some(Ok(_)) => {
                tally.append();
                self.metrics.appended_records(records);
                self.metrics.verdict(match verdict.outcome {
                    Outcome::Rejected => VerdictOutcome::Rejected,
                    Outcome::Dropped => VerdictOutcome::Dropped,
                    Outcome::Allowed | Outcome::Unspecified => VerdictOutcome::Allowed,
                });
            }
            Some(Err(_)) => return Ok(self.allow_unrecorded(tally)),
            None => {
                tally.reject(Refusal::NotDurableInTime);
                self.metrics.verdict(VerdictOutcome::PastBudget);
            }
        }
        Ok(reply::im_verdict(verdict.code, &verdict.message))
    }

    fn allow_unrecorded(&self, tally: &mut Tally<'_>) -> Response<Body> {
        tally.leave_unrecorded();
        self.metrics.verdict(VerdictOutcome::Unrecorded);
        reply::im_ok()
    }
}
