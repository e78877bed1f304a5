//! The server that lines are sent to, and the requests that they become.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Uri};
use sha2::{Digest as _, Sha256};

use crate::line::{Line, LineKind};

/// Header by which a caller with the API key states when a line was received, ms since the epoch.
pub(crate) const RECEIVED_AT: &str = "barrage-received-at";

/// Where lines go.
#[derive(Debug, Clone)]
pub struct Target {
    pub(crate) callbacks: Door,
    pub(crate) query: Option<Door>,
    authorization: Option<HeaderValue>,
    token: Option<String>,
}

/// One address of the service.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    /// Host and port, as for a connection.
    pub(crate) address: String,
    host: HeaderValue,
    /// Path that stands before every path, without a slash at its end.
    prefix: String,
}

/// Why a target cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not the URL of a plain HTTP server.
    #[error("`{0}` is not a URL like http://127.0.0.1:8080 (only plain http is spoken)")]
    Url(String),
    /// A key that no header can hold.
    #[error("the API key holds characters that no HTTP header may hold")]
    Key,
}

/// Why a line cannot become a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the line is for the query service, and no --query URL is known")]
    NoQueryService,
    #[error("the line's method or path is not one of HTTP")]
    NotHttp,
}

impl Target {
    /// A server whose ingest stands at `callbacks`, for instance `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// When this is not the URL of a plain HTTP server.
    pub fn new(callbacks: &str) -> Result<Self, TargetError> {
        Ok(Self { callbacks: Door::parse(callbacks)?, query: None, authorization: None, token: None })
    }

    /// The server's query service: asked for the stream time, and the receiver of commands.
    ///
    /// # Errors
    /// When this is not the URL of a plain HTTP server.
    pub fn with_query(mut self, query: &str) -> Result<Self, TargetError> {
        self.query = Some(Door::parse(query)?);
        Ok(self)
    }

    /// The API key. Only with it lines state when they were received; without it they are received now.
    ///
    /// # Errors
    /// When no header can hold it.
    pub fn with_key(mut self, key: &str) -> Result<Self, TargetError> {
        let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| TargetError::Key)?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// The callback token: callbacks are signed with it, as the IM service signs them.
    #[must_use]
    pub fn with_token(mut self, token: String) -> Self {
        self.token = Some(token);
        self
    }

    /// Whether lines state when they were received.
    #[must_use]
    pub fn states_times(&self) -> bool {
        self.authorization.is_some()
    }

    /// Method, door, path and body of a line. `now_s` is the time of the signature.
    fn parts<'t, 'l>(
        &'t self,
        line: &'l Line,
        now_s: i64,
    ) -> Result<(Method, &'t Door, String, &'l Bytes), RequestError> {
        match &line.kind {
            LineKind::Callback { query, body } => {
                let mut path = format!("{}/callback?{query}", self.callbacks.prefix);
                if let Some(token) = &self.token {
                    let sign = hex::encode(Sha256::digest(format!("{token}{now_s}")));
                    path.push_str(&format!("&Sign={sign}&RequestTime={now_s}"));
                }
                Ok((Method::POST, &self.callbacks, path, body))
            }
            LineKind::Event { body } => {
                let path = format!("{}/v1/events", self.callbacks.prefix);
                Ok((Method::POST, &self.callbacks, path, body))
            }
            LineKind::Request { method, path, body } => {
                let door = self.query.as_ref().ok_or(RequestError::NoQueryService)?;
                let method = Method::from_bytes(method.as_bytes()).map_err(|_| RequestError::NotHttp)?;
                Ok((method, door, format!("{}{path}", door.prefix), body))
            }
        }
    }

    /// The request that a line becomes, and the door that it goes through.
    pub(crate) fn request(&self, line: &Line, now_s: i64) -> Result<(&Door, Request<Full<Bytes>>), RequestError> {
        let (method, door, path, body) = self.parts(line, now_s)?;
        let mut request = door.request(method, &path, body.clone()).ok_or(RequestError::NotHttp)?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            request.headers_mut().insert(RECEIVED_AT, HeaderValue::from(line.at_ms));
        }
        Ok((door, request))
    }

    /// The request of a line as bytes on the wire, for the load modes. `states_time` tells whether it says when it was
    /// received (needs a key).
    ///
    /// # Errors
    /// When the line cannot be sent to this target.
    pub fn prepare(&self, line: &Line, states_time: bool, now_s: i64) -> Result<Bytes, TargetError> {
        let not_this = |error: RequestError| TargetError::Url(error.to_string());
        let (method, door, path, body) = self.parts(line, now_s).map_err(not_this)?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", door.address);
        if let Some(authorization) = &self.authorization {
            let value = authorization.to_str().map_err(|_| TargetError::Key)?;
            head.push_str(&format!("Authorization: {value}\r\n"));
            if states_time {
                head.push_str(&format!("Barrage-Received-At: {}\r\n", line.at_ms));
            }
        }
        head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len()));
        Ok(Bytes::from([head.as_bytes(), body].concat()))
    }

    /// Host and port of the ingest.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.callbacks.address
    }

    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

impl Door {
    fn parse(url: &str) -> Result<Self, TargetError> {
        let wrong = || TargetError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.scheme_str() != Some("http") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(80);
        let address = format!("{}:{port}", authority.host());
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?;
        Ok(Self { address, host, prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    /// A request through this door; nothing when the path is not one of HTTP.
    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Option<Request<Full<Bytes>>> {
        let uri: Uri = path.parse().ok()?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Some(request)
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callback() -> Line {
        let kind = LineKind::Callback { query: "SdkAppid=1".to_owned(), body: Bytes::from_static(b"{}") };
        Line { at_ms: 1_700_000_000_123, kind }
    }

    #[test]
    fn only_urls_of_plain_http_servers_are_taken() {
        for (url, address) in [
            ("http://127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("http://example.com", Some("example.com:80")),
            ("http://[::1]:8080/", Some("[::1]:8080")),
            ("https://example.com", None),
            ("127.0.0.1:8080", None),
            ("http://", None),
            ("http://a/?b", None),
            ("http://user:secret@a/", None),
            ("", None),
        ] {
            assert_eq!(Target::new(url).ok().as_ref().map(Target::address), address, "{url}");
        }
    }

    #[test]
    fn a_time_is_stated_only_with_a_key() {
        let target = Target::new("http://a:1").unwrap();
        let (_, request) = target.request(&callback(), 0).unwrap();
        assert!(!request.headers().contains_key(RECEIVED_AT));
        let target = target.with_key("secret").unwrap();
        let (_, request) = target.request(&callback(), 0).unwrap();
        assert_eq!(request.headers()[RECEIVED_AT], "1700000000123");
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer secret");
    }

    #[test]
    fn callbacks_are_signed_as_the_platform_signs_them() {
        // Vector of the platform's documentation (cloud.tencent.com/document/product/269/32431).
        let target = Target::new("http://a:1/im/").unwrap().with_token("xxxxyyyy".to_owned());
        let (_, request) = target.request(&callback(), 1_669_872_112).unwrap();
        let expected = "/im/callback?SdkAppid=1&Sign=17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061\
                        &RequestTime=1669872112";
        assert_eq!(request.uri(), expected);
    }

    #[test]
    fn a_prepared_request_is_the_request_on_the_wire() {
        let target = Target::new("http://a:1").unwrap().with_key("k").unwrap();
        let bytes = target.prepare(&callback(), true, 0).unwrap();
        let expected = "POST /callback?SdkAppid=1 HTTP/1.1\r\nHost: a:1\r\nAuthorization: Bearer k\r\n\
                        Barrage-Received-At: 1700000000123\r\nContent-Type: application/json\r\n\
                        Content-Length: 2\r\n\r\n{}";
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), expected);
    }

    #[test]
    fn a_command_needs_a_query_service() {
        let kind = LineKind::Request { method: "POST".to_owned(), path: "/v1/x".to_owned(), body: Bytes::new() };
        let line = Line { at_ms: 0, kind };
        let target = Target::new("http://a:1").unwrap();
        assert_eq!(target.request(&line, 0).unwrap_err(), RequestError::NoQueryService);
        let target = target.with_query("http://b:2").unwrap();
        assert_eq!(target.request(&line, 0).unwrap().0.address, "b:2");
        for (method, path) in [("PO ST", "/v1"), ("GET", "/a b"), ("GET", "")] {
            let kind = LineKind::Request { method: method.to_owned(), path: path.to_owned(), body: Bytes::new() };
            assert_eq!(
                target.request(&Line { at_ms: 0, kind }, 0).unwrap_err(),
                RequestError::NotHttp,
                "{method} {path}"
            );
        }
    }
}
