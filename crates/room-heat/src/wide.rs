//! Sums of 256 bits: wide enough for the points of 128 half-lives, of which each counts twice what the one before does.

use crate::proto::Wide;

/// A number of 256 bits. In the order of its fields numbers are in theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Sum {
    high: u128,
    low: u128,
}

const BITS: u32 = u128::BITS;

impl From<u128> for Sum {
    fn from(low: u128) -> Self {
        Self { high: 0, low }
    }
}

impl Sum {
    const MAX: Self = Self { high: u128::MAX, low: u128::MAX };

    /// Times 2 to the power of `by`; what is above 2^256 is cut off.
    pub(crate) fn up(self, by: u32) -> Self {
        match by.checked_sub(BITS) {
            Some(by) => Self { high: self.low.checked_shl(by).unwrap_or(0), low: 0 },
            None if by == 0 => self,
            None => Self { high: self.high << by | self.low >> (BITS - by), low: self.low << by },
        }
    }

    /// Divided by 2 to the power of `by`, rounded down.
    pub(crate) fn down(self, by: u32) -> Self {
        match by.checked_sub(BITS) {
            Some(by) => Self { high: 0, low: self.high.checked_shr(by).unwrap_or(0) },
            None if by == 0 => self,
            None => Self { high: self.high >> by, low: self.low >> by | self.high << (BITS - by) },
        }
    }

    pub(crate) fn saturating_add(self, more: Self) -> Self {
        let (low, carried) = self.low.overflowing_add(more.low);
        let high = self.high.checked_add(more.high).and_then(|high| high.checked_add(carried.into()));
        high.map_or(Self::MAX, |high| Self { high, low })
    }

    pub(crate) fn saturating_sub(self, less: Self) -> Self {
        let (low, borrowed) = self.low.overflowing_sub(less.low);
        let high = self.high.checked_sub(less.high).and_then(|high| high.checked_sub(borrowed.into()));
        high.map_or_else(Self::default, |high| Self { high, low })
    }

    /// The number, as far as it fits.
    pub(crate) fn narrow(self) -> u128 {
        if self.high == 0 { self.low } else { u128::MAX }
    }
}

impl From<Option<Wide>> for Sum {
    fn from(row: Option<Wide>) -> Self {
        let row = row.unwrap_or_default();
        Self { high: wide(row.c, row.d), low: wide(row.a, row.b) }
    }
}

impl From<Sum> for Option<Wide> {
    fn from(sum: Sum) -> Self {
        let ((a, b), (c, d)) = (halves(sum.low), halves(sum.high));
        (sum != Sum::default()).then_some(Wide { a, b, c, d })
    }
}

/// A number of two halves, the lower one first.
pub(crate) fn wide(low: u64, high: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

/// The halves of a number, the lower one first.
pub(crate) fn halves(wide: u128) -> (u64, u64) {
    let low = u64::try_from(wide & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    (low, u64::try_from(wide >> 64).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bits, the lowest first: slow, and plain to see.
    type Bits = [bool; 256];

    fn bits(sum: Sum) -> Bits {
        std::array::from_fn(|n| {
            let (half, n) = if n < 128 { (sum.low, n) } else { (sum.high, n - 128) };
            half >> n & 1 == 1
        })
    }

    /// The sum of two numbers and what does not fit.
    fn added(a: Bits, b: Bits) -> (Bits, bool) {
        let (mut sum, mut carried) = ([false; 256], false);
        for n in 0..256 {
            let ones = u8::from(a[n]) + u8::from(b[n]) + u8::from(carried);
            (sum[n], carried) = (ones & 1 == 1, ones > 1);
        }
        (sum, carried)
    }

    fn sums() -> impl Strategy<Value = Sum> {
        let part = || prop_oneof![2 => any::<u128>(), 1 => Just(0), 1 => Just(u128::MAX), 1 => 0_u128..4];
        (part(), part()).prop_map(|(high, low)| Sum { high, low })
    }

    proptest! {
        #[test]
        fn it_reckons_as_bits_do(a in sums(), b in sums(), by in 0_u32..300) {
            let (up, down) = (bits(a.up(by)), bits(a.down(by)));
            for n in 0..256 {
                let other = usize::try_from(by).expect("small");
                prop_assert_eq!(up[n], n >= other && bits(a)[n - other], "bit {} of {:?} up {}", n, a, by);
                prop_assert_eq!(down[n], n + other < 256 && bits(a)[n + other], "bit {} of {:?} down {}", n, a, by);
            }
            let (sum, over) = added(bits(a), bits(b));
            prop_assert_eq!(bits(a.saturating_add(b)), if over { [true; 256] } else { sum });
            let rest = a.saturating_sub(b);
            if a >= b {
                prop_assert_eq!(added(bits(rest), bits(b)), (bits(a), false));
            } else {
                prop_assert_eq!(rest, Sum::default());
            }
            prop_assert_eq!(a.cmp(&b), bits(a).iter().rev().cmp(bits(b).iter().rev()));
            prop_assert_eq!(a.narrow(), if a.high == 0 { a.low } else { u128::MAX });
            prop_assert_eq!(Sum::from(Option::<Wide>::from(a)), a);
        }
    }
}
