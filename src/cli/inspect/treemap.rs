//! A treemap: nested rectangles whose areas are bytes (Bruls, Huizing, van Wijk: "Squarified Treemaps", 2000).

use super::facts::Facts;

/// A rectangle in units of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) w: f64,
    pub(super) h: f64,
}

impl Rect {
    fn shrunk(self, top: f64, edge: f64) -> Self {
        let (w, h) = ((self.w - 2.0 * edge).max(0.0), (self.h - top - edge).max(0.0));
        Self { x: self.x + edge, y: self.y + top, w, h }
    }
}

/// What a rectangle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// A place in [`Facts::dirs`].
    Dir(usize),
    /// A place in [`Facts::files`].
    File(usize),
    /// So many small things of the directory around it.
    Rest(u64),
}

/// One rectangle of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Node {
    pub(super) item: Item,
    pub(super) bytes: u64,
    pub(super) rect: Rect,
    /// Place of the node around it; that of the first is its own.
    pub(super) parent: usize,
    pub(super) depth: usize,
    /// Which branch it belongs to; branches begin in the directories that hold much of everything.
    pub(super) family: usize,
    /// Height at the top that nothing lies on; of a leaf, all of it.
    pub(super) free: f64,
}

/// What is smaller than one part in this many is not drawn by itself.
const PARTS: u64 = 8_000;
/// Deepest nesting drawn.
const DEPTH_MAX: usize = 24;
/// Height of the name of a directory, where there is room for it.
const TITLE: f64 = 15.0;

/// Lays the directories and files out in a picture of the given size.
pub(super) fn treemap(facts: &Facts, width: f64, height: f64) -> Vec<Node> {
    let children = Children::new(facts);
    let Some(root) = facts.dirs.first().filter(|root| root.stored > 0) else { return Vec::new() };
    let rect = Rect { x: 0.0, y: 0.0, w: width, h: height };
    let (item, bytes) = (Item::Dir(0), root.stored);
    let mut nodes = vec![Node { item, bytes, rect, parent: 0, depth: 0, family: 0, free: height }];
    let (mut at, mut families) = (0, 0);
    // Nodes are added behind the one at hand, so each directory comes before what is in it.
    while let Some(node) = nodes.get(at).copied() {
        if let Item::Dir(dir) = node.item
            && node.depth < DEPTH_MAX
        {
            let items = children.of(facts, dir);
            let roomy = node.rect.w >= 40.0 && node.rect.h >= 40.0;
            let title = if roomy { TITLE } else { node.rect.h * 0.12 };
            let edge = (node.rect.w.min(node.rect.h) * 0.02).min(2.0);
            if let Some(node) = nodes.get_mut(at) {
                node.free = title;
            }
            // Where most of it is, the next level tells more by its colours.
            let branches = node.bytes.saturating_mul(5) > root.stored.saturating_mul(2);
            let sizes: Vec<u64> = items.iter().map(|(_, bytes)| *bytes).collect();
            let rects = squarify(&sizes, node.rect.shrunk(title, edge));
            for ((item, bytes), rect) in items.into_iter().zip(rects) {
                let (depth, free) = (node.depth + 1, rect.h);
                let family = if branches { families } else { node.family };
                families += usize::from(branches);
                nodes.push(Node { item, bytes, rect, parent: at, depth, family, free });
            }
        }
        at += 1;
    }
    nodes
}

/// What is in each directory and large enough to be drawn.
struct Children {
    /// Children by directory.
    items: Vec<Vec<(Item, u64)>>,
}

impl Children {
    fn new(facts: &Facts) -> Self {
        let least = facts.dirs.first().map_or(0, |root| root.stored) / PARTS;
        let mut items = vec![Vec::new(); facts.dirs.len()];
        for (index, dir) in facts.dirs.iter().enumerate().skip(1) {
            if dir.stored > least
                && let Some(list) = items.get_mut(dir.parent)
            {
                list.push((Item::Dir(index), dir.stored));
            }
        }
        let by_nid = facts.dirs.iter().enumerate().map(|(i, dir)| (dir.nid, i));
        let by_nid: std::collections::BTreeMap<u64, usize> = by_nid.collect();
        for (index, file) in facts.files.iter().enumerate() {
            let dir = by_nid.get(&file.name.parent).copied().unwrap_or(0);
            if file.stored > least
                && let Some(list) = items.get_mut(dir)
            {
                list.push((Item::File(index), file.stored));
            }
        }
        Self { items }
    }

    /// The largest first, and in the end what is too small, together.
    fn of(&self, facts: &Facts, dir: usize) -> Vec<(Item, u64)> {
        let mut items = self.items.get(dir).cloned().unwrap_or_default();
        // The order of the walk decides between equals, which keeps the picture the same.
        items.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let drawn: u64 = items.iter().map(|(_, bytes)| *bytes).sum();
        let is_file = |item: &&(Item, u64)| matches!(item.0, Item::File(_));
        if let Some(dir) = facts.dirs.get(dir) {
            let rest = dir.stored.saturating_sub(drawn);
            if rest > 0 && !items.is_empty() {
                let files = items.iter().filter(is_file).count() as u64;
                items.push((Item::Rest(dir.files.saturating_sub(files)), rest));
            }
        }
        items
    }
}

/// Divides a rectangle into one for each size, as square as they can be. Sizes are in descending order.
fn squarify(sizes: &[u64], mut rect: Rect) -> Vec<Rect> {
    let total: f64 = sizes.iter().map(|size| *size as f64).sum();
    let mut rects = Vec::with_capacity(sizes.len());
    if total <= 0.0 {
        return rects;
    }
    let scale = rect.w * rect.h / total;
    let areas: Vec<f64> = sizes.iter().map(|size| *size as f64 * scale).collect();
    let mut rest = areas.as_slice();
    while !rest.is_empty() {
        let side = rect.w.min(rect.h);
        let mut count = 1;
        while let (Some(now), Some(more)) = (rest.get(..count), rest.get(..=count)) {
            if worst(more, side) > worst(now, side) {
                break;
            }
            count += 1;
        }
        let (row, later) = rest.split_at(count.min(rest.len()));
        rest = later;
        let thickness = if side > 0.0 { row.iter().sum::<f64>() / side } else { 0.0 };
        let mut along = 0.0;
        for area in row {
            let length = if thickness > 0.0 { area / thickness } else { 0.0 };
            rects.push(if rect.w >= rect.h {
                Rect { x: rect.x, y: rect.y + along, w: thickness, h: length }
            } else {
                Rect { x: rect.x + along, y: rect.y, w: length, h: thickness }
            });
            along += length;
        }
        if rect.w >= rect.h {
            (rect.x, rect.w) = (rect.x + thickness, (rect.w - thickness).max(0.0));
        } else {
            (rect.y, rect.h) = (rect.y + thickness, (rect.h - thickness).max(0.0));
        }
    }
    rects
}

/// The worst ratio of sides in a row along `side`.
fn worst(row: &[f64], side: f64) -> f64 {
    let sum: f64 = row.iter().sum();
    let most = row.iter().copied().fold(0.0, f64::max);
    let least = row.iter().copied().fold(f64::INFINITY, f64::min);
    let (side, sum) = (side * side, sum * sum);
    (side * most / sum).max(sum / (side * least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_have_the_areas_asked_for_and_stay_inside() {
        let whole = Rect { x: 10.0, y: 20.0, w: 600.0, h: 400.0 };
        let sizes = [600, 600, 400, 300, 200, 200, 100];
        let rects = squarify(&sizes, whole);
        assert_eq!(rects.len(), sizes.len());
        for (rect, size) in rects.iter().zip(sizes) {
            assert!((rect.w * rect.h - size as f64 * 100.0).abs() < 1e-6, "{rect:?}");
            assert!(rect.x > 9.999 && rect.x + rect.w < 610.001, "{rect:?}");
            assert!(rect.y > 19.999 && rect.y + rect.h < 420.001, "{rect:?}");
            let ratio = (rect.w / rect.h).max(rect.h / rect.w);
            assert!(ratio < 3.1, "{rect:?}");
        }
        assert!(squarify(&[], whole).is_empty());
        assert!(squarify(&[0, 0], whole).is_empty());
        let flat = Rect { w: 0.0, ..whole };
        assert!(squarify(&[5, 1], flat).iter().all(|r| r.w.is_finite() && r.h.is_finite()));
    }
}
