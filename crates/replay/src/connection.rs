//! One keep-alive connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A connection to one address that is made when it is needed, and made anew when it broke.
#[derive(Debug)]
pub(crate) struct Connection {
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// How an exchange ended.
#[derive(Debug)]
pub(crate) enum Exchange {
    /// With an answer.
    Answered {
        /// HTTP status.
        status: u16,
        /// The answer's body.
        body: Bytes,
    },
    /// The request was not sent: there is no connection.
    Unsent(String),
    /// The request was sent, in part at least, and there is no answer.
    Lost(String),
}

impl Connection {
    pub(crate) fn new(address: String) -> Self {
        Self { address, sender: None }
    }

    /// Sends a request and reads the answer. A connection that the server closed while it was idle is replaced: nothing
    /// was sent on it.
    pub(crate) async fn exchange(&mut self, request: Request<Full<Bytes>>, within: Duration) -> Exchange {
        match timeout(within, self.exchange_in_time(request)).await {
            Ok(exchange) => exchange,
            Err(_) => {
                // What arrives later would be taken for the answer to the next request.
                self.sender = None;
                Exchange::Lost(format!("no answer within {} s", within.as_secs_f32()))
            }
        }
    }

    async fn exchange_in_time(&mut self, mut request: Request<Full<Bytes>>) -> Exchange {
        let mut fresh = false;
        loop {
            if !self.is_usable().await {
                match self.connect().await {
                    Ok(sender) => self.sender = Some(sender),
                    Err(why) => return Exchange::Unsent(why),
                }
                fresh = true;
            }
            let sender = self.sender.as_mut().expect("a connection was just made");
            match sender.try_send_request(request).await {
                Ok(response) => return self.read(response).await,
                Err(mut error) => {
                    self.sender = None;
                    match error.take_message() {
                        Some(unsent) if !fresh => request = unsent,
                        Some(_) => return Exchange::Unsent(error.into_error().to_string()),
                        None => return Exchange::Lost(error.into_error().to_string()),
                    }
                }
            }
        }
    }

    async fn is_usable(&mut self) -> bool {
        match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
        // A request is one small write that is wanted at once.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // It ends with the connection, and its error is the sender's error.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn read(&mut self, response: hyper::Response<hyper::body::Incoming>) -> Exchange {
        let status = response.status().as_u16();
        match Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await {
            Ok(body) => Exchange::Answered { status, body: body.to_bytes() },
            Err(error) => {
                self.sender = None;
                Exchange::Lost(format!("the answer broke off: {error}"))
            }
        }
    }
}
