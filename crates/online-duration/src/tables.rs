//! The tables. Ids 24 to 31 are this statistic's.

use barrage_projection::{BucketTable, table};

use crate::proto;

table!(
    /// Accounts: app, account.
    Accounts, 24, "online_duration.accounts", of Account, proto::Account
);

/// Signs of life of accounts that have no row, by minute of their arrival: the login before them may be told late.
#[derive(Debug)]
pub struct EarlySigns;
impl BucketTable for EarlySigns {
    const ID: u8 = 25;
    const NAME: &'static str = "online_duration.early";
    // About 10 MB of memory at most, as names of platforms are short. One that is forgotten early widens a bound, and only when the login is told late.
    const ROWS_MAX: usize = 20_000;
    type Value = proto::EarlySigns;
}
