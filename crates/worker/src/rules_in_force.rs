//! The rules that a partition goes by: those in force at this place of its log, and the versions before them.
//!
//! A record carries the version that ingest classified it by, and with several ingests it may stand behind a newer one.
//! Caps are taken from the stamped version, so that a message counts the same in its room and with its sender, whose
//! partitions saw the new version at different places.

use barrage_event::rules::RuleSet;
use barrage_projection::{Backing, Rules as ForEvent, StoreError, Tables};
use barrage_state::proto::RulesRow;
use barrage_state::runtime::Rules as RulesTable;

/// How many versions back a record may be stamped. A new one is active at every ingest within a second, and what was
/// stamped before waits in a spool at most.
const VERSIONS_KEPT: u8 = 16;

/// The row of the version in force; the rows behind it are those of the versions before, by their number.
const CURRENT: u8 = 0;

fn slot(version: u32) -> u8 {
    // The remainder is below the number of versions kept.
    1 + u8::try_from(version % u32::from(VERSIONS_KEPT)).unwrap_or_default()
}

/// The version in force and those before it.
#[derive(Debug, Default)]
pub(crate) struct RulesInForce {
    version: u32,
    current: RuleSet,
    /// Versions and rules, no order.
    before: Vec<(u32, RuleSet)>,
}

impl RulesInForce {
    pub(crate) fn parse(toml: &str) -> Result<RuleSet, String> {
        RuleSet::from_toml(toml).map_err(|e| e.to_string())
    }

    pub(crate) fn load(tables: &mut Tables, backing: &dyn Backing) -> Result<Self, StoreError> {
        let mut rules = Self::default();
        for row in CURRENT..=VERSIONS_KEPT {
            let Some(row_value) = tables.table::<RulesTable>(backing)?.get(&(row,))?.cloned() else { continue };
            let set = Self::parse(&row_value.rules_toml)
                .map_err(|problem| StoreError::Damaged { table: "runtime.rules", problem })?;
            if row == CURRENT {
                (rules.version, rules.current) = (row_value.version, set);
            } else {
                rules.before.push((row_value.version, set));
            }
        }
        Ok(rules)
    }

    /// Takes over a version; the one before stays for the records that are stamped with it.
    pub(crate) fn replace(
        &mut self,
        rules: RuleSet,
        row: RulesRow,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<(), StoreError> {
        let version = row.version;
        let old = tables.table::<RulesTable>(backing)?.get(&(CURRENT,))?.cloned();
        if let Some(old) = old {
            let place = slot(old.version);
            self.before.retain(|(version, _)| slot(*version) != place);
            self.before.push((old.version, std::mem::take(&mut self.current)));
            tables.table::<RulesTable>(backing)?.set(&(place,), old)?;
        }
        tables.table::<RulesTable>(backing)?.set(&(CURRENT,), row)?;
        (self.version, self.current) = (version, rules);
        Ok(())
    }

    pub(crate) fn current(&self) -> &RuleSet {
        &self.current
    }

    /// For a record stamped with this version. One that is not known, older than all that are kept or newer than what
    /// this partition has read, counts by the version in force.
    pub(crate) fn of(&self, stamped: u32) -> ForEvent<'_> {
        let known = self.before.iter().find(|(version, _)| *version == stamped && stamped != self.version);
        ForEvent {
            current: &self.current,
            stamped: known.map_or(&self.current, |(_, rules)| rules),
            version: self.version,
        }
    }
}
