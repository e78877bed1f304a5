//! How much may be in flight: a count of requests and of their bodies' bytes, above which callers are turned away
//! before their body is read.

use prometheus_client::metrics::gauge::Gauge;

/// The counters, which are also the metrics, and their limits.
#[derive(Debug)]
pub(crate) struct Admission {
    requests: Gauge,
    bytes: Gauge,
    requests_max: usize,
    bytes_max: usize,
}

/// Leave to handle one request; gives everything back when dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    admission: &'a Admission,
    bytes: usize,
}

impl Admission {
    pub(crate) const fn new(requests: Gauge, requests_max: usize, bytes: Gauge, bytes_max: usize) -> Self {
        Self { requests, bytes, requests_max, bytes_max }
    }

    /// Lets one request in, if there is room for it and for a body of so many bytes.
    pub(crate) fn enter(&self, bytes: usize) -> Option<Permit<'_>> {
        take(&self.requests, 1, self.requests_max)?;
        let mut permit = Permit { admission: self, bytes: 0 };
        permit.grow(bytes)?;
        Some(permit)
    }
}

impl Permit<'_> {
    /// Room for so many bytes more, for bodies of unknown length.
    pub(crate) fn grow(&mut self, bytes: usize) -> Option<()> {
        take(&self.admission.bytes, bytes, self.admission.bytes_max)?;
        self.bytes += bytes;
        Some(())
    }

    /// Bytes this request has room for.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.admission.bytes.dec_by(signed(self.bytes));
        self.admission.requests.dec();
    }
}

/// Adds and takes back when it was too much: two callers may both be turned away at the brink, never both let in.
fn take(counter: &Gauge, amount: usize, max: usize) -> Option<()> {
    let before = counter.inc_by(signed(amount));
    if before.saturating_add(signed(amount)) > signed(max) {
        counter.dec_by(signed(amount));
        return None;
    }
    Some(())
}

fn signed(amount: usize) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};

    #[derive(Debug, Clone)]
    enum Step {
        Enter(usize),
        Grow(usize, usize),
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..60_usize).prop_map(Step::Enter),
            (any::<usize>(), 0..60_usize).prop_map(|(which, bytes)| Step::Grow(which, bytes)),
            any::<usize>().prop_map(Step::Leave),
        ]
    }

    proptest! {
        #[test]
        fn what_is_let_in_stays_inside_the_limits(steps in proptest::collection::vec(step(), 0..200)) {
            let (requests, bytes) = (Gauge::default(), Gauge::default());
            let admission = Admission::new(requests.clone(), 4, bytes.clone(), 100);
            let mut permits: Vec<(Permit<'_>, usize)> = Vec::new();
            for step in steps {
                let used: usize = permits.iter().map(|(_, bytes)| bytes).sum();
                match step {
                    Step::Enter(bytes) => {
                        let permit = admission.enter(bytes);
                        prop_assert_eq!(permit.is_some(), permits.len() < 4 && used + bytes <= 100);
                        permits.extend(permit.map(|permit| (permit, bytes)));
                    }
                    Step::Grow(which, bytes) if !permits.is_empty() => {
                        let which = which % permits.len();
                        let (permit, own) = &mut permits[which];
                        let grown = permit.grow(bytes).is_some();
                        prop_assert_eq!(grown, used + bytes <= 100);
                        *own += if grown { bytes } else { 0 };
                        prop_assert_eq!(permit.bytes(), *own);
                    }
                    Step::Leave(which) if !permits.is_empty() => drop(permits.swap_remove(which % permits.len())),
                    _ => {}
                }
            }
            drop(permits);
            prop_assert_eq!((requests.get(), bytes.get()), (0, 0));
        }
    }
}
