//! What the bytes of an image are, in total and by place.

/// What a byte of an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The boot area, the superblock and its tables.
    Fixed,
    /// Inodes without what follows them.
    Inodes,
    /// Extended attributes.
    Xattrs,
    /// Chunk addresses and compression maps.
    Indexes,
    /// File data and link targets behind inodes.
    Inline,
    /// Names.
    Directories,
    /// Blocks of file data.
    Data,
    /// The hash tree of dm-verity.
    Verity,
    /// Nothing that the tree refers to.
    Unused,
}

impl Kind {
    /// All of them, in the order in which they are shown.
    pub(super) const ALL: [Self; 9] = [
        Self::Data,
        Self::Inline,
        Self::Directories,
        Self::Inodes,
        Self::Xattrs,
        Self::Indexes,
        Self::Fixed,
        Self::Verity,
        Self::Unused,
    ];

    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fixed => "superblock",
            Self::Inodes => "inodes",
            Self::Xattrs => "xattrs",
            Self::Indexes => "indexes",
            Self::Inline => "inline",
            Self::Directories => "directories",
            Self::Data => "data",
            Self::Verity => "verity",
            Self::Unused => "unused",
        }
    }

    /// What it means, in a few words.
    pub(super) fn meaning(self) -> &'static str {
        match self {
            Self::Fixed => "boot area, superblock, device table",
            Self::Inodes => "32 or 64 bytes each",
            Self::Xattrs => "extended attributes, inline and shared",
            Self::Indexes => "chunk addresses, compression maps",
            Self::Inline => "tails of files and link targets behind their inode",
            Self::Directories => "names",
            Self::Data => "blocks of file content",
            Self::Verity => "hash tree of dm-verity",
            Self::Unused => "padding, and what no file refers to",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Most cells of the map.
const CELLS: u64 = 4096;

/// The image in up to 4096 cells of equal size, and the bytes of each kind in every cell.
#[derive(Debug)]
pub(super) struct Grid {
    size: u64,
    cell: u64,
    cells: Vec<[u64; Kind::ALL.len()]>,
    totals: [u64; Kind::ALL.len()],
}

impl Grid {
    /// An image of `size` bytes in blocks of `block`, nothing of it used.
    pub(super) fn new(size: u64, block: u64) -> Self {
        let cell = size.div_ceil(CELLS).max(1).next_multiple_of(block);
        let count = usize::try_from(size.div_ceil(cell)).unwrap_or(0);
        Self { size, cell, cells: vec![[0; Kind::ALL.len()]; count], totals: [0; Kind::ALL.len()] }
    }

    /// Adds bytes `start..end` of the image; what is outside does not count.
    pub(super) fn add(&mut self, start: u64, end: u64, kind: Kind) {
        let end = end.min(self.size);
        let mut at = start;
        while at < end {
            let index = at / self.cell;
            let to = end.min((index + 1) * self.cell);
            let cell = usize::try_from(index).ok().and_then(|index| self.cells.get_mut(index));
            if let Some(bytes) = cell.and_then(|cell| cell.get_mut(kind.index())) {
                *bytes += to - at;
            }
            at = to;
        }
        if let Some(total) = self.totals.get_mut(kind.index()) {
            *total += end.saturating_sub(start);
        }
    }

    /// Bytes of one kind in the image.
    pub(super) fn total(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Unused => self.size.saturating_sub(self.totals.iter().sum()),
            kind => self.totals.get(kind.index()).copied().unwrap_or(0),
        }
    }

    /// Bytes of a cell.
    pub(super) fn cell_bytes(&self) -> u64 {
        self.cell
    }

    /// The kind that takes most of each cell.
    pub(super) fn cells(&self) -> impl ExactSizeIterator<Item = Kind> {
        self.cells.iter().map(|cell| {
            let most = Kind::ALL.into_iter().rev().max_by_key(|kind| cell.get(kind.index()));
            match most {
                Some(kind) if cell.get(kind.index()) != Some(&0) => kind,
                _ => Kind::Unused,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_to_their_cells_and_the_rest_is_unused() {
        let mut grid = Grid::new(4 * 512 * CELLS, 512);
        assert_eq!(grid.cell_bytes(), 2048);
        grid.add(0, 1152, Kind::Fixed);
        grid.add(2048, 3 * 2048 + 1, Kind::Data);
        grid.add(3 * 2048 + 1, 3 * 2048 + 100, Kind::Inodes);
        let cells: Vec<Kind> = grid.cells().take(5).collect();
        assert_eq!(cells, [Kind::Fixed, Kind::Data, Kind::Data, Kind::Inodes, Kind::Unused]);
        assert_eq!(grid.total(Kind::Data), 4097);
        assert_eq!(grid.total(Kind::Unused), 4 * 512 * CELLS - 1152 - 4097 - 99);
        grid.add(u64::MAX - 5, u64::MAX, Kind::Data);
        assert_eq!(grid.total(Kind::Data), 4097);
        assert_eq!(Grid::new(0, 4096).cells().len(), 0);
    }
}
