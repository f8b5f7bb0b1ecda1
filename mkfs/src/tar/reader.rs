//! The reader: from a stream to members.

use zerocopy::{FromZeros, IntoBytes};

use super::header::{Format, Header, Numbers, SparseBlock, c_string, field};
use super::pax::Records;
use super::sparse::{self, Map, PaxForm, Text};
use super::{BLOCK, Entry, Error, Kind, Limits, MAJOR_MAX, MINOR_MAX, Problem, padding};
use crate::io::Input;
use crate::meta::{Meta, Time};

/// Reads an archive member by member, once, from front to back.
///
/// ```
/// use erolith_mkfs::io::Stream;
/// use erolith_mkfs::tar::{Entry, Limits, Reader};
///
/// let archive = [0_u8; 1024];
/// let mut reader = Reader::new(Stream(&archive[..]), Limits::default());
/// let mut entry = Entry::default();
/// while reader.next(&mut entry)? {
///     while let data @ [_, ..] = reader.fill_data()? {
///         let n = data.len();
///         reader.consume_data(n);
///     }
/// }
/// let rest = reader.finish(); // whatever follows the two blocks of zeros is still in there
/// # Ok::<(), erolith_mkfs::tar::Error>(())
/// ```
///
/// After an error every further call fails.
#[derive(Debug)]
pub struct Reader<I> {
    input: I,
    limits: Limits,
    /// Offset of the next unread byte.
    pos: u64,
    /// Bytes of the member's data that are not yet read.
    data: u64,
    /// Bytes behind them up to the next block.
    padding: u64,
    state: State,
    header: Header,
    extensions: Extensions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Members,
    End,
    Failed,
}

/// What the extension headers before a member said.
#[derive(Debug, Default)]
struct Extensions {
    /// How many there were, `g` included.
    count: u32,
    has_pax: bool,
    has_name: bool,
    has_link: bool,
    pax: Records,
    /// Payload of `L`.
    name: Vec<u8>,
    /// Payload of `K`.
    link: Vec<u8>,
}

impl Extensions {
    fn clear(&mut self) {
        if self.count == 0 {
            return;
        }
        self.count = 0;
        (self.has_pax, self.has_name, self.has_link) = (false, false, false);
        self.pax.clear();
        self.name.clear();
        self.link.clear();
    }

    /// Whether something waits for its member.
    fn pending(&self) -> bool {
        self.has_pax || self.has_name || self.has_link
    }
}

impl<I: Input> Reader<I> {
    /// Reads the archive that begins at the next byte of `input`.
    pub fn new(input: I, limits: Limits) -> Self {
        Self {
            input,
            limits,
            pos: 0,
            data: 0,
            padding: 0,
            state: State::Members,
            header: Header::new_zeroed(),
            extensions: Extensions::default(),
        }
    }

    /// Passes over what is left of the current member and reads the next one into `entry`, whose memory is
    /// used again. Returns `false` at the end of the archive.
    ///
    /// The archive ends with two blocks of zeros, one block of zeros at the end of the stream, or the end
    /// of the stream between members. What follows two blocks of zeros is not read: a caller that needs the
    /// stream's digest drains [`Reader::finish`].
    ///
    /// # Errors
    /// Every [`Problem`]. `entry` is then half filled and must not be used.
    pub fn next(&mut self, entry: &mut Entry) -> Result<bool, Error> {
        match self.state {
            State::Members => {}
            State::End => return Ok(false),
            State::Failed => return Err(Error::new(self.pos, Problem::Poisoned)),
        }
        self.state = State::Failed;
        let found = self.advance(entry)?;
        self.state = if found { State::Members } else { State::End };
        Ok(found)
    }

    /// The next bytes of the member's stored data; empty behind the last.
    ///
    /// # Errors
    /// [`Problem::TruncatedData`] when the archive ends first, and [`Problem::Io`].
    pub fn fill_data(&mut self) -> Result<&[u8], Error> {
        if self.state == State::Failed {
            return Err(Error::new(self.pos, Problem::Poisoned));
        }
        if let Err(problem) = self.fill() {
            return Err(self.fail(problem));
        }
        let at = self.pos;
        // The second call returns the same bytes; the borrow checker cannot see that yet.
        self.fill().map_err(|problem| Error::new(at, problem))
    }

    /// Marks `n` of the bytes that [`Reader::fill_data`] returned as used.
    pub fn consume_data(&mut self, n: usize) {
        let n = usize::try_from(self.data).map_or(n, |left| left.min(n));
        self.input.consume(n);
        self.moved(n as u64);
    }

    /// Passes over the rest of the member's stored data. On a plain file this is a seek: a caller that
    /// copies `entry.stored` bytes at `entry.data_offset` by other means calls it to know that they exist.
    ///
    /// # Errors
    /// [`Problem::TruncatedData`] when the archive ends first, and [`Problem::Io`].
    pub fn skip_data(&mut self) -> Result<(), Error> {
        if self.state == State::Failed {
            return Err(Error::new(self.pos, Problem::Poisoned));
        }
        self.skip().map_err(|problem| self.fail(problem))
    }

    /// The stream, for [`Input::as_file`].
    pub fn input(&self) -> &I {
        &self.input
    }

    /// Offset of the next byte to be read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.pos
    }

    /// Gives the stream back. After the end of the archive it stands behind the two blocks of zeros.
    pub fn finish(self) -> I {
        self.input
    }

    fn fail(&mut self, problem: Problem) -> Error {
        self.state = State::Failed;
        Error::new(self.pos, problem)
    }

    /// Accounts for `n` bytes of data that were passed.
    fn moved(&mut self, n: u64) {
        self.pos = self.pos.saturating_add(n);
        self.data = self.data.saturating_sub(n);
    }

    /// The next bytes of `data`.
    fn fill(&mut self) -> Result<&[u8], Problem> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let bytes = self.input.fill().map_err(Problem::Io)?;
        if bytes.is_empty() {
            return Err(Problem::TruncatedData { missing: self.data });
        }
        let len = usize::try_from(self.data).unwrap_or(usize::MAX);
        Ok(bytes.get(..len).unwrap_or(bytes))
    }

    /// Passes over what is left of `data`.
    fn skip(&mut self) -> Result<(), Problem> {
        if self.data > 0 {
            let skipped = self.input.skip(self.data).map_err(Problem::Io)?;
            self.moved(skipped);
        }
        if self.data > 0 {
            return Err(Problem::TruncatedData { missing: self.data });
        }
        Ok(())
    }

    /// Padding may be missing at the end of the stream, as in Go.
    fn skip_padding(&mut self) -> Result<(), Problem> {
        let padding = std::mem::take(&mut self.padding);
        if padding > 0 {
            let skipped = self.input.skip(padding).map_err(Problem::Io)?;
            self.pos = self.pos.saturating_add(skipped);
        }
        Ok(())
    }

    /// Reads the next header and checks that it is one; `false` at the end of the archive.
    fn read_header(&mut self) -> Result<bool, Problem> {
        let header = &mut self.header;
        if !read_block(&mut self.input, &mut self.pos, header.as_mut_bytes())? {
            return Ok(false);
        }
        if header.is_zero() {
            let more = read_block(&mut self.input, &mut self.pos, header.as_mut_bytes())?;
            if more && !header.is_zero() {
                return Err(Problem::LoneZeroBlock);
            }
            return Ok(false);
        }
        if header.checksum_matches() { Ok(true) } else { Err(Problem::BadChecksum) }
    }

    fn advance(&mut self, entry: &mut Entry) -> Result<bool, Error> {
        let skipped = self.skip().and_then(|()| self.skip_padding());
        skipped.map_err(|problem| self.fail(problem))?;
        self.extensions.clear();
        let mut start = self.pos;
        loop {
            let at = self.pos;
            let fail = |problem| Error::new(at, problem);
            if !self.read_header().map_err(fail)? {
                if self.extensions.pending() {
                    return Err(Error::new(start, Problem::DanglingExtension));
                }
                return Ok(false);
            }
            if !matches!(self.header.kind, b'x' | b'g' | b'L' | b'K') {
                entry.offset = start;
                entry.path.clear();
                self.member(entry).map_err(|problem| fail(problem).in_member(&entry.path))?;
                return Ok(true);
            }
            self.extension().map_err(fail)?;
            if !self.extensions.pending() {
                start = self.pos;
            }
        }
    }

    /// Reads the extension header whose block was just read.
    fn extension(&mut self) -> Result<(), Problem> {
        let limit = self.limits.extensions;
        let kind = self.header.kind;
        let ext = &mut self.extensions;
        ext.count = ext.count.saturating_add(1);
        if ext.count > limit {
            return Err(Problem::TooManyExtensions { limit });
        }
        let again = match kind {
            b'x' => std::mem::replace(&mut ext.has_pax, true),
            b'L' => std::mem::replace(&mut ext.has_name, true),
            b'K' => std::mem::replace(&mut ext.has_link, true),
            // Go forgets the extension headers in front of a global one, which no archive can intend.
            _ if ext.pending() => return Err(Problem::DanglingExtension),
            _ => false,
        };
        if again {
            return Err(Problem::DuplicateExtension(kind));
        }
        let payload = self.read_payload()?;
        let ext = &mut self.extensions;
        match kind {
            b'L' => ext.name = payload,
            b'K' => ext.link = payload,
            _ => {
                ext.pax.parse(payload)?;
                // A global header must be well formed, and then it is ignored: as in containerd.
                if kind == b'g' {
                    ext.pax.clear();
                }
            }
        }
        Ok(())
    }

    /// Reads the data of an extension header and passes over its padding.
    fn read_payload(&mut self) -> Result<Vec<u8>, Problem> {
        let len = unsigned("size", field("size", &self.header.size)?)?;
        let limit = self.limits.extension_size;
        if len > limit {
            return Err(Problem::ExtensionTooLarge { size: len, limit });
        }
        self.data = len;
        self.padding = padding(len);
        let mut payload = match self.header.kind {
            b'L' => std::mem::take(&mut self.extensions.name),
            b'K' => std::mem::take(&mut self.extensions.link),
            _ => self.extensions.pax.take_payload(),
        };
        payload.clear();
        while self.data > 0 {
            let bytes = self.fill()?;
            payload.extend_from_slice(bytes);
            let n = bytes.len();
            self.consume_data(n);
        }
        self.skip_padding()?;
        Ok(payload)
    }

    /// Turns the header that was just read, and the extensions before it, into a member.
    fn member(&mut self, entry: &mut Entry) -> Result<(), Problem> {
        let format = self.header.format();
        let numbers = self.header.numbers(format)?;
        self.names(format, entry)?;
        entry.kind = kind(self.header.kind, &entry.path)?;
        if !matches!(entry.kind, Kind::Symlink | Kind::Hardlink) {
            entry.link.clear();
        }
        self.meta(&numbers, entry)?;
        self.content(format, &numbers, entry)?;
        if entry.path.is_empty() {
            return Err(Problem::EmptyName);
        }
        self.extensions.pax.xattrs(entry)
    }

    /// Name and link target: of the GNU headers, of the pax records, of the header.
    fn names(&self, format: Format, entry: &mut Entry) -> Result<(), Problem> {
        let ext = &self.extensions;
        let path = choose("path", c_string(&ext.name), ext.pax.path())?;
        let link = choose("linkpath", c_string(&ext.link), ext.pax.link())?;
        if let Some(path) = path {
            entry.path.extend_from_slice(path);
        } else {
            let prefix = self.header.prefix(format);
            entry.path.extend_from_slice(prefix);
            if !prefix.is_empty() {
                entry.path.push(b'/');
            }
            entry.path.extend_from_slice(c_string(&self.header.name));
        }
        entry.link.clear();
        entry.link.extend_from_slice(link.unwrap_or(c_string(&self.header.link)));
        Ok(())
    }

    fn meta(&self, numbers: &Numbers, entry: &mut Entry) -> Result<(), Problem> {
        let pax = &self.extensions.pax;
        let mode = match entry.kind {
            // What lstat says of every symbolic link on Linux.
            Kind::Symlink => 0o777,
            _ => u16::try_from(numbers.mode & 0o7777).unwrap_or(0),
        };
        entry.meta = Meta {
            mode,
            uid: owner("uid", pax.uid_or(numbers.uid)?)?,
            gid: owner("gid", pax.gid_or(numbers.gid)?)?,
            mtime: pax.mtime_or(Time { sec: numbers.mtime, nsec: 0 })?,
        };
        entry.rdev = match entry.kind {
            Kind::Char | Kind::Block => (
                bounded("devmajor", numbers.major, MAJOR_MAX)?,
                bounded("devminor", numbers.minor, MINOR_MAX)?,
            ),
            _ => (0, 0),
        };
        Ok(())
    }

    /// Where the data is, how much of it, and what it expands to.
    fn content(
        &mut self,
        format: Format,
        numbers: &Numbers,
        entry: &mut Entry,
    ) -> Result<(), Problem> {
        let pax = &self.extensions.pax;
        let stored = unsigned("size", pax.size_or(numbers.size)?)?;
        let form = sparse::pax_form(pax)?;
        (entry.size, entry.stored, entry.sparse) = (0, 0, None);
        entry.data_offset = self.pos;
        if entry.kind != Kind::Regular {
            // Whatever the size says, the next block is a header (Go's isHeaderOnlyType).
            return form.map_or(Ok(()), |_| Err(Problem::BadSparseMap("not a regular file")));
        }
        self.check_size(stored)?;
        self.data = stored;
        self.padding = padding(stored);
        let map = match (self.header.kind, form) {
            (b'S', _) => Some(self.old_gnu_map(format)?),
            (_, Some(form)) => Some(self.pax_map(form, entry)?),
            (_, None) => None,
        };
        entry.data_offset = self.pos;
        entry.stored = self.data;
        entry.size = map.as_ref().map_or(stored, Map::size);
        entry.sparse = map.map(|map| map.finish(self.data)).transpose()?;
        Ok(())
    }

    fn check_size(&self, size: u64) -> Result<(), Problem> {
        let limit = self.limits.file_size;
        if size > limit { Err(Problem::FileTooLarge { size, limit }) } else { Ok(()) }
    }

    /// The map of a member of type `S`: in its header and in blocks of its own behind it, which the size
    /// does not count.
    fn old_gnu_map(&mut self, format: Format) -> Result<Map, Problem> {
        // star uses the type for a layout of its own.
        if format != Format::Gnu {
            return Err(Problem::BadSparseMap("type S without GNU magic"));
        }
        let gnu = self.header.gnu();
        let size = unsigned("realsize", field("realsize", &gnu.real_size)?)?;
        self.check_size(size)?;
        let mut map = Map::new(size, &self.limits);
        sparse::read_slots(&gnu.sparse, &mut map)?;
        let mut extended = gnu.extended != 0;
        let mut bytes = 0_u64;
        while extended {
            bytes = self.count_map(bytes)?;
            let mut block = SparseBlock::new_zeroed();
            if !read_block(&mut self.input, &mut self.pos, block.as_mut_bytes())? {
                return Err(Problem::TruncatedHeader);
            }
            sparse::read_slots(&block.slots, &mut map)?;
            extended = block.extended != 0;
        }
        Ok(map)
    }

    /// The map that pax records describe, and the real name, which GNU tar keeps there too.
    fn pax_map(&mut self, form: PaxForm, entry: &mut Entry) -> Result<Map, Problem> {
        let pax = &self.extensions.pax;
        let name = choose("path", c_string(&self.extensions.name), pax.get(pax.sparse.name))?;
        if let Some(name) = name {
            entry.path.clear();
            entry.path.extend_from_slice(name);
        }
        let size = unsigned("GNU.sparse.size", sparse::pax_size(pax)?)?;
        self.check_size(size)?;
        let mut map = Map::new(size, &self.limits);
        if form == PaxForm::Records {
            sparse::read_records(pax, &mut map)?;
            return Ok(map);
        }
        let mut text = Text::default();
        let mut block = [0; BLOCK];
        let mut bytes = 0_u64;
        loop {
            bytes = self.count_map(bytes)?;
            if self.data < BLOCK as u64 {
                return Err(Problem::BadSparseMap("longer than the data"));
            }
            match read_block(&mut self.input, &mut self.pos, &mut block) {
                Ok(true) => self.data = self.data.saturating_sub(BLOCK as u64),
                Ok(false) | Err(Problem::TruncatedHeader) => {
                    return Err(Problem::TruncatedData { missing: self.data });
                }
                Err(problem) => return Err(problem),
            }
            if text.read(&block, &mut map)? {
                return Ok(map);
            }
        }
    }

    /// Accounts for one more block of a sparse map.
    fn count_map(&self, bytes: u64) -> Result<u64, Problem> {
        let limit = self.limits.extension_size;
        let size = bytes.saturating_add(BLOCK as u64);
        if size > limit { Err(Problem::ExtensionTooLarge { size, limit }) } else { Ok(size) }
    }
}

/// Reads a block at `pos`; `false` at the end of the stream.
fn read_block(input: &mut impl Input, pos: &mut u64, block: &mut [u8]) -> Result<bool, Problem> {
    let mut done = 0_usize;
    while let Some(rest) = block.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let have = input.fill().map_err(Problem::Io)?;
        let len = have.len().min(rest.len());
        let (Some(to), Some(from)) = (rest.get_mut(..len), have.get(..len)) else { break };
        if len == 0 {
            break;
        }
        to.copy_from_slice(from);
        input.consume(len);
        *pos = pos.saturating_add(len as u64);
        done = done.saturating_add(len);
    }
    match done {
        0 => Ok(false),
        BLOCK => Ok(true),
        _ => Err(Problem::TruncatedHeader),
    }
}

/// What a member is. Archives of Unix V7 mark directories by a slash only.
fn kind(byte: u8, path: &[u8]) -> Result<Kind, Problem> {
    Ok(match byte {
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::Regular,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(Problem::UnknownType(other)),
    })
}

/// The one of two sources that says something; they must not both.
fn choose<'a>(
    field: &'static str,
    gnu: &'a [u8],
    pax: &'a [u8],
) -> Result<Option<&'a [u8]>, Problem> {
    match (gnu, pax) {
        ([], []) => Ok(None),
        (name, []) | ([], name) => Ok(Some(name)),
        _ => Err(Problem::ConflictingExtensions { field }),
    }
}

fn unsigned(field: &'static str, value: i64) -> Result<u64, Problem> {
    u64::try_from(value).map_err(|_| Problem::OutOfRange { field, value })
}

fn bounded(field: &'static str, value: i64, max: u32) -> Result<u32, Problem> {
    let fitting = u32::try_from(value).ok().filter(|v| *v <= max);
    fitting.ok_or(Problem::OutOfRange { field, value })
}

/// A user or group. `u32::MAX` is none: chown(2) reads it as "leave as it is", so that root would own what
/// was meant for another member.
fn owner(field: &'static str, value: i64) -> Result<u32, Problem> {
    bounded(field, value, u32::MAX - 1)
}
