//! What all stores of a process share: one budget for block cache and write buffers.

use std::fmt;

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Options, WriteBufferManager};

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
const WRITE_BUFFER_BYTES: usize = 16 << 20;

impl StateEnv {
    /// Makes the shared cache and buffers.
    #[must_use]
    pub fn new(options: StateOptions) -> Self {
        let cache = Cache::new_lru_cache(options.memory_bytes);
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
        table.set_format_version(6);
        // Nearly every first event of a viewer asks for a row that is not there.
        table.set_bloom_filter(12.0, false);
        table.set_whole_key_filtering(true);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);

        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_max_write_buffer_number(3);
        options.set_memtable_prefix_bloom_ratio(0.02);
        options.set_memtable_whole_key_filtering(true);
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
