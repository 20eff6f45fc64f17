//! Findings of one sort: the first ones in words, of the others the number.

use crate::driver::Finding;
use crate::error::Error;

/// Findings of one sort that are told one by one.
pub const TOLD: usize = 20;

/// Findings of one sort. However many there are, they take little memory.
#[derive(Debug, Default)]
pub struct Findings {
    count: u64,
    told: Vec<String>,
    places: Vec<u64>,
}

impl Findings {
    /// Notes a finding.
    pub fn add(&mut self, what: impl ToString) {
        if self.told.len() < TOLD {
            self.told.push(what.to_string());
        }
        self.count = self.count.saturating_add(1);
    }

    /// Notes `times` findings at file offset `at`. What they are is asked for the first ones only.
    pub fn add_at(&mut self, at: u64, times: u64, what: impl FnOnce() -> Error) {
        if self.told.len() < TOLD {
            self.told.push(what().at(at).to_string());
            self.places.push(at);
        }
        self.count = self.count.saturating_add(times);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The file offsets of the first ones.
    pub fn places(&self) -> &[u64] {
        &self.places
    }

    /// What is told of them, each made a finding by `finding`; the others are so many more `of_these`.
    pub fn told(
        &self,
        of_these: &str,
        finding: impl Fn(String) -> Finding,
    ) -> impl Iterator<Item = Finding> {
        let more = self.count.saturating_sub(self.told.len() as u64);
        let more = (more > 0).then(|| format!("{more} more {of_these}"));
        self.told.iter().cloned().chain(more).map(finding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_findings_only_the_number_is_told() {
        let mut findings = Findings::default();
        assert_eq!(findings.told("entries", Finding::damage).count(), 0);
        findings.add("one");
        for n in 1..100 {
            findings.add_at(n * 512, 2, || Error::malformed("entry", "is wrong"));
        }
        assert_eq!((findings.count(), findings.places().len()), (199, TOLD - 1));
        let told: Vec<_> = findings.told("entries", Finding::damage).collect();
        assert_eq!(told.len(), TOLD + 1);
        assert_eq!(told[0].message, "one");
        assert_eq!(told[1].message, "entry at offset 512: is wrong");
        assert_eq!(told[TOLD].message, "179 more entries");
    }
}
