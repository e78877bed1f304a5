//! The tables. Ids 24 to 31 are this statistic's.

use barrage_projection::table;

use crate::proto;

table!(
    /// Accounts: app, account.
    Accounts, 24, "online_duration.accounts", (u32, &'a str), proto::Account
);
