//! The tables. Ids 72 to 79 are this statistic's.

use barrage_projection::table;

use crate::proto;

table!(
    /// Accounts: app, account.
    Accounts, 72, "user_levels.accounts", of Account, proto::Account
);

table!(
    /// Since when the rules in force count; one row.
    RulesSince, 73, "user_levels.rules_since", (), proto::RulesSince
);
