//! Moving the blocks, and what stands around them.

use std::ops::Range;
use std::sync::Arc;

use super::journal::{Plan, RECORD_LEN, Record};
use super::layout::{Batch, Layout};
use super::scan::Used;
use crate::block_set::BlockSet;
use crate::driver::{Driver, Layer, OpenContext};
use crate::error::{Error, Result};
use crate::in_place::InPlace;
use crate::storage::{SliceStorage, Storage};
use crate::vhd::VhdDriver;
use crate::vhd::bat::UNALLOCATED;
use crate::vhd::dynamic_header::DynamicHeader;
use crate::vhd::footer::{DiskType, FOOTER_LEN, Footer};
use crate::vhd::new_blocks::{PAGE, TABLE_OFFSET, table_end};
use crate::vhd::{find, resize};

/// Room that is asked for besides what is counted, for what the file system keeps about the file: bytes.
const MORE_ROOM: u64 = 1 << 20;

/// Holes that are made in one go: bytes.
const LONGEST_HOLE: u64 = 1 << 30;

/// What is known of a disk before anything is written.
pub struct Start {
    /// The blocks that hold something.
    pub used: Used,
    /// Guest bytes in a block.
    pub block_size: u64,
    /// Guest bytes that are not zero.
    pub data_bytes: u64,
    /// A name for the content, which nobody here looks at.
    pub fingerprint: [u8; 32],
    /// When the new image was made, in seconds since 1970. Its id is that of the old one.
    pub unix_time: u64,
}

/// A file with a journal.
pub enum Resumed<F> {
    /// It was stopped before anything moved, and is a fixed disk again.
    Fixed,
    /// It goes on.
    Half(Box<Conversion<F>>),
}

/// A fixed disk on its way to a dynamic one.
pub struct Conversion<F> {
    file: Arc<F>,
    plan: Plan,
    batches: Vec<Batch>,
    /// Used blocks that have moved.
    moved: BlockSet,
    record: Record,
    /// Where that stands: the last sector of the file.
    record_offset: u64,
    buffer: Vec<u8>,
}

impl<F: Storage + InPlace + 'static> Conversion<F> {
    /// Bytes that the volume must have free to begin with: what stands in front of blocks, tables, and what is there twice
    /// for a moment.
    ///
    /// # Errors
    /// Those of [`Conversion::begin`].
    pub fn room(file: &F, start: &Start) -> Result<u64> {
        let plan = plan(file, start)?;
        let layout = &plan.layout;
        let fronts = layout.used().len() as u64 * PAGE;
        let tables = table_end(layout.blocks()) + plan.to_bytes().len() as u64 + 4 * PAGE;
        Ok(fronts + tables + 2 * layout.batch_len() + MORE_ROOM)
    }

    /// Puts the journal behind the fixed disk in `file`, which is from then on neither a fixed disk nor a dynamic one.
    ///
    /// # Errors
    /// `Refused` for a disk that others rely on to stay as it is, `Unsupported` where no holes can be made, what is wrong
    /// with the image; nothing has changed then.
    pub fn begin(file: Arc<F>, start: &Start) -> Result<Conversion<F>> {
        let plan = plan(file.as_ref(), start)?;
        let old_len = file.len();
        check_holes(file.as_ref())?;
        let bytes = plan.to_bytes();
        let ends = [old_len, plan.layout.data_end() + FOOTER_LEN];
        let plan_offset = ends[0].max(ends[1]).next_multiple_of(PAGE);
        let record = Record {
            has_plan: false,
            plan_offset,
            plan_len: bytes.len() as u64,
            old_len,
            done: 0,
            kept: None,
        };
        let mut conversion = Conversion::new(file, plan, record);
        match conversion.write_journal(&bytes) {
            Ok(()) => Ok(conversion),
            Err(error) => {
                // As it was. If that fails, too, starting again does it.
                let file = &conversion.file;
                let _ = file.set_len(old_len).and_then(|()| file.sync());
                Err(error)
            }
        }
    }

    /// Goes on with `file`, if it is half converted.
    ///
    /// # Errors
    /// `Malformed` for a journal that is damaged.
    pub fn resume(file: Arc<F>) -> Result<Option<Resumed<F>>> {
        let Some(record) = Record::read(file.as_ref())? else {
            return Ok(None);
        };
        if !record.has_plan {
            // Without a footer there, it was never begun by anybody here.
            let end = SliceStorage::new(file.clone(), 0, record.old_len)?;
            find::find(&end, false)?;
            file.set_len(record.old_len)?;
            file.sync()?;
            return Ok(Some(Resumed::Fixed));
        }
        let plan = Plan::read(file.as_ref(), &record)?;
        let conversion = Conversion::new(file, plan, record);
        let done = conversion.record.done;
        let end = conversion.record_offset.saturating_add(RECORD_LEN);
        if done > conversion.batches.len() as u64
            || end != conversion.file.len()
            || conversion.plan.layout.data_end() + FOOTER_LEN > conversion.record.plan_offset
            || conversion.plan.footer.current_size > conversion.record.plan_offset
        {
            return Err(Error::malformed("journal", "is not about this file")
                .found(format!("{} bytes", conversion.file.len()))
                .expected(format!("{end} bytes")));
        }
        Ok(Some(Resumed::Half(Box::new(conversion))))
    }

    fn new(file: Arc<F>, plan: Plan, record: Record) -> Conversion<F> {
        let batches = plan.layout.batches();
        let mut moved = BlockSet::new(plan.layout.used().len() as u64);
        for batch in batches.iter().take(record.done as usize) {
            batch.clone().for_each(|nth| moved.insert(nth as u64));
        }
        let layout = &plan.layout;
        let is_tight = batches.iter().any(|batch| layout.is_tight(batch));
        let kept = if is_tight { layout.batch_len() } else { 0 };
        Conversion {
            file,
            batches,
            moved,
            record_offset: kept_offset(&record).saturating_add(kept + PAGE - RECORD_LEN),
            record,
            plan,
            buffer: Vec::new(),
        }
    }

    /// Guest-visible size in bytes.
    pub fn size(&self) -> u64 {
        self.plan.footer.current_size
    }

    /// Length of the fixed disk's file in bytes.
    pub fn old_len(&self) -> u64 {
        self.record.old_len
    }

    /// As in [`Start`].
    pub fn data_bytes(&self) -> u64 {
        self.plan.data_bytes
    }

    /// As in [`Start`].
    pub fn fingerprint(&self) -> [u8; 32] {
        self.plan.fingerprint
    }

    /// Bytes of blocks that move, and of those that have moved.
    pub fn progress(&self) -> (u64, u64) {
        let block_size = self.plan.layout.block_size();
        let total = self.plan.layout.used().len() as u64;
        (total * block_size, self.moved.count() * block_size)
    }

    /// Moves some blocks; whether there were any left to move.
    ///
    /// # Errors
    /// Those of the file. Whatever was done by then stays, and can be gone on with.
    pub fn step(&mut self) -> Result<bool> {
        let done = self.record.done;
        let Some(batch) = self.batches.get(done as usize).cloned() else {
            return Ok(false);
        };
        if done == 0 {
            self.give_back_zeros()?;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let moved = self.move_batch(&batch, &mut buffer);
        self.buffer = buffer;
        moved.map(|()| true)
    }

    /// Writes tables and footers, once all blocks have moved. The file is still half converted.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write_tables(&mut self) -> Result<()> {
        if self.record.done != self.batches.len() as u64 {
            return Err(Error::refused("journal", "not all blocks have moved"));
        }
        let layout = &self.plan.layout;
        let front = layout.front();
        self.punch(front)?;
        let footer = self.plan.footer.to_bytes();
        let header = DynamicHeader::new(
            TABLE_OFFSET,
            layout.blocks() as u32,
            layout.block_size() as u32,
        );
        let mut front = vec![0; FOOTER_LEN as usize];
        front.extend(header.to_bytes());
        front.extend(table(layout));
        self.write(&front, 0)?;
        self.write(&footer, layout.data_end())?;
        self.settle(&front, 0)?;
        self.settle(&footer, layout.data_end())?;
        // Readers that look here first find everything.
        self.write(&footer, 0)?;
        self.settle(&footer, 0)
    }

    /// The dynamic disk, as it will be when the file is cut.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn disk(&self) -> Result<Layer> {
        let slice = SliceStorage::new(self.file.clone(), 0, self.file_len())?;
        VhdDriver.open(Arc::new(slice), &OpenContext::default())
    }

    /// Length of the file when it is done: bytes.
    pub fn file_len(&self) -> u64 {
        self.plan.layout.data_end() + FOOTER_LEN
    }

    /// Cuts the file: it is a dynamic disk from then on.
    ///
    /// # Errors
    /// Those of the file.
    pub fn finish(self) -> Result<()> {
        self.file.set_len(self.file_len())?;
        self.file.sync()
    }

    fn write_journal(&mut self, plan: &[u8]) -> Result<()> {
        // First of all the new end of the file: without record or footer it would be nothing at all.
        self.write_record()?;
        let at = self.record.plan_offset;
        self.write(plan, at)?;
        self.settle(plan, at)?;
        self.record.has_plan = true;
        self.write_record()
    }

    fn write_record(&self) -> Result<()> {
        self.write(&self.record.to_bytes(), self.record_offset)?;
        self.file.sync()
    }

    fn give_back_zeros(&self) -> Result<()> {
        let layout = &self.plan.layout;
        let mut at = 0;
        for nth in 0..layout.used().len() {
            let block = layout.old_place(nth);
            self.punch(at..block.start)?;
            at = block.end;
        }
        self.punch(at..self.record.plan_offset)
    }

    fn move_batch(&mut self, batch: &Batch, buffer: &mut Vec<u8>) -> Result<()> {
        let block_size = self.plan.layout.block_size() as usize;
        buffer.clear();
        buffer.resize(batch.len() * block_size, 0);
        match self.record.kept {
            Some(hash) => self.read_kept(buffer, hash)?,
            None => self.read_old(batch, buffer)?,
        }
        if self.record.kept.is_none() && self.plan.layout.is_tight(batch) {
            let at = kept_offset(&self.record);
            self.write(buffer, at)?;
            self.settle(buffer, at)?;
            self.record.kept = Some(*blake3::hash(buffer).as_bytes());
            self.write_record()?;
        }
        for (nth, block) in batch.clone().zip(buffer.chunks(block_size)) {
            self.write_block(nth, block)?;
        }
        self.file.sync()?;
        for (nth, block) in batch.clone().zip(buffer.chunks(block_size)) {
            let place = self.plan.layout.new_place(nth);
            self.compare(&gap(block_size), place.start)?;
            self.compare(block, place.start + PAGE)?;
        }
        self.record.kept = None;
        self.record.done += 1;
        self.write_record()?;
        batch.clone().for_each(|nth| self.moved.insert(nth as u64));
        batch.clone().try_for_each(|nth| self.give_back(nth))
    }

    fn read_kept(&self, buffer: &mut [u8], hash: [u8; 32]) -> Result<()> {
        let at = kept_offset(&self.record);
        self.file.read_at(buffer, at)?;
        match *blake3::hash(buffer).as_bytes() == hash {
            true => Ok(()),
            false => Err(Error::malformed(
                "journal",
                "the blocks that were kept there are not what they were",
            )
            .at(at)),
        }
    }

    fn read_old(&self, batch: &Batch, buffer: &mut [u8]) -> Result<()> {
        let block_size = self.plan.layout.block_size() as usize;
        for (nth, block) in batch.clone().zip(buffer.chunks_mut(block_size)) {
            let old = self.plan.layout.old_place(nth);
            let there = (old.end - old.start) as usize;
            if let Some(block) = block.get_mut(..there) {
                self.file.read_at(block, old.start)?;
            }
        }
        Ok(())
    }

    /// Writes a block with what stands in front of it. Its zeros become holes.
    fn write_block(&self, nth: usize, block: &[u8]) -> Result<()> {
        let place = self.plan.layout.new_place(nth);
        self.write(&gap(block.len()), place.start)?;
        let data = place.start + PAGE;
        let mut pages = block.chunks(PAGE as usize).map(is_zero).peekable();
        let (mut at, mut next) = (0, pages.next());
        while let Some(is_hole) = next {
            let mut end = at + PAGE;
            next = pages.next();
            while next == Some(is_hole) {
                end += PAGE;
                next = pages.next();
            }
            if is_hole {
                self.punch(data + at..data + end)?;
            } else if let Some(bytes) = block.get(at as usize..end as usize) {
                self.write(bytes, data + at)?;
            }
            at = end;
        }
        Ok(())
    }

    /// Makes a hole of where a block stood, but for what has moved there by now.
    fn give_back(&self, nth: usize) -> Result<()> {
        let layout = &self.plan.layout;
        let old = layout.old_place(nth);
        let mut at = old.start;
        for other in layout.new_places(&old) {
            if self.moved.contains(other as u64) {
                let place = layout.new_place(other);
                self.punch(at..place.start.min(old.end))?;
                at = at.max(place.end);
            }
        }
        self.punch(at..old.end)
    }

    fn punch(&self, mut range: Range<u64>) -> Result<()> {
        while range.start < range.end {
            let len = (range.end - range.start).min(LONGEST_HOLE);
            self.file.punch(range.start, len)?;
            range.start += len;
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.write_at(bytes, at)
    }

    /// Waits until what was written to `at` is on stable storage, and reads it from there.
    fn settle(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.sync()?;
        self.compare(bytes, at)
    }

    fn compare(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.drop_cached(at, bytes.len() as u64);
        let mut found = vec![0; bytes.len()];
        self.file.read_at(&mut found, at)?;
        match found == bytes {
            true => Ok(()),
            false => Err(Error::io(
                "read back what was written and synced",
                std::io::Error::other("it is something else by now"),
            )
            .at(at)
            .hint("the storage loses data; what it should be still stands elsewhere in the file")),
        }
    }
}

/// Fails where no holes can be made. The content of the file stays as it is.
///
/// # Errors
/// `Unsupported`.
pub fn check_holes<F: Storage + InPlace>(file: &F) -> Result<()> {
    // Behind the end there is nothing, but the file system says whether it can.
    file.punch(file.len().next_multiple_of(PAGE), PAGE)
}

/// Where a batch is kept that would write over itself: on the next page behind the plan.
fn kept_offset(record: &Record) -> u64 {
    let end = record.plan_offset.saturating_add(record.plan_len);
    end.checked_next_multiple_of(PAGE)
        .unwrap_or(u64::MAX - (16 << 20))
}

fn plan<F: Storage>(file: &F, start: &Start) -> Result<Plan> {
    let found = find::find(file, false)?;
    resize::refuse(file, &found)?;
    let size = found.footer.current_size;
    if found.footer.disk_type != DiskType::Fixed || size > found.data_end || size == 0 {
        return Err(Error::refused("disk", "is not a whole fixed one"));
    }
    let footer = Footer::new(
        DiskType::Dynamic,
        size,
        found.footer.unique_id,
        start.unix_time,
    );
    Ok(Plan {
        data_bytes: start.data_bytes,
        fingerprint: start.fingerprint,
        footer,
        layout: start
            .used
            .with(|used| Layout::new(size, start.block_size, used))?,
    })
}

/// The BAT, in whole sectors.
fn table(layout: &Layout) -> Vec<u8> {
    let len = table_end(layout.blocks()).saturating_sub(TABLE_OFFSET) as usize / 4;
    let mut entries = vec![UNALLOCATED; len];
    for (nth, number) in layout.used().iter().enumerate() {
        if let Some(entry) = entries.get_mut(*number as usize) {
            *entry = layout.entry(nth);
        }
    }
    entries
        .iter()
        .flat_map(|entry| entry.to_be_bytes())
        .collect()
}

/// The page in front of a block's data: zeros, and its bitmap, which says that all of it was written.
fn gap(block_size: usize) -> [u8; PAGE as usize] {
    let mut gap = [0; PAGE as usize];
    let bitmap = gap.iter_mut().skip(PAGE as usize - 512);
    bitmap
        .take(block_size / PAGE as usize)
        .for_each(|byte| *byte = 0xFF);
    gap
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
