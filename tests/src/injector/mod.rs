//! The n-th system call of a program fails.
//!
//! Every call that changes something is held up by the kernel and counted, over all threads, if it concerns files, mounts
//! or devices; the one whose turn it is fails, or is done in part, and all others go on.

mod calls;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::calls::{CALLS, Object};
pub use self::calls::{Failure, Family};
use crate::sys::notify::{self, Answer, Held};

/// Which call fails, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its number among the calls that are counted, from 1.
    pub nth: u64,
    /// What happens to it: the first of these that can happen to such a call.
    pub failures: Vec<Failure>,
}

/// What an [`Injector`] saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Calls that were counted.
    pub calls: u64,
    /// The call that failed, how, and its name, what it worked on, and how many such calls there were with it; `None` when
    /// its turn did not come, or it cannot fail that way.
    pub struck: Option<(Family, Failure, String)>,
}

/// Answers the calls of a program until it is dropped; from then on they all go on.
#[derive(Debug)]
pub struct Injector {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Seen>>>,
}

impl Injector {
    /// Prepares `command` for [`Injector::start`]. The program waits at its first call until that is done.
    pub fn watch(command: &mut Command) {
        let numbers: Vec<_> = CALLS.iter().map(|(number, ..)| *number).collect();
        notify::watch(command, &numbers);
    }

    /// Answers the calls of `child`, whose command was prepared. Where `child` stands for the program that forks to enter
    /// namespaces, the calls of both count.
    ///
    /// # Errors
    /// Why its calls cannot be had.
    pub fn start(child: &Child, fault: Option<Fault>) -> io::Result<Self> {
        let listener = notify::listener_of(child.id())?;
        let ends = Arc::new(AtomicBool::new(false));
        let (seen, same) = (Seen::default(), BTreeMap::new());
        let watch = Watch { listener, fault, ends: Arc::clone(&ends), seen, same };
        let thread = std::thread::Builder::new().name("injector".into());
        let thread = Some(thread.spawn(move || watch.run())?);
        Ok(Self { ends, thread })
    }

    /// Ends when the program has ended, and says what was seen.
    ///
    /// # Errors
    /// What kept calls from being answered.
    pub fn finish(mut self) -> io::Result<Seen> {
        let thread = self.thread.take().ok_or(io::ErrorKind::NotFound)?;
        thread.join().map_err(|_| io::Error::other("the injector panicked"))?
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watch {
    listener: OwnedFd,
    fault: Option<Fault>,
    ends: Arc<AtomicBool>,
    seen: Seen,
    /// How many calls there were of a name on the same thing.
    same: BTreeMap<String, u64>,
}

impl Watch {
    fn run(mut self) -> io::Result<Seen> {
        while self.wait()? {
            let Some(held) = notify::receive(self.listener.as_fd())? else { continue };
            let answer = self.judge(&held);
            notify::answer(self.listener.as_fd(), &held, answer)?;
        }
        Ok(self.seen)
    }

    /// Waits for a call. Gives `false` when no process is left to make one, or the receiver is gone.
    fn wait(&self) -> io::Result<bool> {
        let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while !self.ends.load(Ordering::Relaxed) {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            poll(&mut fds, Some(&patience))?;
            let found = fds[0].revents();
            if found.contains(PollFlags::IN) {
                return Ok(true);
            }
            if found.contains(PollFlags::HUP) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn judge(&mut self, held: &Held) -> Answer {
        let Some((_, name, family, object)) = CALLS.iter().find(|call| call.0 == held.number)
        else {
            return Answer::GoOn;
        };
        let Some(what) = concerns(held, *object) else { return Answer::GoOn };
        self.seen.calls += 1;
        let what = format!("{name} {what}");
        let same = self.same.entry(what.clone()).or_default();
        *same += 1;
        let Some(Fault { nth, failures }) = &self.fault else { return Answer::GoOn };
        if self.seen.calls != *nth {
            return Answer::GoOn;
        }
        for failure in failures.iter().filter(|failure| failure.fits(*family)) {
            let answer = failure.errno().map(Answer::Fail).or_else(|| half(held, name));
            if let Some(answer) = answer {
                self.seen.struck = Some((*family, *failure, format!("{what}, {same}")));
                return answer;
            }
        }
        Answer::GoOn
    }
}

/// What a call works on, if that is of interest: no pipe, socket or event, and no terminal.
fn concerns(held: &Held, object: Object) -> Option<String> {
    match object {
        Object::Path => Some(String::new()),
        Object::Opens(flags) => {
            let flags = i32::try_from(held.arguments[flags]).ok()?;
            let makes = flags & (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) != 0;
            makes.then(String::new)
        }
        Object::Descriptor(argument) => {
            let link = format!("/proc/{}/fd/{}", held.thread, held.arguments[argument]);
            let path = fs::read_link(link).ok()?.display().to_string();
            // Of the files, those that it logs to are no business of a test.
            (path.starts_with('/') && !path.ends_with(".log") && path != "/dev/null")
                .then_some(path)
        }
    }
}

/// Writes the first half of the bytes as the call would; `None` when it has only one, or writes in another way.
fn half(held: &Held, name: &str) -> Option<Answer> {
    let [fd, address, length, offset, ..] = held.arguments;
    // The arguments of other calls are something else.
    let offset = match name {
        "write" => None,
        "pwrite64" => Some(offset),
        _ => return None,
    };
    let bytes = length / 2;
    if bytes == 0 {
        return None;
    }
    let mut content = vec![0; usize::try_from(bytes).ok()?];
    let memory = File::open(format!("/proc/{}/mem", held.thread)).ok()?;
    memory.read_exact_at(&mut content, address).ok()?;
    let file = notify::descriptor_of(process_of(held.thread)?, i32::try_from(fd).ok()?).ok()?;
    let written = match offset {
        None => rustix::io::write(&file, &content),
        Some(offset) => rustix::io::pwrite(&file, &content, offset),
    };
    Some(Answer::Done(i64::try_from(written.ok()?).ok()?))
}

/// The process that a thread belongs to.
fn process_of(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}
