//! The internal gRPC service: other processes of the deployment ask this one about its partitions.
//!
//! Whoever asks must send the API key, as `authorization: Bearer KEY`, on loopback too: reads over HTTP are open where
//! an operator opens them, but this service also takes commands, and a rule without exception leaves none to be found.
//! All processes of a deployment therefore have the same key (`BARRAGE_API_KEY`). There is no TLS: the network between
//! the processes is the operator's. The service's description, which is public, needs no key.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use barrage_event::Partition;
use prost::Message as _;
use subtle::ConstantTimeEq as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::directory::{Directory, Owner};
use super::wire;
use crate::connection::Timed;
use crate::error::ApiError;
use crate::local::Local;
use crate::metrics::Metrics;
use crate::options::{
    ANSWER_FRAME_BYTES, HEADER_LIST_BYTES_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, OwnerOptions, QUESTION_BYTES_MAX,
    SILENCE_MAX, STOP_WAIT,
};
use crate::proto::owner_server::{Owner as Service, OwnerServer};
use crate::proto::{self, AskRequest, AskResponse, OwnedPartition, StatusRequest, StatusResponse};
use crate::question::{Ask, Failure, Found, Question};
use crate::server::{ServerError, accept};

/// Answers questions of other processes about partitions of this one; cheap to clone.
#[derive(Debug, Clone)]
pub struct OwnerService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    local: Local,
    directory: Arc<dyn Directory>,
    api_key: String,
    options: OwnerOptions,
    questions: Semaphore,
    /// Waits have places of their own: they are long, and cost nothing but memory.
    waits: Semaphore,
    metrics: Metrics,
}

impl OwnerService {
    /// Answers about the partitions that are this process's according to the directory.
    #[must_use]
    pub fn new(
        local: Local,
        directory: Arc<dyn Directory>,
        api_key: String,
        options: OwnerOptions,
        metrics: Metrics,
    ) -> Self {
        let places = |n: u32| Semaphore::new(usize::try_from(n).unwrap_or(Semaphore::MAX_PERMITS));
        let (questions, waits) = (places(options.requests_in_flight_max), places(options.waits_in_flight_max));
        Self(Arc::new(Inner { local, directory, api_key, options, questions, waits, metrics }))
    }
}

impl Inner {
    fn check_key(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let given = metadata.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let given = given.strip_prefix("Bearer ").unwrap_or_default();
        let key = self.api_key.as_bytes();
        if !key.is_empty() && bool::from(given.as_bytes().ct_eq(key)) {
            return Ok(());
        }
        Err(Status::unauthenticated("the API key is missing or not this server's"))
    }

    /// Refuses what is not this process's. A caller that knows a higher generation knows of an owner after this one,
    /// which this process has not heard of yet.
    fn check_owner(&self, partition: Partition, generation: u64) -> Result<(), Failure> {
        match self.directory.owner(partition) {
            Owner::Here(claim) if generation <= claim.generation => Ok(()),
            Owner::Here(_) | Owner::There(_) | Owner::Nobody => Err(Failure::not_mine(partition)),
        }
    }

    async fn answer(&self, question: Question, generation: u64) -> Result<Found, Failure> {
        let partition = question.partition;
        self.check_owner(partition, generation)?;
        let found = self.local.answer(&question).await?;
        // It may have gone while the question was answered; whoever has it now may have answered others already.
        self.check_owner(partition, generation)?;
        Ok(found)
    }
}

#[tonic::async_trait]
impl Service for OwnerService {
    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        let inner = &self.0;
        inner.check_key(request.metadata())?;
        let read = wire::question(request.into_inner());
        let (question, generation) = read.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let places = if matches!(question.ask, Ask::WaitFor { .. }) { &inner.waits } else { &inner.questions };
        let _place = places.try_acquire().map_err(|_| Status::resource_exhausted("too many questions are at work"))?;
        let outcome = Box::pin(inner.answer(question, generation)).await;
        inner.metrics.answered(outcome.as_ref().err().map(|failure| failure.kind));
        let response = wire::response(outcome);
        let bytes = response.encoded_len();
        if bytes <= inner.options.answer_bytes_max() {
            return Ok(Response::new(response));
        }
        let message = format!("the answer has {bytes} bytes, more than {}", inner.options.answer_bytes_max);
        let hint = "ask for less with limit=; grpc.answer_bytes_max of the owner and query.answer_bytes_max limit it";
        let too_large = ApiError::new(crate::error::Code::Failed, message, hint);
        Ok(Response::new(wire::response(Err(too_large.into()))))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let inner = &self.0;
        inner.check_key(request.metadata())?;
        let _place =
            inner.questions.try_acquire().map_err(|_| Status::resource_exhausted("too many questions are at work"))?;
        let partitions = inner.local.stores().status();
        let partitions = partitions.iter().map(|status| OwnedPartition {
            generation: match inner.directory.owner(status.partition) {
                Owner::Here(claim) => claim.generation,
                Owner::There(_) | Owner::Nobody => 0,
            },
            status: Some(wire::status(status)),
        });
        Ok(Response::new(StatusResponse { partitions: partitions.collect() }))
    }
}

/// Serves the service and its description until `shutdown` is ready; then takes no new question and gives those in
/// flight 5 s to finish.
///
/// # Errors
/// [`ServerError`] when the listener fails; failures of one connection end that connection only.
pub async fn serve_owner(
    listener: TcpListener,
    service: OwnerService,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let options = service.0.options.clone();
    let places = usize::try_from(options.connections_max).unwrap_or(Semaphore::MAX_PERMITS);
    let incoming = incoming(listener, Arc::new(Semaphore::new(places)), options.write_timeout());
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .build_v1()
        .map_err(|error| ServerError::Service(error.to_string()))?;
    let owner = OwnerServer::new(service)
        .max_decoding_message_size(QUESTION_BYTES_MAX)
        .max_encoding_message_size(options.answer_bytes_max().saturating_add(ANSWER_FRAME_BYTES));
    let (stop, stopping) = watch::channel(false);
    let stopped = |mut stopping: watch::Receiver<bool>| async move { drop(stopping.wait_for(|stop| *stop).await) };
    let served = Server::builder()
        .max_concurrent_streams(options.requests_in_flight_max.saturating_add(options.waits_in_flight_max))
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(reflection)
        .add_service(owner)
        .serve_with_incoming_shutdown(incoming, stopped(stopping));
    let mut served = std::pin::pin!(served);
    tokio::select! {
        ended = &mut served => {
            let why = ended.map_or_else(|error| error.to_string(), |()| "the listener failed".to_owned());
            return Err(ServerError::Service(why));
        }
        () = shutdown => {}
    }
    stop.send_replace(true);
    match tokio::time::timeout(STOP_WAIT, served).await {
        Ok(ended) => ended.map_err(|error| ServerError::Service(error.to_string())),
        Err(_) => {
            tracing::warn!("questions were still in flight when the server stopped");
            Ok(())
        }
    }
}

/// Connections as they come, as many as allowed.
fn incoming(
    listener: TcpListener,
    places: Arc<Semaphore>,
    write_timeout: Duration,
) -> impl futures_util::Stream<Item = io::Result<Timed<TcpStream>>> {
    futures_util::stream::unfold((listener, places), move |(listener, places)| async move {
        // The semaphore is never closed.
        let place: OwnedSemaphorePermit = Arc::clone(&places).acquire_owned().await.ok()?;
        match accept(&listener).await {
            Ok(stream) => {
                let timed = Timed::new(stream, Some(SILENCE_MAX), write_timeout, place);
                Some((Ok(timed), (listener, places)))
            }
            Err(error) => {
                tracing::error!(%error, "accepting connections failed");
                None
            }
        }
    })
}
