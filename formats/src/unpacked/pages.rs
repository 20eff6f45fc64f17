//! Pages of what was unpacked: those that were used last.

use std::collections::HashMap;

/// Bytes of a page.
pub const PAGE: usize = 1 << 20;

/// The pages used last.
#[derive(Debug)]
pub struct Pages {
    held: HashMap<u64, Held>,
    /// Number of uses so far.
    uses: u64,
    /// Pages that may be held.
    room: usize,
    /// A buffer that nobody holds.
    spare: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Held {
    used: u64,
    bytes: Vec<u8>,
}

impl Pages {
    /// At most `room` pages.
    pub fn new(room: usize) -> Pages {
        Pages {
            held: HashMap::new(),
            uses: 0,
            room,
            spare: None,
        }
    }

    /// Holds at most `room` pages from now on.
    pub fn set_room(&mut self, room: usize) {
        self.room = room;
        while self.held.len() > room {
            self.evict();
        }
    }

    /// Holds none of them any more.
    pub fn clear(&mut self) {
        self.held = HashMap::new();
        self.spare = None;
    }

    /// The page with this number, if it is held.
    pub fn get(&mut self, page: u64) -> Option<&[u8]> {
        let held = self.held.get_mut(&page)?;
        self.uses += 1;
        held.used = self.uses;
        Some(&held.bytes)
    }

    /// Room for a page: that of the one whose use is longest ago, if all is taken.
    pub fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = match self.spare.take() {
            Some(spare) => spare,
            None if self.held.len() < self.room => Vec::new(),
            None => self.evict(),
        };
        buffer.resize(PAGE, 0);
        buffer
    }

    /// Takes back a buffer that was not needed.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        self.spare = Some(buffer);
    }

    /// Holds a page.
    pub fn put(&mut self, page: u64, bytes: Vec<u8>) {
        self.uses += 1;
        let used = self.uses;
        self.held.insert(page, Held { used, bytes });
    }

    /// The page with this number, for somebody else to hold.
    pub fn take(&mut self, page: u64) -> Option<Vec<u8>> {
        self.held.remove(&page).map(|held| held.bytes)
    }

    fn evict(&mut self) -> Vec<u8> {
        let pages = self.held.iter();
        let oldest = pages
            .min_by_key(|(_, held)| held.used)
            .map(|(page, _)| *page);
        oldest.and_then(|page| self.take(page)).unwrap_or_default()
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.held.values().map(|held| held.bytes.capacity()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_used_last_are_held() {
        let mut pages = Pages::new(3);
        for page in 0..5 {
            let mut buffer = pages.buffer();
            buffer.fill(page as u8);
            pages.put(page, buffer);
            assert!(pages.get(0).is_some(), "{page}");
        }
        assert!(pages.get(2).is_none());
        assert_eq!(pages.get(4).unwrap(), [4; PAGE]);
        assert_eq!(pages.bytes(), 3 * PAGE);
        pages.set_room(1);
        assert!(pages.get(4).is_some() && pages.get(0).is_none());
        assert_eq!(pages.take(4).unwrap().len(), PAGE);
        assert_eq!(pages.bytes(), 0);
    }
}
