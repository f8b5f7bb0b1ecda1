//! Messages between the two processes: a socket that keeps their bounds, and descriptors that go with them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Most bytes of a message. What would be longer is shortened by its sender, or is none of ours.
pub(super) const MAX_BYTES: usize = 64 << 10;
/// Most descriptors that go with one message; the kernel allows 253.
pub(super) const MAX_FDS: usize = 128;

/// What came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// Both ends of a new socket.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// Sends a message.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when it is too large, and what the system says.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.len() > MAX_BYTES || fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        let slice = [IoSlice::new(bytes)];
        match rustix::net::sendmsg(socket, &slice, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Waits for a message. `None`: the other end is closed.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when it is too large, and what the system says.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let came = loop {
        let mut slice = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, &mut slice, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(came) => break came,
            Err(Errno::INTR) => {}
            // What was on its way to a process that is gone.
            Err(Errno::CONNRESET) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if came.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(came.bytes);
    Ok(Some(Message { bytes, fds }).filter(|message| !message.bytes.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_bring_files() {
        let (here, there) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all_at_start(b"content");
        send(here.as_fd(), b"one", &[file.as_fd(), file.as_fd()]).unwrap();
        send(here.as_fd(), b"two", &[]).unwrap();
        let too_large = vec![0; MAX_BYTES + 1];
        assert!(send(here.as_fd(), &too_large, &[]).is_err());
        let one = receive(there.as_fd()).unwrap().unwrap();
        assert_eq!((one.bytes.as_slice(), one.fds.len()), (&b"one"[..], 2));
        let mut text = String::new();
        File::from(one.fds.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        let two = receive(there.as_fd()).unwrap().unwrap();
        assert_eq!((two.bytes.as_slice(), two.fds.len()), (&b"two"[..], 0));
        drop(here);
        assert!(receive(there.as_fd()).unwrap().is_none());
    }

    #[test]
    fn what_is_larger_than_a_message_is_an_error() {
        let (here, there) = pair().unwrap();
        rustix::io::write(&here, &vec![7; MAX_BYTES + 1]).unwrap();
        assert_eq!(receive(there.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    trait AtStart {
        fn write_all_at_start(&mut self, bytes: &[u8]);
    }

    impl AtStart for File {
        fn write_all_at_start(&mut self, bytes: &[u8]) {
            std::os::unix::fs::FileExt::write_all_at(self, bytes, 0).unwrap();
        }
    }
}
