//! Names and symbolic links: which node a path in an archive means.

use super::{Dir, Error, FileTree, NodeId, NodeKind, WHITEOUT, XattrSetId};
use crate::format::NAME_MAX;
use crate::meta::IMPLICIT_DIR;
use crate::names::shown;

/// Longest path that a program can open, `PATH_MAX` without its NUL.
const PATH_MAX: usize = 4095;
/// Symbolic links followed for one path, as containerd's `fs.RootPath`.
const MAX_SYMLINKS: u32 = 255;

/// Whether a name with the prefix of a whiteout means the name behind the prefix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Plain,
    Whiteouts,
}

impl Names {
    /// What has to fit into a directory: of a whiteout only the name that it hides, for no file is called as in the archive.
    fn kept(self, name: &[u8]) -> &[u8] {
        name.strip_prefix(WHITEOUT).filter(|_| self == Self::Whiteouts).unwrap_or(name)
    }
}

/// The components of a path, cleaned as Go's `path.Clean("/" + path)`: lexically, `..` stops at the root.
///
/// # Errors
/// [`Error::PathTooLong`], [`Error::NameTooLong`], [`Error::BadName`].
pub(super) fn clean(path: &[u8], names: Names) -> Result<Vec<&[u8]>, Error> {
    let mut out: Vec<&[u8]> = Vec::with_capacity(8);
    let mut len = 0;
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if let Some(last) = out.pop() {
                    len -= names.kept(last).len() + 1;
                }
            }
            name => {
                let kept = names.kept(name).len();
                if kept > NAME_MAX {
                    return Err(Error::NameTooLong { path: shown(path), len: kept });
                }
                if name.contains(&0) {
                    return Err(Error::BadName { path: shown(path) });
                }
                len += kept + 1;
                out.push(name);
            }
        }
    }
    if len > PATH_MAX {
        return Err(Error::PathTooLong { path: shown(path), len });
    }
    Ok(out)
}

/// Whether a missing directory on the way is made, or ends the search.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Stop,
}

impl FileTree {
    /// The directory that `parents` leads to, following symbolic links of this layer inside its root.
    /// Missing directories are made and marked implicit, or end the search with `None`.
    ///
    /// # Errors
    /// [`Error::SymlinkLoop`], [`Error::NotADirectory`], and what [`clean`] says of a link's target.
    pub(super) fn walk(
        &mut self,
        path: &[u8],
        parents: &[&[u8]],
        missing: Missing,
    ) -> Result<Option<NodeId>, Error> {
        let mut at = NodeId::ROOT;
        for (depth, name) in parents.iter().enumerate() {
            let Some(next) = self.child(at, name) else {
                if missing == Missing::Stop {
                    return Ok(None);
                }
                at = self.implicit_dir(at, name)?;
                continue;
            };
            match &self.node(next).kind {
                NodeKind::Dir(_) => at = next,
                NodeKind::Symlink(_) => {
                    return self.walk_links(path, at, parents.get(depth..).unwrap_or(&[]), missing);
                }
                NodeKind::Whiteout if missing == Missing::Create => {
                    at = self.uncover(at, name)?;
                }
                NodeKind::Whiteout => return Ok(None),
                _ => return Err(Error::NotADirectory { path: shown(path) }),
            }
        }
        Ok(Some(at))
    }

    /// The rest of [`FileTree::walk`] from the first symbolic link on: components are owned from here.
    fn walk_links(
        &mut self,
        path: &[u8],
        from: NodeId,
        rest: &[&[u8]],
        missing: Missing,
    ) -> Result<Option<NodeId>, Error> {
        let mut at = from;
        let mut todo: Vec<Vec<u8>> = rest.iter().rev().map(|p| p.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                at = self.dir(at).map_or(NodeId::ROOT, |d| d.parent);
                continue;
            }
            if name.len() > NAME_MAX {
                return Err(Error::NameTooLong { path: shown(path), len: name.len() });
            }
            let Some(next) = self.child(at, &name) else {
                if missing == Missing::Stop {
                    return Ok(None);
                }
                at = self.implicit_dir(at, &name)?;
                continue;
            };
            match &self.node(next).kind {
                NodeKind::Dir(_) => at = next,
                NodeKind::Symlink(target) => {
                    links += 1;
                    // Links that expand to ever longer paths are a loop too, before they fill memory.
                    if links > MAX_SYMLINKS || todo.len() > PATH_MAX {
                        return Err(Error::SymlinkLoop { path: shown(path) });
                    }
                    let absolute = target.first() == Some(&b'/');
                    let parts = target.split(|&b| b == b'/').rev();
                    todo.extend(parts.filter(|p| !p.is_empty() && *p != b".").map(<[u8]>::to_vec));
                    if absolute {
                        at = NodeId::ROOT;
                    }
                }
                NodeKind::Whiteout if missing == Missing::Create => {
                    at = self.uncover(at, &name)?;
                }
                NodeKind::Whiteout => return Ok(None),
                _ => return Err(Error::NotADirectory { path: shown(path) }),
            }
        }
        Ok(Some(at))
    }

    /// A directory without a member of its own.
    fn implicit_dir(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Error> {
        let kind = NodeKind::Dir(Dir::new(parent, true));
        self.add(parent, name, IMPLICIT_DIR, XattrSetId::EMPTY, kind)
    }

    /// A directory where this layer has hidden a name of the layers below: it starts anew, so it is opaque.
    fn uncover(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Error> {
        self.unlink(parent, name);
        let id = self.implicit_dir(parent, name)?;
        if let Some(dir) = self.dir_mut(id) {
            dir.opaque = true;
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p02_paths_are_cleaned_lexically_and_stop_at_the_root() {
        let table: [(&[u8], &[&[u8]]); 8] = [
            (b"/abs/f", &[b"abs", b"f"]),
            (b"../../esc", &[b"esc"]),
            (b"a/../b/./c//d", &[b"b", b"c", b"d"]),
            (b"./", &[]),
            (b"/", &[]),
            (b".", &[]),
            (b"a/..", &[]),
            (b"d/", &[b"d"]),
        ];
        for (path, want) in table {
            assert_eq!(clean(path, Names::Plain).unwrap(), want, "{path:?}");
        }
    }

    #[test]
    fn p06_p07_p08_limits_of_names_and_paths() {
        let clean = |path: &[u8]| clean(path, Names::Plain).map(|parts| parts.len());
        assert!(clean(&[b'a'; 255]).is_ok());
        assert_eq!(clean(&[b'a'; 256]).unwrap_err().code(), "name-too-long");
        assert!(clean(&b"a/".repeat(2047)).is_ok());
        assert_eq!(clean(&b"a/".repeat(2048)).unwrap_err().code(), "path-too-long");
    }

    #[test]
    fn w01_a_whiteout_is_as_long_as_the_name_it_hides() {
        let whiteout = |len| [WHITEOUT, &vec![b'a'; len]].concat();
        let code = |path: &[u8], names| clean(path, names).err().map(|error| error.code());
        assert_eq!(code(&whiteout(255), Names::Whiteouts), None);
        assert_eq!(code(&whiteout(256), Names::Whiteouts), Some("name-too-long"));
        assert_eq!(code(&whiteout(252), Names::Plain), Some("name-too-long"));
        let longest = [b"a/".repeat(2046), b".wh.ab".to_vec()].concat();
        assert_eq!(code(&longest, Names::Whiteouts), None);
        assert_eq!(code(&longest, Names::Plain), Some("path-too-long"));
        let back = [&whiteout(255), b"/../".as_slice(), &longest].concat();
        assert_eq!(code(&back, Names::Whiteouts), None);
    }
}
