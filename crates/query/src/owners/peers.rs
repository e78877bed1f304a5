//! Connections to the other processes of the deployment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code as GrpcCode, Request, Status};

use super::directory::Claim;
use super::wire;
use crate::error::{ApiError, Code};
use crate::options::{CONNECT_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PEERS_MAX};
use crate::proto::owner_client::OwnerClient;
use crate::question::{Failure, Found, Kind, Question};

/// How much longer an owner may work than its answer is waited for.
const DEADLINE_SPARE: Duration = Duration::from_millis(100);

/// Asks other processes. One connection an address, made when it is first needed and again when it breaks.
#[derive(Debug)]
pub(crate) struct Peers {
    clients: Mutex<Clients>,
    authorization: Option<MetadataValue<Ascii>>,
    answer_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Clients {
    by_address: HashMap<Arc<str>, Cached>,
    uses: u64,
}

#[derive(Debug)]
struct Cached {
    client: OwnerClient<Channel>,
    last_use: u64,
}

impl Peers {
    pub(crate) fn new(api_key: &str, answer_bytes_max: usize) -> Self {
        // A key that is no header value is no key of a server either: it is refused there.
        let authorization = MetadataValue::try_from(format!("Bearer {api_key}")).ok();
        Self { clients: Mutex::default(), authorization, answer_bytes_max }
    }

    /// Asks the owner of a partition, until the deadline.
    pub(crate) async fn ask(&self, claim: &Claim, question: &Question, deadline: Instant) -> Result<Found, Failure> {
        let mut client = self.client(claim)?;
        let mut request = Request::new(wire::request(question, claim.generation));
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        // The owner stops when nobody waits any more; the time here ends first, so that it is known what ended.
        request.set_timeout(deadline.saturating_duration_since(Instant::now()) + DEADLINE_SPARE);
        match tokio::time::timeout_at(deadline, client.ask(request)).await {
            Ok(Ok(response)) => wire::answer(question.partition, response.into_inner()),
            Ok(Err(status)) => Err(failed_call(claim, question, &status)),
            Err(_) => Err(too_slow(claim, question)),
        }
    }

    fn client(&self, claim: &Claim) -> Result<OwnerClient<Channel>, Failure> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.uses += 1;
        let now = clients.uses;
        if let Some(cached) = clients.by_address.get_mut(&claim.address) {
            cached.last_use = now;
            return Ok(cached.client.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", claim.address)).map_err(|error| {
            let Claim { process, address, .. } = claim;
            ApiError::failed(format!("{process} calls `{address}` its address, which is none: {error}"))
        })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            // A process that went away without a word is noticed by this, not by every question's deadline.
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let client = OwnerClient::new(channel).max_decoding_message_size(self.answer_bytes_max);
        if clients.by_address.len() >= PEERS_MAX {
            let oldest = clients.by_address.iter().min_by_key(|(_, cached)| cached.last_use);
            if let Some(oldest) = oldest.map(|(address, _)| Arc::clone(address)) {
                clients.by_address.remove(&oldest);
            }
        }
        clients.by_address.insert(Arc::clone(&claim.address), Cached { client: client.clone(), last_use: now });
        Ok(client)
    }
}

fn too_slow(claim: &Claim, question: &Question) -> Failure {
    let message = format!("the owner of partition {}, {}, did not answer in time", question.partition, claim.process);
    Failure::unavailable(Kind::TimedOut, message)
}

/// What a call that went wrong means.
fn failed_call(claim: &Claim, question: &Question, status: &Status) -> Failure {
    let Claim { process, address, .. } = claim;
    let owner = format!("the owner of partition {}, {process} at {address},", question.partition);
    let said = status.message();
    match status.code() {
        GrpcCode::DeadlineExceeded => too_slow(claim, question),
        // The connection could not be made or broke; tonic calls some of these unknown.
        GrpcCode::Unavailable | GrpcCode::Unknown | GrpcCode::Cancelled | GrpcCode::Aborted => {
            Failure::unavailable(Kind::Unreachable, format!("{owner} cannot be reached: {said}"))
        }
        GrpcCode::ResourceExhausted => {
            ApiError::new(Code::Overloaded, format!("{owner} has too much to do: {said}"), ApiError::TRY_AGAIN).into()
        }
        GrpcCode::Unauthenticated => {
            let hint = "give all processes of a deployment the same BARRAGE_API_KEY";
            ApiError::new(Code::Failed, format!("{owner} refuses this process: {said}"), hint).into()
        }
        code => ApiError::failed(format!("{owner} answers {code:?}: {said}")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_kept_by_address_and_bounded() {
        let peers = Peers::new("key", 1 << 20);
        let claim = |n: usize| Claim { process: "p".into(), address: format!("127.0.0.1:{n}").into(), generation: 1 };
        for n in 1..=PEERS_MAX {
            peers.client(&claim(n)).expect("an address");
        }
        peers.client(&claim(1)).expect("used again");
        peers.client(&claim(PEERS_MAX + 1)).expect("an address");
        let clients = peers.clients.lock().expect("not poisoned");
        assert_eq!(clients.by_address.len(), PEERS_MAX);
        assert!(clients.by_address.contains_key("127.0.0.1:1"), "it was used again");
        assert!(!clients.by_address.contains_key("127.0.0.1:2"), "the one that was not used for longest goes");
    }

    #[tokio::test]
    async fn what_is_no_address_is_an_error() {
        let claim = Claim { process: "p".into(), address: "no address".into(), generation: 1 };
        let error = Peers::new("key", 1).client(&claim).expect_err("refused").error;
        assert_eq!(error.code, Code::Failed);
    }
}
