//! Powers of two and logarithms in integers, the same on every machine.

/// 2^(1/2), 2^(1/4), ... 2^(2^-16), with 62 bits behind the point: each is the square root of the one before.
const ROOTS: [u64; 16] = {
    let mut roots = [0; 16];
    let mut root: u128 = 2 << 62;
    let mut k = 0;
    while k < roots.len() {
        root = (root << 62).isqrt();
        roots[k] = low_half(root);
        k += 1;
    }
    roots
};

/// 2^(i/256), with 62 bits behind the point.
const COARSE: [u64; 256] = powers(0);
/// 2^(i/65536), likewise.
const FINE: [u64; 256] = powers(8);

/// ln 2, with 32 bits behind the point.
const LN_2: u128 = 2_977_044_472;

#[expect(clippy::cast_possible_truncation, reason = "the upper half is empty wherever it is called")]
const fn low_half(wide: u128) -> u64 {
    wide as u64
}

/// 2 to the power of each byte, whose highest bit stands for the root `first`.
const fn powers(first: usize) -> [u64; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < table.len() {
        let mut power: u128 = 1 << 62;
        let mut bit = 0;
        while bit < 8 {
            if i & (0x80 >> bit) != 0 {
                power = (power * ROOTS[first + bit] as u128) >> 62;
            }
            bit += 1;
        }
        table[i] = low_half(power);
        i += 1;
    }
    table
}

/// 2 to the power of `fraction` / 2^32, with 32 bits behind the point: 2^32 to below 2^33. Off by less than 2^-31 of
/// its value, and never falling where `fraction` rises.
pub(crate) fn power_of_two(fraction: u32) -> u64 {
    let [coarse, fine, high, low] = fraction.to_be_bytes();
    let power = (u128::from(COARSE[usize::from(coarse)]) * u128::from(FINE[usize::from(fine)])) >> 62;
    // The rest is so small that the curve is a straight line there.
    let rest = u128::from(u16::from_be_bytes([high, low]));
    let power = power + ((((power * LN_2) >> 32) * rest) >> 32);
    low_half((power + (1 << 29)) >> 30)
}

/// The logarithm to base 2, with 32 bits behind the point, cut off; `None` of 0.
///
/// One digit after the other: squaring doubles the logarithm.
pub(crate) fn log_two(value: u128) -> Option<u64> {
    let whole = value.checked_ilog2()?;
    let mut log = u64::from(whole);
    // The value moved up until its highest bit is the highest of 64.
    let mut mantissa = low_half(value << (127 - whole) >> 64);
    for _ in 0..32 {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let digit = square >> 127;
        log = log << 1 | low_half(digit);
        mantissa = low_half(if digit == 1 { square >> 64 } else { square >> 63 });
    }
    Some(log)
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss, reason = "floats are the oracle")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: f64 = 4_294_967_296.0;

    #[test]
    fn whole_and_half_powers_are_known() {
        assert_eq!(power_of_two(0), 1 << 32);
        assert_eq!(power_of_two(1 << 31), 6_074_001_000, "the square root of 2");
        assert!(power_of_two(u32::MAX) < 1 << 33);
        assert_eq!(log_two(0), None);
        for n in 0..128 {
            assert_eq!(log_two(1 << n), Some(n << 32), "2^{n}");
        }
        assert_eq!(log_two(u128::MAX), Some((128 << 32) - 1));
    }

    proptest! {
        #[test]
        fn powers_are_those_of_floats_and_never_fall(fraction: u32, next in 1_u32..100_000) {
            let wanted = (f64::from(fraction) / ONE).exp2() * ONE;
            let found = power_of_two(fraction);
            prop_assert!((found as f64 - wanted).abs() <= wanted / ONE * 2.0, "{found} for {wanted}");
            prop_assert!(power_of_two(fraction.saturating_add(next)) >= found);
        }

        #[test]
        fn logarithms_are_those_of_floats_and_never_fall(value in 1_u128.., shift in 0_u32..127, more: u64) {
            let value = (value >> shift).max(1);
            let found = log_two(value).expect("not 0");
            let wanted = (value as f64).log2();
            prop_assert!((found as f64 / ONE - wanted).abs() < 1e-8, "{found} for {wanted}");
            prop_assert!(log_two(value.saturating_add(more.into())).expect("not 0") >= found);
        }
    }
}
