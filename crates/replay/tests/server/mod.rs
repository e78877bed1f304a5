//! A real HTTP server in this process that notes what it is sent and answers as it is told.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What IM is answered when all is well.
pub(crate) const IM_OK: &str = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

/// One request that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) received_at: Option<i64>,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Bytes,
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Status and body.
    Answer(u16, String),
    /// The connection is closed without an answer.
    Hang,
}

impl Reply {
    pub(crate) fn im_ok() -> Self {
        Self::Answer(200, IM_OK.to_owned())
    }
}

pub(crate) type Answering = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// A running server. It ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Starts a server whose answers this function gives.
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Answering + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (notes, answer) = (Arc::clone(&notes), Arc::clone(&answer));
                let service = service_fn(move |request| {
                    let (notes, answer) = (Arc::clone(&notes), Arc::clone(&answer));
                    async move {
                        let seen = note(request).await;
                        let answering = answer(&seen);
                        notes.lock().unwrap().push(seen);
                        match answering.await {
                            Reply::Hang => Err(std::io::Error::other("hang up")),
                            Reply::Answer(status, body) => {
                                let mut response = Response::new(Full::new(Bytes::from(body)));
                                *response.status_mut() = status.try_into().unwrap();
                                Ok(response)
                            }
                        }
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, seen }
    }

    /// A server that finds everything fine at once.
    pub(crate) async fn fine() -> Self {
        Self::start(|_| Box::pin(async { Reply::im_ok() })).await
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn note(request: Request<Incoming>) -> Seen {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (received_at, authorization) = (header("barrage-received-at"), header("authorization"));
    let method = request.method().to_string();
    let path = request.uri().to_string();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Seen { method, path, received_at: received_at.map(|at| at.parse().unwrap()), authorization, body }
}
