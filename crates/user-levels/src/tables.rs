//! The tables. Ids 72 to 79 are this statistic's.

use barrage_projection::Table;

use crate::proto;

/// Accounts: app, account.
#[derive(Debug)]
pub struct Accounts;
impl Table for Accounts {
    const ID: u8 = 72;
    const NAME: &'static str = "user_levels.accounts";
    type Key<'a> = (u32, &'a str);
    type Value = proto::Account;
}

/// Since when the rules in force count; one row.
#[derive(Debug)]
pub struct RulesSince;
impl Table for RulesSince {
    const ID: u8 = 73;
    const NAME: &'static str = "user_levels.rules_since";
    type Key<'a> = ();
    type Value = proto::RulesSince;
}
