//! Names of error numbers, for people who search for them.

use rustix::io::Errno;

/// The symbolic name, for the errors that mount, loop and ioctl calls give.
const NAMES: [(Errno, &str); 30] = [
    (Errno::ACCESS, "EACCES"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::BADF, "EBADF"),
    (Errno::BADMSG, "EBADMSG"),
    (Errno::BUSY, "EBUSY"),
    (Errno::EXIST, "EEXIST"),
    (Errno::INVAL, "EINVAL"),
    (Errno::IO, "EIO"),
    (Errno::ISDIR, "EISDIR"),
    (Errno::LOOP, "ELOOP"),
    (Errno::MFILE, "EMFILE"),
    (Errno::NAMETOOLONG, "ENAMETOOLONG"),
    (Errno::NFILE, "ENFILE"),
    (Errno::NODATA, "ENODATA"),
    (Errno::NODEV, "ENODEV"),
    (Errno::NOENT, "ENOENT"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::NOSYS, "ENOSYS"),
    (Errno::NOTBLK, "ENOTBLK"),
    (Errno::NOTDIR, "ENOTDIR"),
    (Errno::NOTTY, "ENOTTY"),
    (Errno::NXIO, "ENXIO"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    (Errno::PERM, "EPERM"),
    (Errno::ROFS, "EROFS"),
    (Errno::TXTBSY, "ETXTBSY"),
    (Errno::UCLEAN, "EUCLEAN"),
    (Errno::USERS, "EUSERS"),
    (Errno::XDEV, "EXDEV"),
];

/// `ENOTBLK: Block device required`, or the number when the name is not in the table.
pub(crate) fn describe(errno: Errno) -> String {
    let full = std::io::Error::from(errno).to_string();
    let text = full.split(" (os error").next().unwrap_or_default();
    match NAMES.iter().find(|&&(e, _)| e == errno) {
        Some((_, name)) => format!("{name}: {text}"),
        None => format!("errno {}: {text}", errno.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_and_unknown_numbers_are_described() {
        assert_eq!(describe(Errno::NOTBLK), "ENOTBLK: Block device required");
        assert_eq!(describe(Errno::DOM), "errno 33: Numerical argument out of domain");
    }
}
