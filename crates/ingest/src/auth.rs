//! Who may send: IM's signature over callbacks, and API keys. Secrets are compared in constant time.

use md5::Md5;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::options::{IngestOptions, Secret};
use crate::refusal::Refusal;

/// Checks `Sign` and `RequestTime`.
///
/// `Sign` is the hex SHA-256 of the token followed by `RequestTime` in its decimal text. It covers neither the body nor
/// the other parameters. Source: cloud.tencent.com/document/product/269/32431.
#[derive(Debug)]
pub(crate) struct Signatures {
    tokens: Vec<Secret>,
    skew_ms: i64,
}

/// A signature that was right, or none was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signed {
    /// No token is set.
    NotAsked,
    /// Made with one of the tokens at this time by IM's clock, ms.
    At(i64),
    /// The same at a time that is too far from now: no proof that it was sent now.
    Old(i64),
}

impl Signatures {
    pub(crate) fn new(options: &IngestOptions) -> Self {
        Self {
            tokens: options.token.iter().chain(&options.previous_token).cloned().collect(),
            skew_ms: i64::try_from(options.signature_skew_ms).unwrap_or(i64::MAX),
        }
    }

    pub(crate) const fn is_on(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Checks a request's signature against the time, which is `now_ms` by any of these clocks.
    pub(crate) fn check(
        &self,
        sign: Option<&str>,
        request_time: Option<&str>,
        now_ms: &[i64],
    ) -> Result<Signed, Refusal> {
        if !self.is_on() {
            return Ok(Signed::NotAsked);
        }
        let (Some(sign), Some(request_time)) = (sign, request_time) else {
            return Err(Refusal::SignatureMissing);
        };
        let mut given = [0; 32];
        hex::decode_to_slice(sign, &mut given).map_err(|_| Refusal::SignatureWrong)?;
        // Every token is tried, so that time does not tell which one it was.
        let right = self.tokens.iter().fold(Choice::from(0), |right, token| {
            let mut hash = Sha256::new();
            hash.update(token.expose());
            hash.update(request_time);
            right | given.ct_eq(&<[u8; 32]>::from(hash.finalize()))
        });
        if !bool::from(right) {
            return Err(Refusal::SignatureWrong);
        }
        // Only digits: a sign or a space would be a second spelling of the same time.
        if !request_time.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Refusal::SignatureWrong);
        }
        let at_s: i64 = request_time.parse().map_err(|_| Refusal::SignatureOld)?;
        let at_ms = at_s.saturating_mul(1_000);
        // RequestTime is cut to the second, so the later half of the comparison gets that second back.
        let is_near = |now_ms: &i64| {
            let ahead = at_ms.saturating_sub(*now_ms);
            let behind = now_ms.saturating_sub(at_ms).saturating_sub(999);
            ahead <= self.skew_ms && behind <= self.skew_ms
        };
        Ok(if now_ms.iter().any(is_near) { Signed::At(at_ms) } else { Signed::Old(at_ms) })
    }
}

/// Checks `sign` and `t` in the body of a live-streaming callback.
///
/// `sign` is the hex MD5 of the callback template's key followed by `t` as it stands in the body; `t` is when the
/// signature expires, in seconds. It covers nothing else of the body. Source: intl.cloud.tencent.com/document/product/267/38080.
#[derive(Debug)]
pub(crate) struct StreamSignatures {
    keys: Vec<Secret>,
    skew_ms: i64,
}

#[derive(serde::Deserialize)]
struct StreamSign<'b> {
    #[serde(default)]
    sign: Option<std::borrow::Cow<'b, str>>,
    /// A number, or in older callbacks text.
    #[serde(borrow, default)]
    t: Option<&'b RawValue>,
}

impl StreamSignatures {
    pub(crate) fn new(options: &IngestOptions) -> Self {
        Self {
            keys: options.stream_key.iter().chain(&options.previous_stream_key).cloned().collect(),
            skew_ms: i64::try_from(options.signature_skew_ms).unwrap_or(i64::MAX),
        }
    }

    pub(crate) const fn is_on(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Checks a body against the time `now_ms`. One that names `sign` or `t` twice has no signature that counts.
    pub(crate) fn check(&self, body: &[u8], now_ms: i64) -> Result<(), Refusal> {
        let found: StreamSign<'_> = serde_json::from_slice(body).map_err(|_| Refusal::SignatureWrong)?;
        let (Some(sign), Some(expires)) = (found.sign, found.t) else { return Err(Refusal::SignatureMissing) };
        let text = expires.get();
        let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Refusal::SignatureWrong);
        }
        let mut given = [0; 16];
        hex::decode_to_slice(sign.as_bytes(), &mut given).map_err(|_| Refusal::SignatureWrong)?;
        let right = self.keys.iter().fold(Choice::from(0), |right, key| {
            let mut hash = Md5::new();
            hash.update(key.expose());
            hash.update(digits);
            right | given.ct_eq(&<[u8; 16]>::from(hash.finalize()))
        });
        if !bool::from(right) {
            return Err(Refusal::SignatureWrong);
        }
        let until_ms = digits.parse::<i64>().map_or(i64::MAX, |seconds| seconds.saturating_mul(1_000));
        let expired = now_ms.saturating_sub(until_ms) > self.skew_ms;
        if expired { Err(Refusal::SignatureOld) } else { Ok(()) }
    }
}

/// Checks API keys. Only their digests are kept and compared, which hides their lengths too.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    digests: Vec<[u8; 32]>,
}

/// Whether a caller holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// No `Authorization` header.
    Absent,
    /// A header that is no bearer token or names no known key.
    Wrong,
    /// A known key.
    Valid,
}

impl ApiKeys {
    pub(crate) fn new(keys: &[Secret]) -> Self {
        Self { digests: keys.iter().map(|key| digest(key.expose().as_bytes())).collect() }
    }

    /// Judges an `Authorization` header.
    pub(crate) fn check(&self, authorization: Option<&[u8]>) -> Key {
        let Some(header) = authorization else { return Key::Absent };
        let Some((scheme, key)) = header.split_at_checked(b"Bearer ".len()) else { return Key::Wrong };
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return Key::Wrong;
        }
        let given = digest(key.trim_ascii());
        let known = self.digests.iter().fold(Choice::from(0), |known, own| known | given.ct_eq(own));
        if bool::from(known) { Key::Valid } else { Key::Wrong }
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documentation's own vector.
    const SIGN: &str = "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061";
    const REQUEST_TIME: &str = "1669872112";
    const AT_MS: i64 = 1_669_872_112_000;

    fn signatures(token: Option<&str>, previous: Option<&str>) -> Signatures {
        Signatures::new(&IngestOptions {
            token: token.map(Secret::new),
            previous_token: previous.map(Secret::new),
            ..IngestOptions::default()
        })
    }

    #[test]
    fn the_documented_vector_passes_with_either_token_and_in_either_case() {
        let upper = SIGN.to_uppercase();
        for (token, previous) in [("xxxxyyyy", None), ("xxxxyyyy", Some("old")), ("new", Some("xxxxyyyy"))] {
            for sign in [SIGN, &upper] {
                let result = signatures(Some(token), previous).check(Some(sign), Some(REQUEST_TIME), &[AT_MS]);
                assert_eq!(result, Ok(Signed::At(AT_MS)), "{token} {previous:?} {sign}");
            }
        }
    }

    #[test]
    fn a_signature_is_refused_with_its_reason() {
        let short = &SIGN[1..];
        let long = format!("{SIGN}00");
        let other = SIGN.replace('1', "2");
        let table = [
            (None, Some(REQUEST_TIME), Refusal::SignatureMissing),
            (Some(SIGN), None, Refusal::SignatureMissing),
            (Some(""), Some(REQUEST_TIME), Refusal::SignatureWrong),
            (Some(short), Some(REQUEST_TIME), Refusal::SignatureWrong),
            (Some(&long), Some(REQUEST_TIME), Refusal::SignatureWrong),
            (Some(&other), Some(REQUEST_TIME), Refusal::SignatureWrong),
            (
                Some("zz773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061"),
                Some(REQUEST_TIME),
                Refusal::SignatureWrong,
            ),
            (Some(SIGN), Some("1669872113"), Refusal::SignatureWrong),
            (Some(SIGN), Some("-1"), Refusal::SignatureWrong),
        ];
        for (sign, request_time, expected) in table {
            let result = signatures(Some("xxxxyyyy"), None).check(sign, request_time, &[AT_MS]);
            assert_eq!(result, Err(expected), "{sign:?} {request_time:?}");
        }
        assert_eq!(
            signatures(Some("xxxyyy"), None).check(Some(SIGN), Some(REQUEST_TIME), &[AT_MS]),
            Err(Refusal::SignatureWrong)
        );
        assert_eq!(signatures(None, None).check(None, None, &[AT_MS]), Ok(Signed::NotAsked));
    }

    #[test]
    fn a_signature_ages_by_the_injected_clock() {
        let table = [
            (AT_MS + 60_999, true),
            (AT_MS + 61_000, false),
            (AT_MS - 60_000, true),
            (AT_MS - 60_001, false),
            (i64::MAX, false),
            (i64::MIN, false),
        ];
        for (now_ms, right) in table {
            let result = signatures(Some("xxxxyyyy"), None).check(Some(SIGN), Some(REQUEST_TIME), &[now_ms]);
            let expected = if right { Signed::At(AT_MS) } else { Signed::Old(AT_MS) };
            assert_eq!(result, Ok(expected), "{now_ms}");
            // Two clocks that differ: it is enough that one of them fits.
            let result = signatures(Some("xxxxyyyy"), None).check(Some(SIGN), Some(REQUEST_TIME), &[now_ms, AT_MS]);
            assert_eq!(result, Ok(Signed::At(AT_MS)), "{now_ms}");
        }
    }

    #[test]
    fn a_right_signature_over_nonsense_is_no_time() {
        for (request_time, expected) in [
            ("", Refusal::SignatureOld),
            (" 1669872112", Refusal::SignatureWrong),
            ("+1669872112", Refusal::SignatureWrong),
            ("99999999999999999999999", Refusal::SignatureOld),
            ("9223372036854775808", Refusal::SignatureOld),
        ] {
            let sign = hex::encode(Sha256::digest(format!("token{request_time}")));
            let result = signatures(Some("token"), None).check(Some(&sign), Some(request_time), &[AT_MS]);
            assert_eq!(result, Err(expected), "{request_time:?}");
        }
    }

    #[test]
    fn a_live_streaming_callback_is_signed_in_its_body() {
        const KEY: &str = "example-callback-key";
        // Computed by hand for this key.
        let (sign, upper) = ("c457e7c26f51a407464bd3989a01ca29", "C457E7C26F51A407464BD3989A01CA29");
        let until_ms = 1_703_732_078_000;
        let number = format!(r#"{{"event_type":1,"t":1703732078,"sign":"{sign}"}}"#);
        let table = [
            (number.clone(), until_ms, Ok(())),
            (number.clone(), until_ms + 60_000, Ok(())),
            (number.clone(), until_ms + 60_001, Err(Refusal::SignatureOld)),
            (number.clone(), 0, Ok(())),
            (format!(r#"{{"t":"1703732078","sign":"{sign}"}}"#), until_ms, Ok(())),
            (format!(r#"{{"t":1703732078,"sign":"{upper}"}}"#), until_ms, Ok(())),
            (format!(r#"{{"t":1703732079,"sign":"{sign}"}}"#), until_ms, Err(Refusal::SignatureWrong)),
            (format!(r#"{{"t":-1703732078,"sign":"{sign}"}}"#), until_ms, Err(Refusal::SignatureWrong)),
            (format!(r#"{{"t":"","sign":"{sign}"}}"#), until_ms, Err(Refusal::SignatureWrong)),
            (format!(r#"{{"t":[1703732078],"sign":"{sign}"}}"#), until_ms, Err(Refusal::SignatureWrong)),
            (format!(r#"{{"t":1703732078,"sign":"{}"}}"#, &sign[2..]), until_ms, Err(Refusal::SignatureWrong)),
            (format!(r#"{{"t":1703732078,"sign":"{sign}","sign":"{sign}"}}"#), until_ms, Err(Refusal::SignatureWrong)),
            (r#"{"t":1703732078,"sign":""}"#.to_owned(), until_ms, Err(Refusal::SignatureWrong)),
            (r#"{"t":1703732078}"#.to_owned(), until_ms, Err(Refusal::SignatureMissing)),
            (format!(r#"{{"sign":"{sign}"}}"#), until_ms, Err(Refusal::SignatureMissing)),
            ("[]".to_owned(), until_ms, Err(Refusal::SignatureMissing)),
        ];
        let with = |key: Option<&str>, previous: Option<&str>| {
            StreamSignatures::new(&IngestOptions {
                stream_key: key.map(Secret::new),
                previous_stream_key: previous.map(Secret::new),
                ..IngestOptions::default()
            })
        };
        for (body, now_ms, expected) in table {
            assert_eq!(with(Some(KEY), None).check(body.as_bytes(), now_ms), expected, "{body} at {now_ms}");
        }
        assert_eq!(with(Some("new"), Some(KEY)).check(number.as_bytes(), until_ms), Ok(()));
        assert_eq!(with(Some("other"), None).check(number.as_bytes(), until_ms), Err(Refusal::SignatureWrong));
        assert!(!with(None, None).is_on());
    }

    #[test]
    fn keys_are_told_apart() {
        let keys = ApiKeys::new(&[Secret::new("first-key-of-sixteen"), Secret::new("second-key-of-sixteen")]);
        let table: [(Option<&[u8]>, Key); 8] = [
            (None, Key::Absent),
            (Some(b""), Key::Wrong),
            (Some(b"Bearer"), Key::Wrong),
            (Some(b"Bearer "), Key::Wrong),
            (Some(b"Basic first-key-of-sixteen"), Key::Wrong),
            (Some(b"Bearer first-key-of-sixteen2"), Key::Wrong),
            (Some(b"Bearer first-key-of-sixteen"), Key::Valid),
            (Some(b"bearer  second-key-of-sixteen "), Key::Valid),
        ];
        for (header, expected) in table {
            assert_eq!(keys.check(header), expected, "{:?}", header.map(String::from_utf8_lossy));
        }
        assert_eq!(ApiKeys::new(&[]).check(Some(b"Bearer ")), Key::Wrong);
    }
}
