//! The tables. Ids 24 to 31 are this statistic's.

use barrage_projection::Table;

use crate::proto;

/// Accounts: app, account.
#[derive(Debug)]
pub struct Accounts;
impl Table for Accounts {
    const ID: u8 = 24;
    const NAME: &'static str = "online_duration.accounts";
    type Key<'a> = (u32, &'a str);
    type Value = proto::Account;
}
