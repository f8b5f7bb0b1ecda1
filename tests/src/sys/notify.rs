//! System calls of another process, held up by a filter and answered by us: `seccomp_unotify(2)`.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Where the program that is watched has its own end of the filter: a number that nothing else has.
const LISTENER: i32 = 200;

/// `SECCOMP_IOCTL_NOTIF_RECV`, `SECCOMP_IOCTL_NOTIF_SEND` of `include/uapi/linux/seccomp.h`.
const RECEIVE: libc::Ioctl = 0xc050_2100;
const SEND: libc::Ioctl = 0xc018_2101;

/// A call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    id: u64,
    /// The thread that makes it.
    pub(crate) thread: u32,
    pub(crate) number: i64,
    pub(crate) arguments: [u64; 6],
}

/// What is said to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel shall do it.
    GoOn,
    /// It has failed, with this errno.
    Fail(i32),
    /// It has succeeded, and returns this.
    Done(i64),
}

/// Has the program that `command` starts, and all it starts, wait for an answer to each of these calls.
pub(crate) fn watch(command: &mut Command, calls: &[i64]) {
    let filter = filter(calls);
    // SAFETY: between fork and exec nothing is allocated and no lock is taken: system calls only.
    unsafe { command.pre_exec(move || install(&filter)) };
}

/// The filter: a list of comparisons, then what both outcomes mean. The architecture is ours, as we start it.
fn filter(calls: &[i64]) -> Vec<libc::sock_filter> {
    let code = |word: u32| u16::try_from(word).unwrap_or_default();
    let plain = |word, k| libc::sock_filter { code: code(word), jt: 0, jf: 0, k };
    let mut out = vec![plain(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for (i, &call) in calls.iter().enumerate() {
        let jt = u8::try_from(calls.len() - i).expect("at most 255 calls are watched");
        let k = u32::try_from(call).expect("numbers of calls are small");
        let code = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
        out.push(libc::sock_filter { code, jt, jf: 0, k });
    }
    out.push(plain(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    out.push(plain(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF));
    out
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the program and its length are those of a slice that outlives the call.
    let listener = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    let listener = i32::try_from(listener).unwrap_or(-1);
    // SAFETY: it duplicates a descriptor to a number that is not in use; the copy outlives exec, the original does not.
    let copied = if listener < 0 { -1 } else { unsafe { libc::dup2(listener, LISTENER) } };
    if copied < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn pidfd(process: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    Ok(pidfd_open(pid.ok_or(io::ErrorKind::InvalidInput)?, PidfdFlags::empty())?)
}

/// A descriptor of another process: the same open file.
pub(crate) fn descriptor_of(process: u32, number: i32) -> io::Result<OwnedFd> {
    Ok(pidfd_getfd(pidfd(process)?, number, PidfdGetfdFlags::empty())?)
}

/// Our end of the filter of a process that was started with [`watch`].
pub(crate) fn listener_of(process: u32) -> io::Result<OwnedFd> {
    descriptor_of(process, LISTENER)
}

/// The next call; `None` when the one who made it is gone in the meantime.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Option<Held>> {
    // SAFETY: a structure of integers; the kernel wants zeroes.
    let mut held: libc::seccomp_notif = unsafe { zeroed() };
    // SAFETY: the kernel fills the structure, whose size is in the number of the ioctl.
    let answer = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut held) };
    if answer < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOENT | libc::EINTR) => Ok(None),
            _ => Err(error),
        };
    }
    let number = i64::from(held.data.nr);
    Ok(Some(Held { id: held.id, thread: held.pid, number, arguments: held.data.args }))
}

/// Answers a call. That the one who made it is gone is no error.
pub(crate) fn answer(listener: BorrowedFd<'_>, held: &Held, answer: Answer) -> io::Result<()> {
    let (val, error, flags) = match answer {
        Answer::GoOn => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE),
        Answer::Fail(errno) => (0, -errno, 0),
        Answer::Done(value) => (value, 0, 0),
    };
    let flags = u32::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut response = libc::seccomp_notif_resp { id: held.id, val, error, flags };
    // SAFETY: the kernel reads the structure, whose size is in the number of the ioctl.
    let sent = unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw mut response) };
    let error = io::Error::last_os_error();
    if sent < 0 && error.raw_os_error() != Some(libc::ENOENT) { Err(error) } else { Ok(()) }
}
