//! The tasks that serve.

use std::future::Future;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use barrage_ingest::{IngestOptions, LogClock, Secret};
use barrage_query::{Admin, Api, OwnerService};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Stops;
use super::listeners::Listeners;
use super::open::Parts;
use super::ownership;
use crate::rules_control::IngestRules;

type Served = JoinHandle<anyhow::Result<()>>;

/// The tasks that serve; only those that the role has.
pub(super) struct Servers {
    ingest: Option<Served>,
    others: Vec<(&'static str, Served)>,
}

impl Servers {
    pub(super) fn start(parts: &Parts, listeners: Listeners, stops: &Stops) -> Self {
        let mut others = vec![("metrics", admin(parts, listeners.admin, until(&stops.reads)))];
        if let (Some(listener), Some(_)) = (listeners.query, &parts.rules) {
            others.push(("reads", query(parts, listener, until(&stops.reads))));
        }
        if let (Some(listener), Some(local)) = (listeners.grpc, &parts.local) {
            let service = OwnerService::new(
                local.clone(),
                Arc::clone(&parts.directory),
                parts.api_key.clone(),
                parts.config.grpc.clone(),
                parts.query_metrics.clone(),
            );
            let served = barrage_query::serve_owner(listener, service, until(&stops.reads));
            let served = async { served.await.context("questions over gRPC are no longer answered") };
            others.push(("questions over gRPC", tokio::spawn(served)));
        }
        let ingest = listeners.callback.and_then(|listener| ingest(parts, listener, until(&stops.ingest)));
        Self { ingest, others }
    }

    /// Why one of them ended, which none should before it is told to.
    pub(super) async fn any_ends(&mut self) -> anyhow::Error {
        let ingest = async {
            match &mut self.ingest {
                Some(task) => ("callbacks", task.await),
                None => std::future::pending().await,
            }
        };
        let others = self.others.iter_mut().map(|(name, task)| Box::pin(async move { (*name, task.await) }));
        let (name, ended) = tokio::select! {
            ended = ingest => ended,
            (ended, _, _) = futures_util::future::select_all(others) => ended,
        };
        match ended {
            Ok(Ok(())) => anyhow!("the server of {name} ended by itself"),
            Ok(Err(error)) => error,
            Err(error) => anyhow!("the server of {name} ended: {error}"),
        }
    }

    /// Waits until no callback is at work any more.
    pub(super) async fn callbacks_ended(&self) {
        // A server that ended by itself was reported already.
        while self.ingest.as_ref().is_some_and(|task| !task.is_finished()) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Waits for all other servers.
    pub(super) async fn others_ended(self) {
        for (_, task) in self.others {
            if !task.is_finished() {
                drop(task.await);
            }
        }
    }
}

fn until(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stop = stop.subscribe();
    async move { drop(stop.wait_for(|stop| *stop).await) }
}

fn ingest(
    parts: &Parts,
    listener: tokio::net::TcpListener,
    until: impl Future<Output = ()> + Send + 'static,
) -> Option<Served> {
    let (intake, rules) = (parts.intake.as_ref()?, parts.rules.as_ref()?);
    let mut options: IngestOptions = parts.config.ingest.clone();
    options.api_keys.push(Secret::new(parts.api_key.clone()));
    let (appender, metrics) = (Arc::clone(&intake.appender), intake.metrics.clone());
    let clock = Arc::new(LogClock::new(parts.log()));
    let served = barrage_ingest::serve_with_clock(listener, options, appender, rules.handle(), metrics, clock, until);
    Some(tokio::spawn(async { served.await.context("callbacks are no longer taken") }))
}

fn query(parts: &Parts, listener: tokio::net::TcpListener, until: impl Future<Output = ()> + Send + 'static) -> Served {
    let rules = parts.rules.as_ref().map(Arc::clone);
    let api = rules.map(|rules| {
        Api::new(barrage_query::api::ApiParts {
            owners: Arc::new(parts.owners()),
            rules: Arc::new(IngestRules(rules)),
            apps: parts.config.ingest.apps.clone(),
            api_key: parts.api_key.clone(),
            options: parts.config.query.clone(),
            metrics: parts.query_metrics.clone(),
            around: parts.around(),
        })
    });
    tokio::spawn(async move {
        let api = api.context("reads need the rules")?;
        barrage_query::serve(listener, api.router(), api.limits(), until).await.context("reads are no longer answered")
    })
}

fn admin(parts: &Parts, listener: tokio::net::TcpListener, until: impl Future<Output = ()> + Send + 'static) -> Served {
    let mut admin = Admin::new(Arc::clone(&parts.registry), parts.config.admin.clone());
    match (&parts.local, parts.spool()) {
        // Where there is a spool the log's health keeps no callback away: it is judged below.
        (Some(local), Some(_)) => {
            let stores = local.stores().clone();
            admin = admin.with_partitions(move || stores.status());
        }
        (Some(local), None) => admin = admin.of_stores(local.stores()),
        (None, _) => {}
    }
    if let (Some(log), Some(_), None) = (parts.kafka(), &parts.local, parts.spool()) {
        let watched = Arc::clone(log);
        // What is wrong with the topics needs a person; what is not reached mends itself. Where there is a spool callbacks
        // are taken all the same, and an endpoint that is taken out of service would lose them. Reads are answered as
        // ever, and all processes that answer them see the same topics: out of service, there would be none.
        admin = admin.with_check(move || watched.problem().iter().map(ToString::to_string).collect());
    }
    if let Some(spool) = parts.spool() {
        let (spool, log) = (Arc::clone(spool), parts.log());
        admin = admin.with_check(move || {
            let status = spool.status();
            // A partition whose callbacks went to the spool is refused as long as that takes nothing, also before the log's
            // watcher has noticed an outage and while what is there is drained.
            let down = status.partitions > 0 || !matches!(log.health(), barrage_log::Health::Ready);
            // As long as the disk takes over, callbacks are taken.
            if status.failed && down {
                vec!["neither the log nor the spool takes callbacks".to_owned()]
            } else {
                Vec::new()
            }
        });
    }
    if let (Some(table), None) = (&parts.table, &parts.local) {
        let (table, all) = (Arc::clone(table), parts.log().all_partitions());
        admin = admin.with_check(move || ownership::missing(&table, &all));
    }
    let served = barrage_query::serve(listener, admin.router(), Admin::limits(), until);
    tokio::spawn(async { served.await.context("metrics are no longer answered") })
}
