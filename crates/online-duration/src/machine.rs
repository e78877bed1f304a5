//! What follows from things that happened, in order of time.

use barrage_event::rules::DurationRules;

use crate::Online;
use crate::proto::Account;

pub(crate) fn read(account: &Account, _at_ms: i64, _rules: &DurationRules) -> Online {
    let Some(state) = &account.folded else { return Online::default() };
    Online { ms: state.online_ms, ..Online::default() }
}
