//! What was found, by kind: how many, and the first ones in words.

use crate::driver::{CheckReport, Finding};
use crate::error::Error;
use crate::findings::Findings;
use crate::storage::Storage;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A table is not where it should be.
    Table,
    /// An entry of a table says something impossible.
    Entry,
    /// Something stands where a table is.
    Overlap,
    /// A cluster has more users than its refcount says: it may be given away.
    Low,
    /// An entry says that its cluster is shared, or is not, against the refcount.
    Copied,
    /// A cluster has fewer users than its refcount says: space is lost, and nothing else.
    Leak,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Table, "tables that cannot be followed"),
    (Kind::Entry, "impossible entries"),
    (Kind::Overlap, "clusters with a table and something else"),
    (Kind::Low, "clusters with a refcount that is too low"),
    (
        Kind::Copied,
        "entries whose COPIED flag contradicts the refcount",
    ),
    (Kind::Leak, "leaked clusters"),
];

/// The findings of one check.
#[derive(Debug, Default)]
pub struct Tally([Findings; KINDS.len()]);

impl Tally {
    /// Notes `times` findings of a kind at file offset `at`; `why` is asked for the first ones only.
    pub fn note(&mut self, kind: Kind, times: u64, at: u64, why: impl FnOnce() -> Error) {
        self.0[kind as usize].add_at(at, times, why);
    }

    /// How many there are of a kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.0[kind as usize].count()
    }

    /// What `qemu-img check` calls corruptions: all but leaks, and overlaps, which it does not look for.
    pub fn corruptions(&self) -> u64 {
        [Kind::Table, Kind::Entry, Kind::Low, Kind::Copied]
            .iter()
            .fold(0, |sum, kind| self.count(*kind).saturating_add(sum))
    }

    /// The findings, for people. When the image says itself that its refcounts are not up to date (`dirty`), what they
    /// say is no damage.
    pub fn report(self, storage: &dyn Storage, cluster_size: u64, dirty: bool) -> CheckReport {
        let mut report = CheckReport {
            counts: vec![
                ("leaks", self.count(Kind::Leak)),
                ("corruptions", self.corruptions()),
                ("overlaps", self.count(Kind::Overlap)),
            ],
            ..CheckReport::default()
        };
        for ((kind, name), group) in KINDS.iter().zip(&self.0) {
            if group.count() == 0 {
                continue;
            }
            let of_refcounts = matches!(kind, Kind::Low | Kind::Copied | Kind::Leak);
            let finding = |message: String| Finding {
                is_damage: *kind != Kind::Leak && !(dirty && of_refcounts),
                is_repairable: matches!(kind, Kind::Copied | Kind::Leak),
                message: format!("{}: {message}", storage.path().display()),
            };
            match kind {
                Kind::Leak => {
                    let message = leaks(group.count(), cluster_size, group.places());
                    report.findings.push(finding(message));
                }
                _ => report.findings.extend(group.told(name, finding)),
            }
            report.places.push((*name, group.places().to_vec()));
        }
        report
    }
}

fn leaks(count: u64, cluster_size: u64, offsets: &[u64]) -> String {
    let bytes = count.saturating_mul(cluster_size);
    let first: Vec<String> = offsets.iter().map(u64::to_string).collect();
    let (clusters, offsets) = match count {
        1 => ("cluster is", "at offset"),
        _ if count > offsets.len() as u64 => ("clusters are", "the first at offsets"),
        _ => ("clusters are", "at offsets"),
    };
    format!(
        "{count} {clusters} counted more often than used ({offsets} {}): up to {bytes} bytes are lost to the file, none of \
         the disk; --repair puts it right",
        first.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::TOLD;
    use crate::storage::MemoryStorage;

    fn tally(kind: Kind, count: u64) -> Tally {
        let mut tally = Tally::default();
        for n in 0..count {
            tally.note(kind, 2, n * 512, || {
                Error::malformed("L2 entry", "is wrong")
            });
        }
        tally
    }

    fn report(tally: Tally, dirty: bool) -> CheckReport {
        tally.report(&MemoryStorage::new(Vec::new()), 512, dirty)
    }

    #[test]
    fn of_many_findings_only_the_number_is_told() {
        let report = report(tally(Kind::Entry, 100), true);
        assert_eq!(report.findings.len(), TOLD + 1);
        assert!(report.findings.iter().all(|f| f.is_damage));
        let last = &report.findings[TOLD].message;
        assert!(last.ends_with("180 more impossible entries"), "{last}");
        assert_eq!(report.counts[1], ("corruptions", 200));
        assert_eq!(report.places[0].1.len(), TOLD);
    }

    #[test]
    fn leaks_are_no_damage_and_told_at_once() {
        let report = report(tally(Kind::Leak, 100), false);
        assert_eq!(report.findings.len(), 1);
        assert!(!report.findings[0].is_damage && report.findings[0].is_repairable);
        assert!(report.findings[0].message.contains("200 clusters"));
    }

    #[test]
    fn refcounts_of_a_dirty_image_are_no_damage() {
        for kind in [Kind::Low, Kind::Copied] {
            assert!(report(tally(kind, 1), false).findings[0].is_damage);
            assert!(!report(tally(kind, 1), true).findings[0].is_damage);
        }
    }
}
