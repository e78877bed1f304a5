//! Whether an endpoint may be bound to an address, given what protects it.

use std::net::SocketAddr;

/// Why ingest refuses to bind an address.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error(
    "callbacks would be accepted from anybody who reaches {addr}: set ingest.token to the callback token of IM's \
     console (or at least ingest.apps to your SdkAppids), or listen on 127.0.0.1"
)]
pub struct ExposureError {
    /// The address.
    pub addr: SocketAddr,
}

/// What an operator should know about an endpoint that may be bound.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum ExposureWarning {
    /// Neither token nor allow-list, on loopback.
    #[error("callbacks are accepted unsigned and from any app; that is fine only while {addr} is loopback")]
    Open {
        /// The address.
        addr: SocketAddr,
    },
    /// An allow-list alone: an `SdkAppid` is no secret.
    #[error(
        "callbacks to {addr} are not signed and an SdkAppid is no secret: set ingest.token, or let only IM's addresses in"
    )]
    Unsigned {
        /// The address.
        addr: SocketAddr,
    },
}

/// Decides whether the callback endpoint may be bound to `addr`: anything but loopback needs a token or an allow-list.
///
/// # Errors
/// [`ExposureError`] when it may not.
pub fn check_exposure(
    addr: SocketAddr,
    has_token: bool,
    has_allow_list: bool,
) -> Result<Option<ExposureWarning>, ExposureError> {
    // An IPv4 address written as IPv6 is judged as what it is.
    let loopback = addr.ip().to_canonical().is_loopback();
    match (loopback, has_token, has_allow_list) {
        (_, true, _) | (true, false, true) => Ok(None),
        (true, false, false) => Ok(Some(ExposureWarning::Open { addr })),
        (false, false, true) => Ok(Some(ExposureWarning::Unsigned { addr })),
        (false, false, false) => Err(ExposureError { addr }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_may_be_bound_bare() {
        let table = [
            ("127.0.0.1:8080", false, false, "warns"),
            ("127.9.9.9:8080", false, false, "warns"),
            ("[::1]:8080", false, false, "warns"),
            ("[::ffff:127.0.0.1]:8080", false, false, "warns"),
            ("127.0.0.1:8080", false, true, "passes"),
            ("127.0.0.1:8080", true, false, "passes"),
            ("0.0.0.0:8080", false, false, "refuses"),
            ("[::]:8080", false, false, "refuses"),
            ("10.1.2.3:80", false, false, "refuses"),
            ("[::ffff:10.1.2.3]:80", false, false, "refuses"),
            ("0.0.0.0:8080", false, true, "warns"),
            ("0.0.0.0:8080", true, false, "passes"),
            ("[::]:8080", true, true, "passes"),
        ];
        for (addr, has_token, has_allow_list, expected) in table {
            let result = check_exposure(addr.parse().unwrap(), has_token, has_allow_list);
            let got = match result {
                Ok(None) => "passes",
                Ok(Some(_)) => "warns",
                Err(_) => "refuses",
            };
            assert_eq!(got, expected, "{addr}, token {has_token}, allow-list {has_allow_list}");
        }
    }
}
