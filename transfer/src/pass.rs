//! One pass over a disk: read it, find the zeros, hash it, and store it if there is somewhere to store it to.
//!
//! Converting, digesting and verifying are all this pass, with different things asked of it.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use formats::{BlockSource, BlockTarget, Mapping, Preallocation, Run, RunReader};

use crate::affordable::{AffordableDigest, Budget};
use crate::buffer::AlignedBuffer;
use crate::digest::{
    Algorithm, Fingerprint, OrderedDigest, SegmentHash, SegmentHasher, zero_hashes,
};
use crate::error::{Error, Result};
use crate::output::Output;
use crate::overlay::{Below, OverlayWorker, ranges_hash};
use crate::packing::{PackedBlocks, Packing};
use crate::pipeline::{self, Stage};
use crate::place::{Told, gaps, total};
use crate::progress::Progress;
use crate::salvage::Salvage;
use crate::segments::{SEGMENT, Segment, Segments, find_starts};
use crate::store::{LEAD, write_data, write_stream, write_zeros};
use crate::zero::{data_ranges, is_zero};

/// Bytes that are read, looked at and hashed in one go: they stay in the cache of a core meanwhile.
const STEP: usize = 256 << 10;

/// Zeros that are handed to one worker when they have to be hashed or written.
const ZEROS_TO_HASH: u64 = 32 << 20;

/// A whole number of segments that no disk reaches.
const ANY_LENGTH: u64 = u64::MAX / SEGMENT * SEGMENT;

/// What every pass needs.
pub struct Setting<'a> {
    /// Workers.
    pub threads: usize,
    /// Set from outside to stop.
    pub cancel: &'a AtomicBool,
    /// Counters.
    pub progress: &'a Progress,
    /// Where losses go, if damaged ranges are to be read as zeros.
    pub salvage: Option<&'a Salvage>,
}

/// What a pass is asked for.
#[derive(Debug, Default, Clone)]
pub struct Wanted {
    /// Digests of the guest content.
    pub digests: Vec<Algorithm>,
    /// BLAKE3 of the guest content, unless hashing zeros would take longer than the data.
    pub affordable_digest: bool,
    /// The fingerprint of the guest content.
    pub fingerprint: bool,
}

/// Where a pass stores to.
pub struct Destination<'a> {
    /// The layout.
    pub target: Box<dyn BlockTarget>,
    /// The storage; none when only the layout is wanted.
    pub output: Option<&'a dyn Output>,
    /// Unit in bytes in which zeros are looked for; 0 stores everything.
    pub sparse: u64,
    /// How blocks are packed, if the target stores them packed. Zeros are looked for in its unit then.
    pub packing: Option<Packing>,
    /// The image below, if only what differs from it is stored. `sparse` is the unit then, and no unit is stored in part.
    pub below: Option<Below<'a>>,
    /// Whether the source is a delta: what it maps as absent is left to the image below, and what it maps as zeros is
    /// said. `sparse` is the unit of it, which is never defined in part.
    pub is_delta: bool,
}

/// What came out of a pass.
#[derive(Default)]
pub struct Outcome {
    /// The target, with all blocks placed and stored but not finished.
    pub target: Option<Box<dyn BlockTarget>>,
    /// Digests, in the order they were asked for.
    pub digests: Vec<(Algorithm, String)>,
    /// The BLAKE3 of the guest content, if it was asked for and affordable.
    pub affordable_digest: Option<String>,
    /// The fingerprint, if it was asked for.
    pub fingerprint: Option<[u8; 32]>,
    /// Guest bytes that are not zero, in units of the zero scan.
    pub data_bytes: u64,
    /// The other guest bytes; over another image only those that are zeros and no zeros there.
    pub zero_bytes: u64,
}

/// Runs one pass over the first `size` bytes of `source`.
///
/// # Errors
/// Those of source, target and storage; `Interrupted`.
pub fn run(
    source: &dyn BlockSource,
    wanted: &Wanted,
    destination: Option<Destination<'_>>,
    setting: &Setting<'_>,
) -> Result<Outcome> {
    let size = source.size();
    setting.progress.begin(size);
    let hashes_zeros = wanted.digests.contains(&Algorithm::Blake3);
    let writes_zeros = destination.as_ref().is_some_and(|d| d.sparse == 0);
    // Zeros that cost something are shared out among the workers; others are passed over in one go.
    let makes_tables = destination
        .as_ref()
        .is_some_and(|d| d.target.preallocation() != Preallocation::Off);
    let costly = !wanted.digests.is_empty() || writes_zeros || makes_tables;
    let when_spent = if costly { ZEROS_TO_HASH } else { ANY_LENGTH };
    let at_first = if wanted.affordable_digest {
        ZEROS_TO_HASH
    } else {
        when_spent
    };
    let budget = Budget::new(wanted.affordable_digest, at_first);
    let is_delta = destination.as_ref().is_some_and(|d| d.is_delta);
    let says_zeros = destination.as_ref().is_none_or(|d| d.target.says_zeros());
    let (target, output, packing, below, sparse) = match destination {
        Some(d) => (Some(d.target), d.output, d.packing, d.below, d.sparse),
        None => (None, None, None, None, SEGMENT.min(4096)),
    };
    let mut sources = vec![source];
    sources.extend(below.as_ref().map(|below| below.source));
    let sparse = packing.as_ref().map_or(sparse, |p| p.unit() as u64);
    let pass = Pass {
        output,
        packing,
        below,
        is_delta,
        says_zeros,
        sparse,
        hashes_zeros,
        budget: &budget,
        when_spent,
        hashes: wanted.fingerprint || wanted.affordable_digest || hashes_zeros,
        feeds: !wanted.digests.is_empty(),
        setting,
        ordered: Mutex::new(Ordered {
            target,
            digests: wanted
                .digests
                .iter()
                .map(|a| OrderedDigest::new(*a))
                .collect(),
            affordable: AffordableDigest::default(),
            fingerprint: wanted.fingerprint.then(Fingerprint::default),
            data_bytes: 0,
            zero_bytes: 0,
        }),
    };
    let segments = Segments::new(sources, size, budget.longest_zeros(), setting.salvage);
    let segments = segments.of_delta(is_delta);
    pipeline::run(&pass, &segments, setting.threads, setting.cancel)?;
    let ordered = pass.ordered.into_inner().unwrap_or_else(|e| e.into_inner());
    Ok(Outcome {
        target: ordered.target,
        digests: ordered
            .digests
            .into_iter()
            .map(OrderedDigest::finish)
            .collect(),
        affordable_digest: ordered.affordable.finish(&budget),
        fingerprint: ordered.fingerprint.map(|f| f.finish()),
        data_bytes: ordered.data_bytes,
        zero_bytes: ordered.zero_bytes,
    })
}

struct Pass<'a> {
    output: Option<&'a dyn Output>,
    packing: Option<Packing>,
    below: Option<Below<'a>>,
    is_delta: bool,
    says_zeros: bool,
    sparse: u64,
    /// Whether every zero has to be hashed, however many there are.
    hashes_zeros: bool,
    /// Whether zeros are hashed for as long as that is cheap.
    budget: &'a Budget,
    when_spent: u64,
    hashes: bool,
    feeds: bool,
    setting: &'a Setting<'a>,
    ordered: Mutex<Ordered>,
}

/// What only one worker at a time touches, in guest order.
struct Ordered {
    target: Option<Box<dyn BlockTarget>>,
    digests: Vec<OrderedDigest>,
    affordable: AffordableDigest,
    fingerprint: Option<Fingerprint>,
    data_bytes: u64,
    zero_bytes: u64,
}

/// A worker's things.
struct Worker {
    reader: RunReader,
    buffer: AlignedBuffer,
    /// Parts of the buffer that hold data. Empty: the segment is all zeros.
    data: Vec<Range<usize>>,
    hashes: Vec<SegmentHash>,
    packed: PackedBlocks,
    /// Where the compressed units of the segment stand, ascending.
    starts: Vec<u64>,
    overlay: OverlayWorker,
    told: Told,
    /// A page to align small pieces of metadata in.
    lead: AlignedBuffer,
}

impl Stage for Pass<'_> {
    type Worker = Worker;

    fn worker(&self) -> Result<Worker> {
        let no_memory = |e| formats::Error::io("get memory", e);
        Ok(Worker {
            reader: RunReader::new(),
            buffer: AlignedBuffer::new(SEGMENT as usize).map_err(no_memory)?,
            data: Vec::new(),
            hashes: Vec::new(),
            packed: PackedBlocks::default(),
            starts: Vec::new(),
            overlay: OverlayWorker::default(),
            told: Told::default(),
            lead: AlignedBuffer::new(LEAD).map_err(no_memory)?,
        })
    }

    fn is_heavy(&self, segment: &Segment) -> bool {
        let mut runs = segment.runs.iter().flatten();
        let packs = self.packing.is_some() && !segment.is_zero();
        packs || runs.any(|run| matches!(run.mapping, Mapping::Packed { .. }))
    }

    /// Packing takes so long that a core should never wait for the storage in between: measured, 7 % faster.
    fn heavy_at_once(&self) -> usize {
        let spare = if self.packing.is_some() { 2 } else { 0 };
        pipeline::cores() + spare
    }

    fn prepare(&self, worker: &mut Worker, segment: &Segment) -> Result<()> {
        worker.data.clear();
        worker.hashes.clear();
        worker.packed.clear();
        worker.overlay.zeros.clear();
        if segment.is_zero() {
            if self.hashes_zeros || !self.budget.is_spent() {
                zero_hashes(segment.offset, segment.len, &mut worker.hashes);
            }
            return Ok(());
        }
        let mut hasher = self.hashes.then(|| SegmentHasher::new(segment.offset));
        let mut done = 0;
        let runs = segment.runs.first().map_or(&[][..], Vec::as_slice);
        if runs.is_empty() {
            // Zeros here, but not in the image below.
            done = segment.len as usize;
            worker.buffer[..done].fill(0);
            if let Some(hasher) = &mut hasher {
                hasher.update(&worker.buffer[..done]);
            }
        }
        if self.packing.is_some() {
            find_starts(runs, &mut worker.starts);
        }
        for run in runs {
            let len = run.len as usize;
            self.read_run(worker, segment, run, done, hasher.as_mut())?;
            done += len;
        }
        let content = &worker.buffer[..done];
        let unit = self.sparse as usize;
        match &self.below {
            None if self.is_delta => {
                let data = &mut worker.data;
                let says_zeros = self.says_zeros;
                worker
                    .overlay
                    .defined(runs, content, unit, says_zeros, data);
            }
            None => data_ranges(content, unit, 0, &mut worker.data),
            Some(below) => {
                let runs = segment.runs.get(1).map_or(&[][..], Vec::as_slice);
                let data = &mut worker.data;
                worker.overlay.compare(below, runs, content, unit, data)?;
            }
        }
        if let Some(hasher) = hasher {
            worker.hashes.push(hasher.finish());
        }
        if let Some(packing) = &self.packing {
            // The last block of the disk goes on with zeros.
            let whole = done.next_multiple_of(packing.unit());
            worker.buffer[done..whole].fill(0);
            let content = &worker.buffer[..whole];
            packing.pack(segment.offset, content, &worker.data, &mut worker.packed)?;
        }
        Ok(())
    }

    fn in_order(&self, worker: &mut Worker, segment: &Segment) -> Result<()> {
        let mut ordered = self.ordered.lock().unwrap_or_else(|e| e.into_inner());
        let ordered = &mut *ordered;
        let content = (!segment.is_zero()).then(|| &worker.buffer[..segment.len as usize]);
        if self.feeds {
            for digest in &mut ordered.digests {
                digest.update(&worker.hashes, content, segment.len);
            }
        }
        let data = total(&worker.data);
        ordered.data_bytes += data;
        ordered.zero_bytes += match self.is_overlay() {
            false => segment.len - data,
            true => total(&worker.overlay.zeros),
        };
        let zeros = if segment.is_zero() { segment.len } else { 0 };
        ordered
            .affordable
            .update(self.budget, &worker.hashes, data, zeros, self.when_spent);
        // With -S 0 zeros count as data here; for the fingerprint they are zeros all the same.
        if let (Some(fingerprint), Some(content), [hash]) =
            (&mut ordered.fingerprint, content, &worker.hashes[..])
            && (self.is_delta
                || self.counts_data() && data > 0
                || !self.counts_data() && !is_zero(content))
        {
            fingerprint.push(segment.offset, hash);
            if self.is_delta {
                // Zeros that it says, and what it does not say, are not the same.
                let said = ranges_hash(segment.offset, &worker.overlay.zeros);
                fingerprint.push(segment.offset, &said);
            }
        }
        if let Some(target) = &mut ordered.target {
            self.place(target.as_mut(), worker, segment)?;
            if self.output.is_some_and(|o| o.is_stream()) {
                self.write(worker, segment)?;
            }
        }
        Ok(())
    }

    fn store(&self, worker: &mut Worker, segment: &Segment) -> Result<()> {
        if self.output.is_some_and(|o| !o.is_stream()) {
            self.write(worker, segment)?;
        }
        let read = if segment.is_zero() { 0 } else { segment.len };
        self.setting.progress.add(segment.len, read);
        Ok(())
    }
}

impl Pass<'_> {
    /// Whether the data of a segment is all of it that is not zero.
    fn counts_data(&self) -> bool {
        self.sparse > 0 && self.below.is_none()
    }

    /// Whether the target stands on another image.
    fn is_overlay(&self) -> bool {
        self.below.is_some() || self.is_delta
    }

    /// Reads one run to its place in the buffer, step by step, hashing what was just read.
    fn read_run(
        &self,
        worker: &mut Worker,
        segment: &Segment,
        run: &Run,
        at: usize,
        mut hasher: Option<&mut SegmentHasher>,
    ) -> Result<()> {
        let whole = &mut worker.buffer[at..at + run.len as usize];
        if let Some(packing) = &self.packing
            && packing.may_adopt(run, at)
            && let Ok(Some(unit)) = worker.reader.read_unit(run, &worker.starts, whole)
        {
            if !is_zero(whole) {
                packing.adopt(segment.offset, at, whole, unit, &mut worker.packed)?;
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(whole);
            }
            return Ok(());
        }
        let step = match run.mapping {
            // A unit is unpacked in one piece.
            Mapping::Packed { .. } => whole.len(),
            _ => STEP,
        };
        let mut done = 0;
        for part in whole.chunks_mut(step) {
            let piece = run.part(done as u64, part.len() as u64);
            match (worker.reader.read(&piece, part), self.setting.salvage) {
                (Ok(()), _) => {}
                (Err(error), Some(salvage)) => {
                    let offset = segment.offset + (at + done) as u64;
                    salvage.lost(offset, part.len() as u64, &error);
                    part.fill(0);
                }
                (Err(error), None) => return Err(error.into()),
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(part);
            }
            done += part.len();
        }
        Ok(())
    }

    fn place(
        &self,
        target: &mut dyn BlockTarget,
        worker: &mut Worker,
        segment: &Segment,
    ) -> Result<()> {
        worker.told.clear();
        let (at, all) = (segment.offset, 0..segment.len as usize);
        // Long zeros that must be written are placed like data, but come from elsewhere than the buffer.
        let data = if self.sparse == 0 {
            std::slice::from_ref(&all)
        } else {
            &worker.data
        };
        // Over another image the rest is not zeros, but what stands there.
        let gaps = match self.is_overlay() {
            false => gaps(data, all.end),
            true => Vec::new(),
        };
        let zeros = match self.is_overlay() {
            false => &gaps,
            true => &worker.overlay.zeros,
        };
        match self.packing {
            None => worker.told.tell(target, at, data, zeros)?,
            Some(_) => {
                let blocks = &worker.packed.blocks;
                worker.told.tell(target, at, blocks, zeros)?;
            }
        }
        Ok(())
    }

    fn write(&self, worker: &mut Worker, segment: &Segment) -> Result<()> {
        let Some(output) = self.output else {
            return Ok(());
        };
        let content = match &self.packing {
            Some(_) => Some(&worker.packed.bytes[..]),
            None => (!segment.is_zero()).then_some(&worker.buffer[..]),
        };
        if output.is_stream() {
            let told = &mut worker.told;
            write_stream(output, content, &told.placed, &mut told.tables)?;
            if let Some(last) = worker.told.zeroed.last() {
                output.zero_range(last.clone())?;
            }
            return Ok(());
        }
        for range in worker.told.zeroed.drain(..) {
            self.check_cancel()?;
            output.zero_range(range)?;
        }
        match content {
            None => worker
                .told
                .placed
                .iter()
                .try_for_each(|placed| write_zeros(output, &placed.placement))?,
            Some(content) => write_data(
                output,
                content,
                &worker.told.placed,
                &mut worker.told.tables,
                &mut worker.lead,
            )?,
        }
        for table in worker.told.tables.drain(..) {
            output.write_at(&table.bytes, table.offset)?;
        }
        Ok(())
    }

    fn check_cancel(&self) -> Result<()> {
        if self
            .setting
            .cancel
            .load(std::sync::atomic::Ordering::Relaxed)
        {
            return Err(Error::Interrupted);
        }
        Ok(())
    }
}
