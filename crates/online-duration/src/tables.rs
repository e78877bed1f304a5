//! The tables. Ids 24 to 31 are this statistic's; 25 had the signs of life of accounts that had no row.

use barrage_projection::table;

use crate::proto;

table!(
    /// Accounts: app, account.
    Accounts, 24, "online_duration.accounts", of Account, proto::Account
);
table!(
    /// Signs of life of accounts that are not among those, by the same key: the login before them may be told late.
    EarlySigns, 26, "online_duration.early", of Account, proto::EarlySigns
);
