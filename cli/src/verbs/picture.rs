//! The map of a disk as a picture: a grid of cells, each a share of the disk, coloured by what most of it is.

use super::map::Entry;

/// Cells in a row.
const COLUMNS: u64 = 64;
/// Rows.
const ROWS: u64 = 32;
/// Pixels of a cell.
const CELL: u64 = 12;

/// Kinds in the order of the legend, and their colours.
const KINDS: [(&str, &str); 4] = [
    ("data", "#2b6cb0"),
    ("compressed", "#6b46c1"),
    ("zero", "#e2e8f0"),
    ("absent", "#f7fafc"),
];

/// A picture in the making.
pub struct Picture {
    size: u64,
    /// Bytes of each kind in each cell.
    cells: Vec<[u64; KINDS.len()]>,
}

impl Picture {
    /// An empty picture of a disk of `size` bytes.
    pub fn new(size: u64) -> Picture {
        Picture {
            size,
            cells: vec![[0; KINDS.len()]; (COLUMNS * ROWS) as usize],
        }
    }

    /// Guest bytes that a cell stands for.
    fn cell_bytes(&self) -> u64 {
        self.size.div_ceil(COLUMNS * ROWS).max(1)
    }

    /// Adds one entry of the map.
    pub fn add(&mut self, entry: &Entry) {
        let Some(kind) = KINDS.iter().position(|(name, _)| *name == entry.kind) else {
            return;
        };
        let share = self.cell_bytes();
        let (mut at, end) = (entry.offset, entry.offset.saturating_add(entry.length));
        while at < end {
            let next = (at / share + 1).saturating_mul(share).min(end);
            if let Some(cell) = self.cells.get_mut((at / share) as usize) {
                cell[kind] += next - at;
            }
            at = next;
        }
    }

    /// The picture of the disk called `name`.
    pub fn svg(&self, name: &str) -> String {
        let (width, height) = (COLUMNS * CELL, ROWS * CELL);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"13\">\n<title>{}</title>\n",
            height + 30,
            escape(name)
        );
        for (index, cell) in self.cells.iter().enumerate() {
            let most = (0..KINDS.len()).max_by_key(|kind| (cell[*kind], KINDS.len() - kind));
            let Some(kind) = most.filter(|kind| cell[*kind] > 0) else {
                continue;
            };
            let (column, row) = (index as u64 % COLUMNS, index as u64 / COLUMNS);
            let (x, y) = (column * CELL, row * CELL);
            let (side, colour) = (CELL - 1, KINDS[kind].1);
            svg += &format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{colour}\"/>\n"
            );
        }
        for (index, (kind, colour)) in KINDS.iter().enumerate() {
            let x = index * 120;
            svg += &format!(
                "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\" stroke=\"#718096\"/><text x=\"{}\" y=\"{}\">{kind}</text>\n",
                height + 9,
                x + 18,
                height + 20,
            );
        }
        svg + "</svg>\n"
    }
}

fn escape(text: &str) -> String {
    text.replace(char::is_control, "\u{FFFD}")
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_take_the_colour_of_most_of_their_bytes() {
        let mut picture = Picture::new(COLUMNS * ROWS * 10);
        let entry = |offset, length, kind| Entry {
            offset,
            length,
            kind,
            file: None,
            file_offset: None,
            encrypted: false,
        };
        picture.add(&entry(0, 16, "data"));
        picture.add(&entry(16, COLUMNS * ROWS * 10 - 16, "zero"));
        assert_eq!(picture.cells[0], [10, 0, 0, 0]);
        assert_eq!(picture.cells[1], [6, 0, 4, 0]);
        assert_eq!(picture.cells[2], [0, 0, 10, 0]);
        let svg = picture.svg("a<b>");
        assert_eq!(svg.matches("#2b6cb0").count(), 2 + 1);
        assert!(svg.contains("a&lt;b&gt;"));
    }
}
