//! A connection that is kept: one request at a time, and the time it took is the server's.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Longest wait for an answer: more than a query process looks for the owner of a partition.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A keep-alive connection; connects anew after an error.
#[derive(Debug)]
pub(super) struct Connection {
    address: String,
    stream: Option<TcpStream>,
}

impl Connection {
    pub(super) fn new(address: &str) -> Self {
        Self { address: address.to_owned(), stream: None }
    }

    /// Status and body of a GET request.
    pub(super) fn get(&mut self, path: &str) -> Result<(u16, Vec<u8>)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.exchange(request.as_bytes())
    }

    /// Status and body of a POST request.
    pub(super) fn post(&mut self, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let length = body.len();
        let mut request =
            format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n", self.address).into_bytes();
        request.extend_from_slice(body);
        self.exchange(&request)
    }

    fn exchange(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address).with_context(|| format!("connect {}", self.address))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER_WITHIN))?;
                stream
            }
        };
        stream.write_all(request)?;
        let (mut answer, mut piece) = (Vec::new(), [0; 4_096]);
        let (status, end, whole) = loop {
            let read = stream.read(&mut piece)?;
            if read == 0 {
                bail!("{} closed the connection", self.address);
            }
            answer.extend_from_slice(&piece[..read]);
            if let Some(head) = head(&answer)? {
                break head;
            }
        };
        while answer.len() < whole {
            let read = stream.read(&mut piece)?;
            if read == 0 {
                bail!("{} closed the connection in the middle of an answer", self.address);
            }
            answer.extend_from_slice(&piece[..read]);
        }
        self.stream = Some(stream);
        Ok((status, answer.split_off(end)))
    }
}

/// Status, length of the head, and length of the whole answer, once the head is there.
fn head(answer: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("the answer has a status")?;
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let length = length.context("the answer tells its length")?;
    Ok(Some((status, end + 4, end + 4 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_tell_how_long_an_answer_is() {
        let text = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(head(text).unwrap(), Some((503, text.len() - 2, text.len())));
        assert_eq!(head(&text[..30]).unwrap(), None);
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
