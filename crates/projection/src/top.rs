//! Pages of a room's viewers, by a number that each of them has.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The best viewers of one page: highest number first, equal ones by account.
///
/// A page's token is the number and account of its last viewer, so that the next page is right whatever came in between.
#[derive(Debug)]
pub struct TopViewers<'t> {
    limit: usize,
    after: Option<(Reverse<u64>, &'t str)>,
    /// The worst of the best on top; one more than asked for tells whether there is a next page.
    best: BinaryHeap<(Reverse<u64>, String)>,
}

impl<'t> TopViewers<'t> {
    /// At most `limit` viewers behind the place that the token `after` names, from the first without one; `None` when
    /// `after` is no token.
    #[must_use]
    pub fn new(limit: usize, after: Option<&'t str>) -> Option<Self> {
        let after = match after {
            None => None,
            Some(token) => {
                let (score, account) = token.split_once('.')?;
                Some((Reverse(score.parse().ok()?), account))
            }
        };
        Some(Self { limit, after, best: BinaryHeap::new() })
    }

    /// Looks at a viewer.
    pub fn offer(&mut self, score: u64, account: &str) {
        let rank = (Reverse(score), account);
        if self.after.is_some_and(|after| rank <= after) {
            return;
        }
        let worst = self.best.peek().map(|(score, account)| (*score, account.as_str()));
        if self.best.len() <= self.limit || worst.is_some_and(|worst| rank < worst) {
            self.best.push((rank.0, account.to_owned()));
            if self.best.len() > self.limit + 1 {
                self.best.pop();
            }
        }
    }

    /// The accounts of the page, best first, and the token of the next page when there is one.
    #[must_use]
    pub fn finish(self) -> (Vec<String>, Option<String>) {
        let mut ranked = self.best.into_sorted_vec();
        let more = ranked.len() > self.limit;
        ranked.truncate(self.limit);
        let next = ranked.last().filter(|_| more).map(|(Reverse(score), account)| format!("{score}.{account}"));
        (ranked.into_iter().map(|(_, account)| account).collect(), next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_are_the_sorted_list_in_pieces(scores in prop::collection::vec(0_u64..5, 0..30), limit in 1_usize..7) {
            let viewers: Vec<(u64, String)> =
                scores.iter().enumerate().map(|(n, score)| (*score, format!("a.{n}"))).collect();
            let mut sorted: Vec<_> = viewers.iter().map(|(score, account)| (Reverse(*score), account.clone())).collect();
            sorted.sort();
            let (mut paged, mut after) = (Vec::new(), None);
            loop {
                let mut top = TopViewers::new(limit, after.as_deref()).expect("our own token");
                for (score, account) in &viewers {
                    top.offer(*score, account);
                }
                let (accounts, next) = top.finish();
                prop_assert!(accounts.len() == limit || next.is_none());
                paged.extend(accounts);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(paged, sorted.into_iter().map(|(_, account)| account).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_no_token_is_told() {
        for token in ["", "7", "x.a", "-1.a", ".a"] {
            assert!(TopViewers::new(1, Some(token)).is_none(), "{token}");
        }
    }
}
