//! How often each cluster of a part of the file is used, in bounded memory.

use crate::error::{Error, Result};

/// Clusters of one page.
pub const PAGE: u64 = 1024;
/// Memory for pages: enough for more than 10 TiB of clusters of 64 KiB, each used once or twice.
const BUDGET: usize = 64 << 20;
/// Pages that a window reaches over, touched or not.
const SPAN: u64 = 2 << 20;
/// Windows that are worth the time. Files of which every cluster is used stay far below.
const WINDOWS: u32 = 64;

/// Uses of the clusters from `lo` up to `hi`, the *window*. What does not fit into memory is left to the next one.
pub struct Counts {
    budget: usize,
    windows: u32,
    /// First page of the window.
    first_page: u64,
    /// Pages behind the first one; none of them is past `last_page`.
    pages: Vec<Option<Box<Page>>>,
    /// The page behind the window.
    last_page: u64,
    /// The first page with a use that the window has no room for.
    next_page: Option<u64>,
    bytes: usize,
}

/// What a use of a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A table: nothing else may stand there.
    Metadata,
    /// What guests wrote, or a part of it.
    Data,
}

/// Uses of [`PAGE`] clusters.
pub struct Page {
    cells: Cells,
    marks: Option<Box<Marks>>,
}

/// One bit a cluster.
type Bits = [u64; PAGE as usize / 64];

struct Marks {
    metadata: Bits,
    overlap: Bits,
}

/// Numbers that take as little as the largest of them allows.
enum Cells {
    /// Up to 3.
    Narrow(Box<[u8; PAGE as usize / 4]>),
    Bytes(Box<[u8; PAGE as usize]>),
    Wide(Box<[u64; PAGE as usize]>),
}

impl Counts {
    /// The first window.
    pub fn new() -> Counts {
        Counts::with_budget(BUDGET)
    }

    fn with_budget(budget: usize) -> Counts {
        Counts {
            budget,
            windows: 1,
            first_page: 0,
            pages: Vec::new(),
            last_page: SPAN,
            next_page: None,
            bytes: 0,
        }
    }

    /// First cluster of the window.
    pub fn lo(&self) -> u64 {
        self.first_page * PAGE
    }

    /// First cluster of the next window; `None` when this is the last one.
    pub fn next(&self) -> Option<u64> {
        self.next_page.map(|page| page * PAGE)
    }

    /// Goes on to the next window; `false` when there is none.
    ///
    /// # Errors
    /// `Limit` when the uses are so scattered that it would never end.
    pub fn advance(&mut self) -> Result<bool> {
        let Some(next) = self.next_page else {
            return Ok(false);
        };
        if self.windows == WINDOWS {
            return Err(Error::limit(
                "refcounts",
                "the clusters in use are scattered too widely to be counted",
            )
            .at(0));
        }
        *self = Counts {
            windows: self.windows + 1,
            first_page: next,
            last_page: next.saturating_add(SPAN),
            ..Counts::with_budget(self.budget)
        };
        Ok(true)
    }

    /// Adds `uses` uses of each of the `len` clusters from `first` on.
    pub fn add(&mut self, first: u64, len: u64, uses: u64, kind: Use) {
        let end = first.saturating_add(len);
        let mut at = first.max(self.lo());
        while at < end {
            let page = at / PAGE;
            if page >= self.last_page {
                self.next_page = Some(self.next_page.map_or(page, |known| known.min(page)));
                return;
            }
            let stop = end.min((page + 1) * PAGE);
            // Below PAGE.
            let (from, to) = ((at % PAGE) as usize, (stop - page * PAGE) as usize);
            self.add_in_page(page, from..to, uses, kind);
            at = stop;
        }
    }

    /// The page that cluster `cluster` is in, if any of its clusters is used.
    pub fn page(&self, cluster: u64) -> Option<&Page> {
        let index = (cluster / PAGE).checked_sub(self.first_page)?;
        self.pages.get(usize::try_from(index).ok()?)?.as_deref()
    }

    /// The first cluster from `from` on, and before `end`, that is in the same page as a cluster that is used.
    pub fn next_used(&self, from: u64, end: u64) -> Option<u64> {
        let from = from.max(self.lo());
        let index = from / PAGE - self.first_page;
        let pages = end.div_ceil(PAGE).saturating_sub(self.first_page);
        let last = usize::try_from(pages).map_or(self.pages.len(), |n| n.min(self.pages.len()));
        let rest = self.pages.get(usize::try_from(index).ok()?..last)?;
        let skipped = rest.iter().position(Option::is_some)? as u64;
        let found = from.max((self.first_page + index + skipped) * PAGE);
        (found < end).then_some(found)
    }

    fn add_in_page(&mut self, page: u64, range: std::ops::Range<usize>, uses: u64, kind: Use) {
        // At most SPAN.
        let index = (page - self.first_page) as usize;
        if index >= self.pages.len() {
            self.pages.resize_with(index + 1, || None);
        }
        let page = self.pages[index].get_or_insert_with(|| {
            self.bytes += Page::EMPTY;
            Box::new(Page::new())
        });
        let before = page.bytes();
        for cell in range {
            page.add(cell, uses, kind);
        }
        let after = page.bytes();
        if after != before || self.bytes > self.budget {
            self.bytes = self.bytes + after - before;
            self.shrink();
        }
    }

    /// Leaves the end of the window to the next one when it takes too much memory. Something is always kept.
    fn shrink(&mut self) {
        if self.bytes <= self.budget {
            return;
        }
        while self.bytes > self.budget / 4 * 3 && self.pages.len() > 1 {
            if let Some(Some(page)) = self.pages.pop() {
                self.bytes -= page.bytes();
                self.last_page = self.first_page + self.pages.len() as u64;
                self.next_page = Some(self.last_page);
            }
        }
    }
}

impl Page {
    /// Bytes of a page that holds little: its cells, itself, and its places in memory.
    const EMPTY: usize = PAGE as usize / 4 + 64;

    fn new() -> Page {
        Page {
            cells: Cells::Narrow(Box::new([0; PAGE as usize / 4])),
            marks: None,
        }
    }

    /// Uses of cluster `cluster`, which is in this page.
    pub fn count(&self, cluster: u64) -> u64 {
        self.cells.get((cluster % PAGE) as usize)
    }

    /// Whether a table stands in `cluster` and something else too.
    pub fn overlaps(&self, cluster: u64) -> bool {
        let cell = (cluster % PAGE) as usize;
        self.marks
            .as_ref()
            .is_some_and(|marks| marks.overlap[cell / 64] & 1 << (cell % 64) != 0)
    }

    fn bytes(&self) -> usize {
        let cells = match &self.cells {
            Cells::Narrow(_) => 0,
            Cells::Bytes(_) => PAGE as usize,
            Cells::Wide(_) => PAGE as usize * 8,
        };
        let marks = self.marks.as_ref().map_or(0, |_| size_of::<Marks>());
        Page::EMPTY + cells + marks
    }

    fn add(&mut self, cell: usize, uses: u64, kind: Use) {
        let count = self.cells.get(cell).saturating_add(uses);
        if !self.cells.set(cell, count) {
            self.cells = self.cells.wider(count);
            self.cells.set(cell, count);
        }
        if kind == Use::Metadata && self.marks.is_none() {
            self.marks = Some(Box::new(Marks {
                metadata: [0; PAGE as usize / 64],
                overlap: [0; PAGE as usize / 64],
            }));
        }
        if let Some(marks) = &mut self.marks {
            let (word, bit) = (cell / 64, 1u64 << (cell % 64));
            marks.overlap[word] |= marks.metadata[word] & bit;
            if kind == Use::Metadata {
                marks.metadata[word] |= bit;
            }
        }
    }
}

impl Cells {
    fn get(&self, cell: usize) -> u64 {
        match self {
            Cells::Narrow(cells) => (cells[cell / 4] >> (cell % 4 * 2) & 3).into(),
            Cells::Bytes(cells) => cells[cell].into(),
            Cells::Wide(cells) => cells[cell],
        }
    }

    /// Sets a cell; `false` when it has no room for the number.
    fn set(&mut self, cell: usize, count: u64) -> bool {
        match self {
            Cells::Narrow(cells) => {
                let shift = cell % 4 * 2;
                if count > 3 {
                    return false;
                }
                // Two bits.
                cells[cell / 4] = cells[cell / 4] & !(3 << shift) | (count as u8) << shift;
            }
            Cells::Bytes(cells) => match u8::try_from(count) {
                Ok(count) => cells[cell] = count,
                Err(_) => return false,
            },
            Cells::Wide(cells) => cells[cell] = count,
        }
        true
    }

    /// The same numbers with room for `count`.
    fn wider(&self, count: u64) -> Cells {
        let mut wider = match u8::try_from(count) {
            Ok(_) => Cells::Bytes(Box::new([0; PAGE as usize])),
            Err(_) => Cells::Wide(Box::new([0; PAGE as usize])),
        };
        for cell in 0..PAGE as usize {
            wider.set(cell, self.get(cell));
        }
        wider
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(counts: &Counts, cluster: u64) -> u64 {
        counts.page(cluster).map_or(0, |page| page.count(cluster))
    }

    #[test]
    fn uses_add_up_whatever_their_number() {
        let mut counts = Counts::new();
        let mut expected = vec![0u64; 5000];
        for (first, len, uses) in [
            (0, 5000, 1),
            (1000, 100, 2),
            (1023, 2, 250),
            (1024, 1, 1 << 40),
            (3, 1, u64::MAX),
        ] {
            counts.add(first, len, uses, Use::Data);
            for count in &mut expected[first as usize..(first + len) as usize] {
                *count = count.saturating_add(uses);
            }
        }
        for (cluster, expected) in (0..).zip(&expected) {
            assert_eq!(count(&counts, cluster), *expected, "{cluster}");
        }
        assert!(!counts.advance().unwrap());
    }

    #[test]
    fn tables_overlap_with_everything_and_data_with_tables_only() {
        let mut counts = Counts::new();
        counts.add(10, 3, 1, Use::Metadata);
        counts.add(12, 3, 1, Use::Data);
        counts.add(13, 3, 1, Use::Data);
        counts.add(10, 1, 1, Use::Metadata);
        let page = counts.page(0).unwrap();
        let found: Vec<u64> = (0..PAGE).filter(|c| page.overlaps(*c)).collect();
        assert_eq!(found, [10, 12]);
    }

    #[test]
    fn what_does_not_fit_is_counted_in_further_windows() {
        let mut counts = Counts::with_budget(4 * Page::EMPTY);
        let used: Vec<u64> = (0..40).map(|n| n * 5 * PAGE + n).collect();
        let (mut windows, mut found) = (0, Vec::new());
        loop {
            windows += 1;
            for cluster in used.iter().rev() {
                counts.add(*cluster, 1, 1, Use::Data);
            }
            let mut at = counts.lo();
            while let Some(first) = counts.next_used(at, u64::MAX) {
                at = (first / PAGE + 1) * PAGE;
                found.extend((first..at).filter(|c| count(&counts, *c) > 0));
            }
            if !counts.advance().unwrap() {
                break;
            }
        }
        assert_eq!(found, used);
        assert!((10..=20).contains(&windows), "{windows}");
    }

    #[test]
    fn a_file_used_here_and_there_up_to_its_end_is_over_the_limit() {
        let mut counts = Counts::new();
        let mut advance = || {
            for n in 0..1000 {
                counts.add(n << 50, 1, 1, Use::Data);
            }
            counts.advance()
        };
        assert!((0..WINDOWS - 1).all(|_| advance().unwrap()));
        assert!(advance().is_err());
    }
}
