//! Asks a running server's query service. Plain HTTP: for servers on this machine or in this network.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpStream;

use crate::cli::ServerArgs;

/// How long an answer may take: reads wait 5 s for positions, and rules go to every partition.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A query service and the key for its commands.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: String,
    prefix: String,
    key: Option<String>,
}

impl Client {
    /// The server that the arguments name, with the key of the environment or of its data directory.
    pub(crate) fn of(args: &ServerArgs) -> anyhow::Result<Self> {
        let key = crate::api_key::of_client(std::env::var(crate::api_key::VARIABLE).ok(), args.data_dir.as_deref())?;
        Self::new(&args.query, key)
    }

    pub(crate) fn new(url: &str, key: Option<String>) -> anyhow::Result<Self> {
        let wrong = || format!("`{url}` is no URL like http://127.0.0.1:8081 (only plain http is spoken)");
        let uri: Uri = url.parse().with_context(wrong)?;
        let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else { bail!(wrong()) };
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self { address, prefix: uri.path().trim_end_matches('/').to_owned(), key })
    }

    /// The key that commands are sent with.
    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Asks for JSON.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Json> {
        self.ask(Method::GET, path, "", Bytes::new(), ANSWER_WITHIN).await
    }

    /// Sends a command.
    pub(crate) async fn post(&self, path: &str, content_type: &str, body: Bytes) -> anyhow::Result<Json> {
        self.post_patiently(path, content_type, body, ANSWER_WITHIN).await
    }

    /// Sends a command that is answered when it is done, within this time.
    pub(crate) async fn post_patiently(
        &self,
        path: &str,
        content_type: &str,
        body: Bytes,
        within: Duration,
    ) -> anyhow::Result<Json> {
        if self.key.is_none() {
            bail!("this command needs the API key: set BARRAGE_API_KEY, or name the server's --data-dir");
        }
        self.ask(Method::POST, path, content_type, body, within).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
        within: Duration,
    ) -> anyhow::Result<Json> {
        let asked = self.exchange(method, path, content_type, body);
        let (status, body) = tokio::time::timeout(within, asked)
            .await
            .map_err(|_| anyhow::anyhow!("{} did not answer within {} s", self.address, within.as_secs()))?
            .with_context(|| format!("the query service at {} (is `barrage run` up?)", self.address))?;
        let json: Json = serde_json::from_slice(&body)
            .with_context(|| format!("{} answered {status} and no JSON; is it a query service?", self.address))?;
        if status.is_success() {
            return Ok(json);
        }
        let text = |field: &str| json["error"][field].as_str().unwrap_or_default().to_owned();
        bail!("{} ({status} {}); {}", text("message"), text("code"), text("hint"))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(&self.address).await.context("no connection")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.address)
            .header(header::CONNECTION, "close");
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        driver.abort();
        Ok((status, body.map_err(|error| anyhow::anyhow!(error))?.to_bytes()))
    }
}

/// A runtime for a command that asks a server: one thread is enough.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot be started")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_host_port_and_prefix() {
        for (url, address, prefix) in [
            ("http://127.0.0.1:8081", "127.0.0.1:8081", ""),
            ("http://127.0.0.1:8081/", "127.0.0.1:8081", ""),
            ("http://barrage.example/api/", "barrage.example:80", "/api"),
            ("http://[::1]:1", "[::1]:1", ""),
        ] {
            let client = Client::new(url, None).expect(url);
            assert_eq!((client.address.as_str(), client.prefix.as_str()), (address, prefix), "{url}");
        }
        for url in ["", "127.0.0.1:8081", "https://x", "http://", "ftp://x", "http://a b"] {
            assert!(Client::new(url, None).is_err(), "{url}");
        }
    }
}
