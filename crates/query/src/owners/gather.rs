//! Reads over several partitions.

use barrage_event::Partition;
use futures_util::StreamExt as _;

use super::{Owner, Owners};
use crate::error::ApiError;
use crate::local::Local;
use crate::question::{Ask, Failure, Found, Question};

/// Partitions of other processes that one read asks at once.
const FAN_OUT: usize = 16;

/// A read that puts together what several partitions answer. Answers come in any order.
pub(crate) trait Gather: Send + 'static {
    /// Whether a partition that moves is waited for; one that is not is asked once.
    const FOLLOWS: bool;

    /// What to ask this partition next, given what others answered already.
    fn ask(&self, partition: Partition) -> Ask;

    /// Takes a partition's answer.
    fn take(&mut self, partition: Partition, answered: Result<Found, Failure>) -> Result<(), ApiError>;
}

impl Owners {
    /// Asks every one of these partitions: those of this process one after the other, then all others at once.
    pub(crate) async fn gather<G: Gather>(
        &self,
        partitions: Vec<Partition>,
        at_ms: i64,
        mut gather: G,
    ) -> Result<G, ApiError> {
        let (here, mut elsewhere): (Vec<_>, Vec<_>) =
            partitions.into_iter().partition(|partition| matches!(self.owner(*partition), Owner::Here(_)));
        match &self.local {
            Some(local) if !here.is_empty() => {
                let ask = gather.ask(here[0]);
                let work = local.work(&ask, move |local| one_by_one(local, here, at_ms, gather));
                let (back, gone) = work.await.map_err(|failure| failure.error)??;
                gather = back;
                elsewhere.extend(gone);
            }
            _ => elsewhere.extend(here),
        }
        if elsewhere.is_empty() {
            return Ok(gather);
        }
        let asks: Vec<_> = elsewhere.into_iter().map(|partition| (partition, gather.ask(partition))).collect();
        let asked = futures_util::stream::iter(asks).map(|(partition, ask)| {
            let question = Question { partition, at_ms, ask };
            // Boxed: sixteen of them would make this future large.
            Box::pin(async move {
                (partition, if G::FOLLOWS { self.ask(question).await } else { self.ask_once(question).await })
            })
        });
        let mut answers = asked.buffer_unordered(FAN_OUT);
        while let Some((partition, answered)) = answers.next().await {
            gather.take(partition, answered)?;
        }
        Ok(gather)
    }
}

/// Asks partitions of this process; those that have just gone are given back.
fn one_by_one<G: Gather>(
    local: &Local,
    here: Vec<Partition>,
    at_ms: i64,
    mut gather: G,
) -> Result<(G, Vec<Partition>), ApiError> {
    let mut gone = Vec::new();
    for partition in here {
        match local.answer_now(&Question { partition, at_ms, ask: gather.ask(partition) }) {
            Err(failure) if G::FOLLOWS && failure.passes() => gone.push(partition),
            answered => gather.take(partition, answered)?,
        }
    }
    Ok((gather, gone))
}
