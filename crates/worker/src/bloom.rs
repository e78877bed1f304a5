//! A blocked Bloom filter that grows: one cache line a question.

const BLOCK_WORDS: usize = 8;
const FIRST_BLOCKS: usize = 16;
/// Most blocks of a filter that is made for an expected number: 16 MiB.
const EXPECTED_BLOCKS_MAX: usize = 1 << 18;
/// 512 bits a block at 20 bits an identity: about one wrong *maybe* in two thousand.
const IDENTITIES_PER_BLOCK: usize = 25;
const BITS: u32 = 7;

#[derive(Debug)]
struct Bloom {
    words: Vec<u64>,
    free: usize,
}

impl Bloom {
    fn new(blocks: usize) -> Self {
        Self { words: vec![0; blocks * BLOCK_WORDS], free: blocks * IDENTITIES_PER_BLOCK }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
    fn block(&self, id: u128) -> usize {
        // The low 64 bits choose the block; blocks are a power of two.
        let blocks = self.words.len() / BLOCK_WORDS;
        (id as u64 as usize & (blocks - 1)) * BLOCK_WORDS
    }

    #[allow(clippy::cast_possible_truncation, reason = "nine bits fit anything")]
    fn bits(id: u128) -> impl Iterator<Item = (usize, u64)> {
        // Seven numbers of nine bits out of the high half, which is independent of the low one.
        let high = (id >> 64) as u64;
        (0..BITS).map(move |i| {
            let nine = (high >> (9 * i)) & 511;
            ((nine >> 6) as usize, 1_u64 << (nine & 63))
        })
    }

    fn insert(&mut self, id: u128) {
        let block = self.block(id);
        for (word, bit) in Self::bits(id) {
            self.words[block + word] |= bit;
        }
        self.free = self.free.saturating_sub(1);
    }

    fn contains(&self, id: u128) -> bool {
        let block = self.block(id);
        Self::bits(id).all(|(word, bit)| self.words[block + word] & bit != 0)
    }
}

/// Filters of growing size; the last one takes what is inserted.
#[derive(Debug, Default)]
pub(crate) struct BloomChain {
    blooms: Vec<Bloom>,
    len: usize,
}

impl BloomChain {
    /// An empty one that is a single filter as long as no more than so many are inserted: every further one is a cache
    /// line more to look at.
    pub(crate) fn expecting(len: usize) -> Self {
        let blocks = len.div_ceil(IDENTITIES_PER_BLOCK).clamp(FIRST_BLOCKS, EXPECTED_BLOCKS_MAX).next_power_of_two();
        Self { blooms: vec![Bloom::new(blocks)], len: 0 }
    }

    /// How many were inserted.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Remembers an identity, which is a uniform hash.
    pub(crate) fn insert(&mut self, id: u128) {
        if self.blooms.last().is_none_or(|last| last.free == 0) {
            let blocks = self.blooms.last().map_or(FIRST_BLOCKS, |last| last.words.len() / BLOCK_WORDS * 4);
            self.blooms.push(Bloom::new(blocks));
        }
        if let Some(last) = self.blooms.last_mut() {
            last.insert(id);
            self.len += 1;
        }
    }

    /// `false` means: certainly not inserted.
    pub(crate) fn contains(&self, id: u128) -> bool {
        self.blooms.iter().any(|bloom| bloom.contains(id))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.blooms.iter().map(|bloom| bloom.words.len() * 8).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_128;

    #[test]
    fn what_was_inserted_is_found_and_little_else() {
        let id = |n: u32| xxh3_128(&n.to_le_bytes());
        for (mut chain, filters) in [
            (BloomChain::default(), 5),
            (BloomChain::expecting(0), 5),
            (BloomChain::expecting(30_000), 2),
            (BloomChain::expecting(100_000), 1),
        ] {
            for n in 0..100_000 {
                chain.insert(id(n));
            }
            assert_eq!((chain.len(), chain.blooms.len()), (100_000, filters));
            assert!((0..100_000).all(|n| chain.contains(id(n))));
            let wrong = (100_000..300_000).filter(|&n| chain.contains(id(n))).count();
            assert!(wrong < 1_000, "{wrong} of 200,000 are taken for known");
            assert!(chain.bytes() < 100_000 * 16, "{} bytes", chain.bytes());
        }
        let most = BloomChain::expecting(usize::MAX).bytes();
        assert_eq!(most, EXPECTED_BLOCKS_MAX * BLOCK_WORDS * 8);
    }
}
