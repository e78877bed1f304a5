//! The parameters of a callback's URL, percent-decoded, without allocation where nothing is encoded.

use std::borrow::Cow;

use crate::refusal::Refusal;

/// The parameters that matter. The first of a name counts; what has another name is ignored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Params<'a> {
    pub(crate) app: Option<Cow<'a, str>>,
    pub(crate) command: Option<Cow<'a, str>>,
    pub(crate) platform: Option<Cow<'a, str>>,
    pub(crate) sign: Option<Cow<'a, str>>,
    pub(crate) request_time: Option<Cow<'a, str>>,
}

impl<'a> Params<'a> {
    /// Reads a query string. Names are case-sensitive, as IM writes them.
    ///
    /// # Errors
    /// [`Refusal::BadQuery`] when a parameter that matters is not UTF-8 after decoding.
    pub(crate) fn parse(query: &'a str) -> Result<Self, Refusal> {
        let mut params = Self::default();
        let mut rest = query;
        while !rest.is_empty() {
            let pair;
            (pair, rest) = split(rest, b'&');
            let (name, value) = split(pair, b'=');
            // What is no UTF-8 is no name that matters.
            let Ok(name) = decode(name) else { continue };
            let slot = match &*name {
                "SdkAppid" => &mut params.app,
                "CallbackCommand" => &mut params.command,
                "OptPlatform" => &mut params.platform,
                "Sign" => &mut params.sign,
                "RequestTime" => &mut params.request_time,
                _ => continue,
            };
            if slot.is_none() {
                *slot = Some(decode(value)?);
            }
        }
        Ok(params)
    }

    /// `SdkAppid` as a number.
    ///
    /// # Errors
    /// [`Refusal::MissingApp`] when it is absent or empty, [`Refusal::BadApp`] when it is no number of 32 bits.
    pub(crate) fn app(&self) -> Result<u32, Refusal> {
        match self.app.as_deref() {
            None | Some("") => Err(Refusal::MissingApp),
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().map_err(|_| Refusal::BadApp),
            Some(_) => Err(Refusal::BadApp),
        }
    }
}

/// What stands before and after a separator. Names and values are short, so a plain loop is faster than a search.
fn split(text: &str, separator: u8) -> (&str, &str) {
    match text.bytes().position(|byte| byte == separator) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
}

/// Decodes `%XX` and `+`. A `%` that begins no hex pair stands for itself, as browsers have it.
fn decode(text: &str) -> Result<Cow<'_, str>, Refusal> {
    if !text.bytes().any(|byte| byte == b'%' || byte == b'+') {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = (byte == b'%').then(|| Some((hex_digit(*after.first()?)?, hex_digit(*after.get(1)?)?))).flatten();
        rest = after;
        match (byte, hex) {
            (_, Some((high, low))) => {
                decoded.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', None) => decoded.push(b' '),
            (byte, None) => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| Refusal::BadQuery)
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn the_documented_query_is_read_without_allocation() {
        let params = Params::parse(
            "SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterNewMemberJoin&contenttype=json\
             &ClientIP=198.51.100.7&OptPlatform=Android&Sign=00ff&RequestTime=1735689571",
        )
        .unwrap();
        assert_eq!(params.app(), Ok(1_400_000_000));
        let borrowed =
            |value: &Option<Cow<'_, str>>, text: &str| matches!(value, Some(Cow::Borrowed(own)) if *own == text);
        assert!(borrowed(&params.command, "Group.CallbackAfterNewMemberJoin"));
        assert!(borrowed(&params.platform, "Android"));
        assert!(borrowed(&params.sign, "00ff"));
        assert!(borrowed(&params.request_time, "1735689571"));
    }

    #[test]
    fn values_are_decoded() {
        let table = [
            ("OptPlatform=i%4fS", Ok(Some("iOS"))),
            ("OptPlatform=%E7%9B%B4%e6%92%ad", Ok(Some("直播"))),
            ("OptPlatform=a+b%2Bc", Ok(Some("a b+c"))),
            ("OptPlatform=100%&x=1", Ok(Some("100%"))),
            ("OptPlatform=%4", Ok(Some("%4"))),
            ("OptPlatform=%zz", Ok(Some("%zz"))),
            ("Opt%50latform=x", Ok(Some("x"))),
            ("OptPlatform=first&OptPlatform=second", Ok(Some("first"))),
            ("OptPlatform", Ok(Some(""))),
            ("optplatform=x", Ok(None)),
            ("", Ok(None)),
            ("&&=&=x&", Ok(None)),
            ("ClientIP=%ff&%ff=x", Ok(None)),
            ("OptPlatform=%ff", Err(Refusal::BadQuery)),
            ("Sign=%c3%28", Err(Refusal::BadQuery)),
        ];
        for (query, expected) in table {
            let platform = Params::parse(query).map(|params| params.platform.map(Cow::into_owned));
            assert_eq!(platform, expected.map(|text| text.map(str::to_owned)), "{query}");
        }
    }

    #[test]
    fn an_app_is_a_number_of_32_bits() {
        let table = [
            ("", Err(Refusal::MissingApp)),
            ("SdkAppid=", Err(Refusal::MissingApp)),
            ("SdkAppid=0", Ok(0)),
            ("SdkAppid=4294967295", Ok(u32::MAX)),
            ("SdkAppid=4294967296", Err(Refusal::BadApp)),
            ("SdkAppid=-1", Err(Refusal::BadApp)),
            ("SdkAppid=%2B1", Err(Refusal::BadApp)),
            ("SdkAppid=1.0", Err(Refusal::BadApp)),
            ("SdkAppid=x", Err(Refusal::BadApp)),
        ];
        for (query, expected) in table {
            assert_eq!(Params::parse(query).unwrap().app(), expected, "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in any::<String>()) {
            if let Ok(params) = Params::parse(&query) {
                let _ = params.app();
                prop_assert!(params.command.is_none_or(|command| command.len() <= query.len()));
            }
        }

        #[test]
        fn an_encoded_value_comes_back(value in any::<String>()) {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let query = format!("a=b&CallbackCommand={encoded}");
            let params = Params::parse(&query).unwrap();
            prop_assert_eq!(params.command.as_deref(), Some(&*value));
        }
    }
}
