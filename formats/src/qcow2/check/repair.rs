//! Putting right what can be put right without guessing: refcounts that are too high, and COPIED flags.
//!
//! Refcounts first. Each one is lowered to the number of uses, never below, so that whatever is written by the time of a
//! crash, no cluster in use is free. Then, when those are on stable storage, the flags, each of which follows from a
//! refcount that is right by now. Nothing else is written, and nothing at all when anything else is wrong.

use super::Audit;
use super::chunks::Chunks;
use super::l1::contradicts;
use super::tally::Kind;
use crate::driver::Repaired;
use crate::error::{Error, Result};
use crate::in_place::InPlace;
use crate::qcow2::features::{BITMAPS, CORRUPT, RAW_EXTERNAL};
use crate::qcow2::l1::{COPIED, OFFSET_MASK};
use crate::qcow2::l2::COMPRESSED;

/// Repairs the image that `audit` is about.
///
/// # Errors
/// `Refused` when something else is wrong with it or when it changed; those of the storage.
pub fn repair(mut audit: Audit<'_>, out: &dyn InPlace) -> Result<Repaired> {
    audit.run(None)?;
    let refused = |why| Err(Error::refused("repair", why).in_file(audit.storage.path()));
    let more = [Kind::Table, Kind::Entry, Kind::Overlap, Kind::Low];
    if more.iter().any(|kind| audit.tally.count(*kind) > 0) {
        return refused("more than leaks and COPIED flags is wrong: nothing was written");
    }
    if audit.header.has(CORRUPT) {
        return refused("the image is marked as corrupt: nothing was written");
    }
    if audit.header.autoclear & !(BITMAPS | RAW_EXTERNAL) != 0 {
        return refused(
            "the image has features that are not known here, and clusters that may belong to them: nothing was written",
        );
    }
    if audit.header.snapshots == 0 && audit.header.snapshots_offset != 0 {
        return refused("there is a snapshot table, of no snapshots: nothing was written");
    }
    let leaks = audit.tally.count(Kind::Leak);
    audit.storage.check_unchanged()?;
    if leaks > 0 {
        audit.again();
        audit.run(Some(out))?;
        out.sync()?;
        audit.stored.forget();
    }
    let flags = audit.fix_flags(out)?;
    out.sync()?;
    Ok(Repaired {
        fixed: vec![("leaks", leaks), ("flags", flags)],
    })
}

impl Audit<'_> {
    /// Writes the COPIED flags of the active tables that refcounts contradict; how many.
    fn fix_flags(&mut self, out: &dyn InPlace) -> Result<u64> {
        let mut fixed = 0;
        for l1 in self.layout.l1_tables.iter().filter(|l1| l1.is_active) {
            let (stored, bits) = (&mut self.stored, self.header.cluster_bits);
            self.chunks.entries(l1.offset, l1.entries, |at, entry| {
                let cluster = (entry & OFFSET_MASK) >> bits;
                if cluster != 0 && contradicts(entry, stored.count(cluster)?) {
                    out.write_at(&(entry ^ COPIED).to_be_bytes(), at)?;
                    fixed += 1;
                }
                Ok(())
            })?;
        }
        let mut chunks = Chunks::new(self.storage, self.cancel);
        let format = self.format;
        self.each_l2(|audit, table| {
            if table.active == 0 {
                return Ok(());
            }
            let Some(bytes) = chunks.read(table.offset, format.cluster_size())? else {
                return Ok(());
            };
            let size = format.entry_size();
            let entries = bytes.chunks_exact(size as usize);
            for (at, entry) in (table.offset..).step_by(size as usize).zip(entries) {
                let entry = entry.first_chunk().map_or(0, |e| u64::from_be_bytes(*e));
                let cluster = (entry & OFFSET_MASK) >> format.cluster_bits;
                if entry & COMPRESSED != 0 || (cluster == 0 && !format.external_data) {
                    continue;
                }
                let refcount = match format.external_data {
                    // At offset 0 the flag is all that tells a cluster from none.
                    true if cluster == 0 => continue,
                    true => Some(1),
                    false => audit.stored.count(cluster)?,
                };
                if contradicts(entry, refcount) {
                    out.write_at(&(entry ^ COPIED).to_be_bytes(), at)?;
                    fixed += 1;
                }
            }
            Ok(())
        })?;
        Ok(fixed)
    }
}
