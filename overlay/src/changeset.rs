//! Files as members of an archive: as they are, or as the changeset that image specifications define (`layer.md`), in
//! which overlayfs' marks have become names. The rules for the way back are in [`tree`](crate::tree).

use std::io::{self, Write};

use crate::Marks;
use erolith_mkfs::format::FileType;
use erolith_mkfs::marks::{is_whiteout, undo_marks};
use erolith_mkfs::meta::{Meta, Xattr};
use erolith_mkfs::names;
use erolith_mkfs::tar::{Entry, Error, Kind, Problem, Writer};
use erolith_mkfs::tree::{WHITEOUT, WHITEOUT_OPAQUE};

/// What becomes of overlayfs' marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Nothing: whiteouts are character devices 0,0 and attributes are attributes.
    AsIs,
    /// Whiteouts and opaque directories become `.wh.` names, the attributes are undone.
    Layer(Marks),
}

/// A file as its source shows it.
#[derive(Debug, Clone, Default)]
pub struct Member<'a> {
    /// The path, without a slash at either end; empty for the root.
    pub path: &'a [u8],
    /// Owner, permissions and time.
    pub meta: Meta,
    /// Bytes of a regular file.
    pub size: u64,
    /// Number of a device.
    pub rdev: (u32, u32),
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
    /// A path of the same inode that was written before, in the same form.
    pub first: Option<Vec<u8>>,
}

impl Member<'_> {
    fn name(&self) -> &[u8] {
        names::split(self.path).1
    }
}

/// What was written of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberOutput {
    /// Its headers. The content has to follow.
    Header,
    /// All of it.
    Whole,
    /// Nothing: an archive has no form for a socket.
    Nothing,
}

/// Writes files as an archive. The content of a regular file follows its member through [`io::Write`].
#[derive(Debug)]
pub struct Changeset<W> {
    tar: Writer<W>,
    form: Form,
    members: u64,
}

impl<W: Write> Changeset<W> {
    /// Writes to `out`, in small pieces: give it a buffer.
    pub fn new(out: W, form: Form) -> Self {
        Self { tar: Writer::new(out), form, members: 0 }
    }

    /// Writes access lists as text too, for GNU tar and bsdtar: see [`Writer::with_acl_texts`].
    #[must_use]
    pub fn with_acl_texts(mut self) -> Self {
        self.tar = self.tar.with_acl_texts();
        self
    }

    /// Writes a member. A directory that hides those below it is followed by the mark that says so.
    ///
    /// # Errors
    /// [`Problem::ReservedName`] and [`Problem::NoForm`] for what a layer cannot say, and those of
    /// [`Writer::write_entry`].
    pub fn member(
        &mut self,
        file_type: FileType,
        member: Member<'_>,
    ) -> Result<MemberOutput, Error> {
        let mut xattrs = member.xattrs.clone();
        let mut opaque = false;
        if let Form::Layer(marks) = self.form {
            let fail = |problem| Error::new(self.tar.position(), problem).in_member(member.path);
            if is_whiteout(file_type, member.rdev, member.size, &member.xattrs, marks) {
                self.whiteout(member.path, member.meta)?;
                return Ok(MemberOutput::Whole);
            }
            if member.name().starts_with(WHITEOUT) {
                return Err(fail(Problem::ReservedName));
            }
            opaque = undo_marks(&mut xattrs, marks).map_err(fail)?;
        }
        let Some(mut entry) = entry(file_type, &member) else { return Ok(MemberOutput::Nothing) };
        if entry.kind != Kind::Hardlink {
            entry.xattrs = xattrs;
        }
        self.write(&entry)?;
        if opaque {
            self.opaque(member.path, member.meta)?;
        }
        Ok(if entry.kind == Kind::Regular { MemberOutput::Header } else { MemberOutput::Whole })
    }

    /// Says that there is nothing at `path`.
    ///
    /// # Errors
    /// Those of [`Writer::write_entry`].
    pub fn whiteout(&mut self, path: &[u8], meta: Meta) -> Result<(), Error> {
        let (parent, name) = names::split(path);
        self.mark(names::join(parent, &[WHITEOUT, name].concat()), meta)
    }

    /// Says that nothing of the layers below is in the directory `path`.
    ///
    /// # Errors
    /// Those of [`Writer::write_entry`].
    pub fn opaque(&mut self, path: &[u8], meta: Meta) -> Result<(), Error> {
        self.mark(names::join(path, WHITEOUT_OPAQUE), meta)
    }

    /// An empty file whose name is what it says.
    fn mark(&mut self, path: Vec<u8>, meta: Meta) -> Result<(), Error> {
        self.write(&Entry { path, meta: Meta { mode: 0, ..meta }, ..Entry::default() })
    }

    fn write(&mut self, entry: &Entry) -> Result<(), Error> {
        self.tar.write_entry(entry)?;
        self.members += 1;
        Ok(())
    }

    /// Members written so far, those that are marks included.
    #[must_use]
    pub fn members(&self) -> u64 {
        self.members
    }

    /// Writes the end of the archive and gives the output back, not flushed.
    ///
    /// # Errors
    /// As [`Writer::finish`].
    pub fn finish(self) -> Result<W, Error> {
        self.tar.finish()
    }
}

impl<W: Write> Write for Changeset<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.tar.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tar.flush()
    }
}

/// What tar says of a file; `None` for a socket.
fn entry(file_type: FileType, member: &Member<'_>) -> Option<Entry> {
    let mut entry = Entry { meta: member.meta, path: member.path.to_vec(), ..Entry::default() };
    entry.kind = match file_type {
        FileType::Regular => Kind::Regular,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Char => Kind::Char,
        FileType::Block => Kind::Block,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => return None,
    };
    match entry.kind {
        Kind::Directory => {
            entry.path.extend_from_slice(if member.path.is_empty() { b"./" } else { b"/" });
            return Some(entry);
        }
        Kind::Regular => entry.size = member.size,
        Kind::Symlink => entry.link.clone_from(&member.target),
        _ => entry.rdev = member.rdev,
    }
    if let Some(first) = &member.first {
        entry.kind = Kind::Hardlink;
        entry.link.clone_from(first);
        entry.size = 0;
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use erolith_mkfs::io::Stream;
    use erolith_mkfs::tar::{Limits, Reader};

    fn xattr(name: &str, value: &str) -> Xattr {
        Xattr { name: name.into(), value: value.into() }
    }

    fn member<'a>(path: &'a str, xattrs: &[(&str, &str)]) -> Member<'a> {
        let xattrs = xattrs.iter().map(|(name, value)| xattr(name, value)).collect();
        let meta = Meta { mode: 0o755, uid: 7, ..Meta::default() };
        Member { path: path.as_bytes(), meta, xattrs, ..Member::default() }
    }

    /// The members of what is written, as name, kind, mode and names of attributes.
    fn written(form: Form, files: Vec<(FileType, Member<'_>)>) -> Result<Vec<String>, Error> {
        let mut changeset = Changeset::new(Vec::new(), form);
        for (file_type, member) in files {
            changeset.member(file_type, member)?;
        }
        let members = changeset.members();
        let bytes = changeset.finish()?;
        let mut reader = Reader::new(Stream(bytes.as_slice()), Limits::default());
        let (mut entry, mut out) = (Entry::default(), Vec::new());
        while reader.next(&mut entry)? {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            let names = entry.xattrs.iter().map(|x| String::from_utf8_lossy(&x.name).into_owned());
            let names: Vec<_> = names.collect();
            out.push(format!("{path} {:?} {:o} {names:?}", entry.kind, entry.meta.mode));
        }
        assert_eq!(out.len() as u64, members);
        Ok(out)
    }

    fn marked() -> Vec<(FileType, Member<'static>)> {
        let opaque = [("trusted.overlay.opaque", "y"), ("trusted.overlay.origin", "x")];
        let escaped = [("trusted.overlay.overlay.opaque", "y"), ("user.overlay.overlay.a", "")];
        vec![
            (FileType::Directory, member("", &opaque)),
            (FileType::Directory, member("d", &opaque)),
            (FileType::Char, member("d/gone", &[])),
            (FileType::Directory, member("x", &[("trusted.overlay.opaque", "x")])),
            (FileType::Regular, member("x/gone", &[("trusted.overlay.whiteout", "")])),
            (FileType::Directory, member("y", &escaped)),
            (FileType::Socket, member("y/socket", &[])),
        ]
    }

    #[test]
    fn marks_become_names() {
        let root = "./ Directory 755 []";
        let expected = [
            root,
            ".wh..wh..opq Regular 0 []",
            "d/ Directory 755 []",
            "d/.wh..wh..opq Regular 0 []",
            "d/.wh.gone Regular 0 []",
            "x/ Directory 755 []",
            "x/.wh.gone Regular 0 []",
            r#"y/ Directory 755 ["trusted.overlay.opaque", "user.overlay.a"]"#,
        ];
        assert_eq!(written(Form::Layer(Marks::Trusted), marked()).unwrap(), expected);
        let all = written(Form::AsIs, marked()).unwrap();
        assert_eq!(all.len(), 6);
        assert_eq!(all[2], "d/gone Char 755 []");
        assert!(all[1].contains("trusted.overlay.opaque"), "{}", all[1]);
    }

    #[test]
    fn marks_of_the_other_kind_are_attributes() {
        let dir = || vec![(FileType::Directory, member("d", &[("trusted.overlay.opaque", "y")]))];
        let kept = r#"d/ Directory 755 ["trusted.overlay.opaque"]"#;
        assert_eq!(written(Form::Layer(Marks::User), dir()).unwrap(), [kept]);
        assert_eq!(written(Form::Layer(Marks::Trusted), dir()).unwrap().len(), 2);
    }

    #[test]
    fn what_a_layer_cannot_say_is_refused() {
        for (file, code) in [
            (member("d/.wh.name", &[]), "tar-reserved-name"),
            (member(".wh..wh..opq", &[]), "tar-reserved-name"),
            (member("moved", &[("trusted.overlay.redirect", "/a")]), "tar-no-form"),
            (member("meta", &[("trusted.overlay.metacopy", "")]), "tar-no-form"),
        ] {
            let form = Form::Layer(Marks::Trusted);
            let error = written(form, vec![(FileType::Regular, file.clone())]).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(written(Form::AsIs, vec![(FileType::Regular, file)]).is_ok());
        }
    }

    #[test]
    fn further_names_are_links_without_content() {
        let first = member("a", &[("user.k", "v")]);
        let second =
            Member { first: Some(b"a".to_vec()), size: 5, ..member("b", &[("user.k", "v")]) };
        let mut changeset = Changeset::new(Vec::new(), Form::AsIs);
        assert_eq!(changeset.member(FileType::Regular, first).unwrap(), MemberOutput::Header);
        assert_eq!(changeset.member(FileType::Regular, second).unwrap(), MemberOutput::Whole);
        assert_eq!(changeset.members(), 2);
    }
}
