//! What all stores of a process share: one budget for block cache and write buffers.

use std::fmt;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DataBlockIndexType, LruCacheOptions, Options,
    WriteBufferManager,
};

/// Settings of the stores of one process.
#[derive(Debug, Clone, Copy)]
pub struct StateOptions {
    /// Budget of block cache and write buffers together, bytes. Default 192 MiB. The write buffers are charged to the
    /// cache, so this is one number however many partitions there are.
    pub memory_bytes: usize,
    /// Whether commits go through `RocksDB`'s write-ahead log. Default true: it costs a few percent (`make bench` shows
    /// it) and spares a restart the reading of up to `flush_records` records of every partition.
    pub wal: bool,
    /// Background threads for flushes and compactions. Default 2.
    pub background_threads: i32,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self { memory_bytes: 192 << 20, wal: true, background_threads: 2 }
    }
}

/// The shared parts; cheap to clone.
#[derive(Clone)]
pub struct StateEnv {
    options: StateOptions,
    cache: Cache,
    write_buffers: WriteBufferManager,
}

impl fmt::Debug for StateEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateEnv").field("options", &self.options).finish_non_exhaustive()
    }
}

/// One memtable of one partition, bytes; the manager flushes earlier when all together are over their share.
const WRITE_BUFFER_BYTES: usize = 32 << 20;

/// The cache's shards, as a power of two. `RocksDB` would choose 64, of 3 MiB each at the default budget, half of which
/// the write buffers' charge takes; a few threads do not need so many.
const CACHE_SHARD_BITS: i32 = 3;

/// One table file, bytes. Rows are small, so 64 MiB as shipped would hold two million of them, and a partition's changes
/// since its last snapshot would be few but large files.
const TABLE_FILE_BYTES: u64 = 16 << 20;

/// One piece of an index or a filter, bytes. A lookup touches one or two pieces of every file, and what it finds in one
/// of 4 KiB costs less than in one of 16.
const METADATA_BLOCK_BYTES: usize = 4 << 10;

impl StateEnv {
    /// Makes the shared cache and buffers.
    #[must_use]
    pub fn new(options: StateOptions) -> Self {
        let mut cache = LruCacheOptions::default();
        cache.set_capacity(options.memory_bytes);
        cache.set_num_shard_bits(CACHE_SHARD_BITS);
        let cache = Cache::new_lru_cache_opts(&cache);
        let write_buffers =
            WriteBufferManager::new_write_buffer_manager_with_cache(options.memory_bytes / 2, false, cache.clone());
        Self { options, cache, write_buffers }
    }

    /// The settings.
    #[must_use]
    pub fn options(&self) -> &StateOptions {
        &self.options
    }

    /// Memory in use by cache and write buffers, bytes.
    #[must_use]
    pub fn memory_in_use(&self) -> usize {
        self.cache.get_usage()
    }

    pub(crate) fn db_options(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(8 << 10);
        // Rows are looked up one by one, and a hash finds one in its block with fewer comparisons than a binary search.
        table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
        table.set_format_version(6);
        // Nearly every first event of a viewer asks for a row that is not there.
        table.set_bloom_filter(12.0, false);
        table.set_whole_key_filtering(true);
        table.set_cache_index_and_filter_blocks(true);
        // In pieces: the filter of a whole file of small rows has megabytes. Where one does not fit into a shard of the
        // cache, every single lookup reads and checks all of it again; measured, that is 1,400 records/s instead of
        // over 100,000.
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_metadata_block_size(METADATA_BLOCK_BYTES);
        table.set_pin_top_level_index_and_filter(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);

        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_max_write_buffer_number(3);
        options.set_memtable_prefix_bloom_ratio(0.02);
        options.set_memtable_whole_key_filtering(true);
        options.set_target_file_size_base(TABLE_FILE_BYTES);
        options.set_arena_block_size(256 << 10);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_max_background_jobs(self.options.background_threads);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_max_open_files(256);
        options.set_max_total_wal_size(64 << 20);
        options.set_keep_log_file_num(2);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        // One thread writes a store.
        options.set_allow_concurrent_memtable_write(false);
        options
    }
}
