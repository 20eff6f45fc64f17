//! Notices structures that stand on top of each other: two table entries with one unit, data inside a table.

use std::collections::HashMap;
use std::ops::Range;

use crate::budget::Budget;

/// Units that one page of a [`UnitSet`] has bits for.
const PAGE_UNITS: u64 = 64 * PAGE_WORDS as u64;
const PAGE_WORDS: usize = 64;
/// Bytes that a page takes: its words, and its place in the map.
const PAGE_BYTES: u64 = 600;

/// What [`UnitSet::insert`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It was not there before.
    New,
    /// It was there before.
    Known,
    /// There is no room for it: nobody knows.
    Full,
}

/// A set of unit numbers (clusters, grains) that takes little memory where they lie together, and never more than a
/// budget: what does not fit is forgotten.
#[derive(Debug)]
pub struct UnitSet {
    budget: Budget,
    pages: HashMap<u64, Box<[u64; PAGE_WORDS]>>,
}

impl UnitSet {
    /// An empty set that takes its memory from `budget`.
    pub fn new(budget: &Budget) -> UnitSet {
        UnitSet {
            budget: budget.clone(),
            pages: HashMap::new(),
        }
    }

    /// Adds `unit`.
    pub fn insert(&mut self, unit: u64) -> Inserted {
        let (page, word, bit) = place(unit);
        if !self.pages.contains_key(&page) && !self.budget.take(PAGE_BYTES) {
            return Inserted::Full;
        }
        let words = self
            .pages
            .entry(page)
            .or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let known = words[word] & bit != 0;
        words[word] |= bit;
        if known {
            Inserted::Known
        } else {
            Inserted::New
        }
    }

    /// Whether `unit` is in it.
    pub fn contains(&self, unit: u64) -> bool {
        let (page, word, bit) = place(unit);
        self.pages
            .get(&page)
            .is_some_and(|words| words[word] & bit != 0)
    }
}

/// Page, word in the page (below [`PAGE_WORDS`]) and bit in the word of a unit.
fn place(unit: u64) -> (u64, usize, u64) {
    let within = unit % PAGE_UNITS;
    (
        unit / PAGE_UNITS,
        (within / 64) as usize,
        1 << (within % 64),
    )
}

/// The parts of the file that hold neither data nor the tables that say where data stands.
#[derive(Debug, Default)]
pub struct Areas(Vec<(&'static str, Range<u64>)>);

impl Areas {
    /// Adds the `len` bytes at `offset` as the place of `name`; answers what stands there already.
    pub fn add(&mut self, name: &'static str, offset: u64, len: u64) -> Option<&'static str> {
        let known = self.hit(offset, len);
        self.0.push((name, offset..offset.saturating_add(len)));
        known
    }

    /// What stands in any of the `len` bytes at `offset`.
    pub fn hit(&self, offset: u64, len: u64) -> Option<&'static str> {
        let end = offset.saturating_add(len);
        self.0
            .iter()
            .find(|(_, area)| offset < area.end && area.start < end)
            .map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_known_from_its_second_time_on() {
        let mut set = UnitSet::new(&Budget::default());
        for unit in [0, 63, 64, 32767, 32768, u64::MAX] {
            assert!(!set.contains(unit));
            assert_eq!(set.insert(unit), Inserted::New);
            assert_eq!(set.insert(unit), Inserted::Known);
            assert!(set.contains(unit));
        }
        assert!(!set.contains(1));
    }

    #[test]
    fn a_scattered_set_stays_small() {
        let budget = Budget::new(10 * PAGE_BYTES);
        let mut sets = [UnitSet::new(&budget), UnitSet::new(&budget)];
        for page in 0..6 {
            for set in &mut sets {
                set.insert(page * PAGE_UNITS);
            }
        }
        assert_eq!(sets[0].pages.len() + sets[1].pages.len(), 10);
        assert_eq!(sets[0].insert(0), Inserted::Known);
        assert_eq!(sets[0].insert(99 * PAGE_UNITS), Inserted::Full);
    }

    #[test]
    fn areas_that_only_touch_do_not_overlap() {
        let mut areas = Areas::default();
        assert_eq!(areas.add("header", 0, 512), None);
        assert_eq!(areas.add("L1 table", 512, 512), None);
        assert_eq!(areas.hit(1024, u64::MAX), None);
        assert_eq!(areas.hit(511, 1), Some("header"));
        assert_eq!(areas.hit(700, 0), Some("L1 table"));
        assert_eq!(areas.add("refcount table", 512, 8), Some("L1 table"));
        assert_eq!(areas.hit(u64::MAX, u64::MAX), None);
    }
}
