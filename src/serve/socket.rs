//! The socket of the services: whom it lets in, and when one that lies there is replaced.
//!
//! Who can connect controls mounts as root, so only our own user can: the directory is made with mode 0700 and the
//! socket has mode 0600 before it has its name. Sockets of other users, of daemons that live, and other files are never
//! replaced.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Bytes of a path that fit into a socket's address, which ends in a NUL (`sun_path` in unix(7)).
const MAX_PATH: usize = 107;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A path that no client could connect to.
    #[error("{}: the path of a socket has at most {MAX_PATH} bytes and a parent", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// Others could replace the socket.
    #[error("{}: others may write to this directory (mode {mode:04o}, owner {owner})", .path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// A daemon answers there.
    #[error("{}: another daemon answers there", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something lies there that is not ours to replace.
    #[error("{}: {what}; it is not replaced", .path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The service manager handed over something else than one listening socket.
    #[error("the sockets from the service manager: {0}")]
    Activation(&'static str),
    /// A system call failed.
    #[error("{action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// A listening socket. One that was made here is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The socket; it does not block.
    pub(crate) listener: UnixListener,
    _name: Option<Name>,
}

/// The name of our socket, and the inode that had it when we made it.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    id: (u64, u64),
}

impl Drop for Name {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path).map(|m| (m.dev(), m.ino()));
        if there.is_ok_and(|id| id == self.id) {
            // What stays is found stale by the next daemon.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The socket that the service manager hands over, else a new one at `path`.
///
/// # Errors
/// See [`Error`].
pub(crate) fn listen(path: &Path) -> Result<Listener, Error> {
    let listener = match activated()? {
        Some(listener) => listener,
        None => return bind(path),
    };
    not_blocking(&listener, path)?;
    Ok(Listener { listener, _name: None })
}

fn not_blocking(listener: &UnixListener, path: &Path) -> Result<(), Error> {
    listener.set_nonblocking(true).map_err(io_error("making non-blocking", path))
}

/// The socket that systemd opened for us, as sd_listen_fds(3) says.
fn activated() -> Result<Option<UnixListener>, Error> {
    let handed = sd_notify::listen_fds().map_err(|_| Error::Activation("LISTEN_FDS is garbled"))?;
    let fds: Vec<_> = handed.collect();
    let fd = match fds[..] {
        [] => return Ok(None),
        [fd] => fd,
        _ => return Err(Error::Activation("there are several, one is expected")),
    };
    let own = |errno: Errno| io_error("taking over", Path::new("LISTEN_FDS"))(errno.into());
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).map_err(own)?;
    let fd = pidfd_getfd(&ourselves, fd, PidfdGetfdFlags::empty()).map_err(own)?;
    if !is_listening_unix_stream(&fd) {
        return Err(Error::Activation("the one is not a listening unix stream socket"));
    }
    Ok(Some(UnixListener::from(fd)))
}

fn is_listening_unix_stream(fd: &OwnedFd) -> bool {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(fd) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(fd) == Ok(true)
}

/// What lies where the socket shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SocketState {
    Nothing,
    /// No socket.
    OtherFile,
    /// A socket, its owner, and whether a process answers.
    Socket {
        owner: u32,
        answers: bool,
    },
}

/// Whether a new socket may replace what is there. `user` is that of this process.
fn may_replace(found: SocketState, user: u32, path: &Path) -> Result<(), Error> {
    let path = || path.to_owned();
    match found {
        SocketState::Nothing => Ok(()),
        SocketState::OtherFile => Err(Error::NotOurs { path: path(), what: "is not a socket" }),
        SocketState::Socket { answers: true, .. } => Err(Error::InUse { path: path() }),
        SocketState::Socket { owner, .. } if owner != user => {
            Err(Error::NotOurs { path: path(), what: "belongs to another user" })
        }
        SocketState::Socket { .. } => Ok(()),
    }
}

fn look(path: &Path) -> Result<SocketState, Error> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(SocketState::Nothing),
        Err(e) => return Err(io_error("examining", path)(e)),
    };
    if !metadata.file_type().is_socket() {
        return Ok(SocketState::OtherFile);
    }
    let answers = match UnixStream::connect(path) {
        // Whatever else it says, a process listens.
        Err(e) => e.kind() != io::ErrorKind::ConnectionRefused,
        Ok(_) => true,
    };
    Ok(SocketState::Socket { owner: metadata.uid(), answers })
}

/// Whether only this user can make and remove names in a directory with these attributes.
fn is_private(mode: u32, owner: u32, user: u32) -> bool {
    mode & 0o022 == 0 && (owner == user || owner == 0)
}

/// Makes the directory of the socket if it is missing, and checks who can write to it.
fn directory(path: &Path, user: u32) -> Result<OwnedFd, Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(io_error("making directory", path))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty());
    let dir = dir.map_err(|e| io_error("opening directory", path)(e.into()))?;
    let stat = rustix::fs::fstat(&dir).map_err(|e| io_error("examining", path)(e.into()))?;
    let mode = stat.st_mode & 0o7777;
    if !is_private(mode, stat.st_uid, user) {
        return Err(Error::OpenDirectory { path: path.to_owned(), mode, owner: stat.st_uid });
    }
    Ok(dir)
}

/// Makes a socket at `path` with mode 0600.
///
/// # Errors
/// See [`Error`].
pub(crate) fn bind(path: &Path) -> Result<Listener, Error> {
    let bad_path = || Error::Path { path: path.to_owned() };
    if path.as_os_str().as_bytes().len() > MAX_PATH {
        return Err(bad_path());
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(bad_path());
    };
    let user = rustix::process::geteuid().as_raw();
    let dir = directory(parent, user)?;
    // Of two daemons that start together, the second one finds the first one answering.
    flock(&dir, FlockOperation::LockExclusive)
        .map_err(|e| io_error("locking", parent)(e.into()))?;
    may_replace(look(path)?, user, path)?;
    let listener = bind_privately(&dir, path, name)?;
    not_blocking(&listener, path)?;
    let metadata = fs::symlink_metadata(path).map_err(io_error("examining", path))?;
    let name = Name { path: path.to_owned(), id: (metadata.dev(), metadata.ino()) };
    Ok(Listener { listener, _name: Some(name) })
}

/// Binds a socket in a directory that no other user can enter, and gives it its name once its mode is right.
fn bind_privately(
    dir: &OwnedFd,
    path: &Path,
    name: &std::ffi::OsStr,
) -> Result<UnixListener, Error> {
    const PRIVATE: &str = ".erolith-new";
    const SOCKET: &str = "socket";
    let failed = |action| {
        let path = path.to_owned();
        move |errno: Errno| Error::Io { action, path, source: errno.into() }
    };
    let discard = |private: Option<&OwnedFd>| {
        if let Some(private) = private {
            // Not there in the usual case.
            let _ = unlinkat(private, SOCKET, AtFlags::empty());
        }
        let _ = unlinkat(dir, PRIVATE, AtFlags::REMOVEDIR);
    };
    match mkdirat(dir, PRIVATE, Mode::RWXU) {
        // Left by a daemon that died here.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(failed("binding")(e)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let private = openat(dir, PRIVATE, flags, Mode::empty()).map_err(failed("binding"))?;
    let _ = unlinkat(&private, SOCKET, AtFlags::empty());
    // Through its descriptor the path is short, wherever the directory is.
    let temporary = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", private.as_raw_fd()));
    let bound = UnixListener::bind(&temporary).and_then(|listener| {
        fs::set_permissions(&temporary, Permissions::from_mode(0o600))?;
        renameat(&private, SOCKET, dir, name)?;
        Ok(listener)
    });
    discard(Some(&private));
    bound.map_err(io_error("binding", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private_dir() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn who_may_be_replaced() {
        let path = Path::new("/run/x.sock");
        let socket = |owner, answers| SocketState::Socket { owner, answers };
        assert!(may_replace(SocketState::Nothing, 0, path).is_ok());
        assert!(may_replace(socket(7, false), 7, path).is_ok());
        assert!(matches!(may_replace(socket(7, true), 7, path), Err(Error::InUse { .. })));
        assert!(matches!(may_replace(socket(7, false), 0, path), Err(Error::NotOurs { .. })));
        assert!(matches!(may_replace(SocketState::OtherFile, 0, path), Err(Error::NotOurs { .. })));
    }

    #[test]
    fn directories_that_others_write_to_are_refused() {
        for (mode, owner, private) in [
            (0o700, 7, true),
            (0o755, 7, true),
            (0o711, 0, true),
            (0o755, 8, false),
            (0o775, 7, false),
            (0o1777, 0, false),
        ] {
            assert_eq!(is_private(mode, owner, 7), private, "{mode:o} {owner}");
        }
    }

    #[test]
    fn socket_and_directory_are_private_and_go_away() {
        let dir = private_dir();
        let path = dir.path().join("run/erolith.sock");
        let listener = bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let names = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "something was left beside the socket");
        assert!(UnixStream::connect(&path).is_ok());
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = private_dir();
        let path = dir.path().join("erolith.sock");
        drop(UnixListener::bind(&path).unwrap());
        let listener = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(Error::InUse { .. })));
        assert!(UnixStream::connect(&path).is_ok());
        drop(listener);
    }

    #[test]
    fn other_files_stay() {
        let dir = private_dir();
        let path = dir.path().join("erolith.sock");
        fs::File::create(&path).unwrap();
        assert!(matches!(bind(&path), Err(Error::NotOurs { .. })));
        assert!(path.exists());
        let long = dir.path().join("x".repeat(108));
        assert!(matches!(bind(&long), Err(Error::Path { .. })));
    }

    #[test]
    fn a_socket_that_replaced_ours_is_not_removed_by_us() {
        let dir = private_dir();
        let path = dir.path().join("erolith.sock");
        let ours = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
    }

    #[test]
    fn what_a_dead_daemon_left_of_binding_does_no_harm() {
        let dir = private_dir();
        let private = dir.path().join(".erolith-new");
        fs::create_dir(&private).unwrap();
        drop(UnixListener::bind(private.join("socket")).unwrap());
        let path = dir.path().join("erolith.sock");
        let _listener = bind(&path).unwrap();
        assert!(!private.exists());
    }
}
