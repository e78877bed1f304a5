//! The least of an HTTP/1.1 client: writes prepared bytes, reads status and body.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest answer, head and body, bytes. Answers to callbacks are below 300.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A connection on which one request is in flight at a time.
#[derive(Debug)]
pub(super) struct RawConnection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl RawConnection {
    pub(super) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 4_096], filled: 0 })
    }

    /// Sends a prepared request and gives the status of its answer.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        let head = loop {
            if let Some(head) = Head::find(&self.buffer[..self.filled])? {
                break head;
            }
            self.fill().await?;
        };
        let whole = head.bytes + head.body_bytes;
        if whole > ANSWER_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
        while self.filled < whole {
            self.fill().await?;
        }
        // Nothing is sent ahead, so nothing but this answer can have come.
        if self.filled > whole {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more came than the answer"));
        }
        self.filled = 0;
        Ok(head.status)
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            if self.filled >= ANSWER_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
            }
            self.buffer.resize(self.filled * 2, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.filled..]).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        self.filled += read;
        Ok(())
    }
}

/// What matters of an answer's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    /// Length of the head with its empty line.
    bytes: usize,
    status: u16,
    body_bytes: usize,
}

impl Head {
    /// Reads a head; nothing while its end has not come yet.
    fn find(buffer: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut lines = buffer[..end].split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let status_line = lines.next().unwrap_or_default();
        let status = status_line
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|rest| number(rest.get(..3)?))
            .and_then(|status| u16::try_from(status).ok())
            .ok_or_else(|| wrong("the answer is not HTTP/1.1"))?;
        let mut body_bytes = if status == 204 || status == 304 { Some(0) } else { None };
        for line in lines {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                body_bytes = Some(number(value).ok_or_else(|| wrong("the answer's Content-Length is not a number"))?);
            }
        }
        let body_bytes = body_bytes.ok_or_else(|| wrong("the answer has no Content-Length"))?;
        Ok(Some(Self { bytes: end + 4, status, body_bytes }))
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + usize::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_when_they_are_complete() {
        let cases: [(&str, Option<Head>); 5] = [
            ("", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Some(Head { bytes: 38, status: 200, body_bytes: 2 })),
            (
                "HTTP/1.1 503 x\r\nA: b\r\nCONTENT-LENGTH:   10\r\n\r\n",
                Some(Head { bytes: 46, status: 503, body_bytes: 10 }),
            ),
            ("HTTP/1.1 204 \r\n\r\n", Some(Head { bytes: 17, status: 204, body_bytes: 0 })),
        ];
        for (text, expected) in cases {
            assert_eq!(Head::find(text.as_bytes()).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_such_an_answer_is_an_error() {
        for text in [
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert!(Head::find(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
