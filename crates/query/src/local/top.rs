//! The best places of a ranking.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use barrage_projection::RankQuery;

use crate::question::Place;

/// The best places seen so far, in memory for one page however many rooms there are.
pub(super) struct Top<'a> {
    keep: usize,
    after: Option<&'a Place>,
    before: Option<&'a Place>,
    /// The worst is on top.
    places: BinaryHeap<Place>,
}

impl<'a> Top<'a> {
    pub(super) fn new(keep: usize, after: Option<&'a Place>, before: Option<&'a Place>) -> Self {
        Self { keep, after, before, places: BinaryHeap::new() }
    }

    /// Which places are wanted.
    pub(super) fn query<'q>(&self, sort: &'q str) -> RankQuery<'q>
    where
        'a: 'q,
    {
        RankQuery {
            sort,
            keep: self.keep,
            after: self.after.map(|(Reverse(score), name)| (*score, name.as_str())),
            score_min: self.before.map_or(0, |(Reverse(score), _)| *score),
        }
    }

    pub(super) fn offer(&mut self, place: Place) {
        let outside = self.after.is_some_and(|after| place.cmp(after) != Ordering::Greater)
            || self.before.is_some_and(|before| place.cmp(before) != Ordering::Less);
        if outside {
            return;
        }
        if self.places.len() >= self.keep {
            if self.places.peek().is_none_or(|worst| place >= *worst) {
                return;
            }
            self.places.pop();
        }
        self.places.push(place);
    }

    /// Best first.
    pub(super) fn into_places(self) -> Vec<Place> {
        self.places.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_a_range_are_kept_in_order() {
        let place = |score: u64, room: &str| (Reverse(score), room.to_owned());
        let all = [place(5, "a"), place(3, "b"), place(3, "c"), place(9, "d"), place(1, "e")];
        let ranked = |keep: usize, after: Option<&Place>, before: Option<&Place>| {
            let mut top = Top::new(keep, after, before);
            all.iter().for_each(|place| top.offer(place.clone()));
            top.into_places().into_iter().map(|(_, room)| room).collect::<String>()
        };
        assert_eq!(ranked(9, None, None), "dabce");
        assert_eq!(ranked(2, None, None), "da");
        assert_eq!(ranked(2, Some(&all[0]), None), "bc");
        assert_eq!(ranked(9, None, Some(&all[2])), "dab");
        assert_eq!(ranked(0, None, None), "");
    }
}
