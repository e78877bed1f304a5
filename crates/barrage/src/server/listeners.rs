//! The listeners, open before anything else so that a port that is taken is told at once.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::Role;
use crate::config::Config;

/// Where a process that owns partitions is asked, when nothing is configured.
const GRPC: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8082);

/// The listeners of a role, open but not served yet.
pub(super) struct Listeners {
    pub(super) callback: Option<TcpListener>,
    pub(super) query: Option<TcpListener>,
    pub(super) grpc: Option<TcpListener>,
    pub(super) admin: TcpListener,
}

/// Their real addresses, with the ports that were free when 0 was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) callback: Option<SocketAddr>,
    pub(super) query: Option<SocketAddr>,
    pub(super) grpc: Option<SocketAddr>,
    pub(super) admin: SocketAddr,
}

impl Listeners {
    pub(super) async fn bind(role: Role, config: &Config) -> anyhow::Result<Self> {
        let bind = async |name: &str, addr: SocketAddr| {
            let hint = || format!("{name} cannot listen on {addr}; is another server running? (listen.{name})");
            TcpListener::bind(addr).await.with_context(hint)
        };
        let listen = &config.listen;
        let grpc = match role {
            Role::Run => listen.grpc.or_else(|| config.kafka.is_some().then_some(GRPC)),
            Role::Project => listen.grpc.or(Some(GRPC)),
            Role::Ingest | Role::Query => None,
        };
        Ok(Self {
            callback: if role.ingests() { Some(bind("callback", listen.callback).await?) } else { None },
            query: if role.queries() { Some(bind("query", listen.query).await?) } else { None },
            grpc: match grpc {
                Some(addr) => Some(bind("grpc", addr).await?),
                None => None,
            },
            admin: bind("admin", listen.admin).await?,
        })
    }

    pub(super) fn addresses(&self) -> std::io::Result<Addresses> {
        let of = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
        Ok(Addresses {
            callback: of(&self.callback)?,
            query: of(&self.query)?,
            grpc: of(&self.grpc)?,
            admin: self.admin.local_addr()?,
        })
    }
}
