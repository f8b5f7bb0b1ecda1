//! The sandbox from inside: what a process that entered it has, and what it cannot do. Each attempt is a process of its
//! own, which is this program again.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use super::enter::{confine, leave};
use super::limits::WorkerLimits;
use super::wire::WorkerJob;
use super::{Worker, run};
use crate::sys::sandbox::call;

/// Names the attempt of a process.
const ATTEMPT: &str = "EROLITH_TEST_ATTEMPT";
/// Exit codes: it could be done; an error came back; there was no such attempt.
const DONE: i32 = 10;
const REFUSED: i32 = 11;

fn this(test: &str) -> Vec<OsString> {
    let args = [test, "--exact", "--nocapture", "--test-threads=1"];
    args.map(OsString::from).to_vec()
}

/// This program as a worker. `mark` can be found in its command line.
pub(crate) fn worker(mark: &str) -> Worker {
    let mut args = this("sandbox::tests::is_a_worker");
    args.push(format!("--skip={mark}").into());
    Worker::new(std::env::current_exe().unwrap(), args)
}

/// The worker that other tests start, known by its standard input.
#[test]
fn is_a_worker() {
    if socket_type(rustix::stdio::stdin()) == Ok(SocketType::SEQPACKET) {
        run().unwrap();
    }
}

/// The process that other tests start.
#[test]
#[allow(clippy::disallowed_methods, reason = "what follows would make further calls")]
fn is_inside() {
    let Some(attempt) = std::env::var_os(ATTEMPT) else { return };
    let attempt = attempt.into_string().unwrap();
    if !attempt.starts_with("outside") {
        let protection = leave().unwrap();
        confine(WorkerLimits::of(&WorkerJob::Probe)).unwrap();
        println!("in force: {protection}");
    }
    let done = attempt_of(attempt.trim_start_matches("outside "));
    std::process::exit(if done { DONE } else { REFUSED });
}

/// Whether it was possible.
fn attempt_of(name: &str) -> bool {
    let zero = [0; 6];
    let with = |a: usize, b: usize, c: usize| [a, b, c, 0, 0, 0];
    let page = |protection| [0, 4096, protection, 0x22, usize::MAX, 0];
    let of = |id: i64, args| call(id, args).is_ok();
    match name {
        "wait" => std::io::stdin().read(&mut [0]).is_ok(),
        "thread" => std::thread::Builder::new().spawn(|| ()).is_ok_and(|t| t.join().is_ok()),
        "memory" => call(libc::SYS_mmap, page(3)).is_ok(),
        "open" => fs::File::open("/proc/self/status").is_ok() || fs::File::open("/").is_ok(),
        "stat" => fs::symlink_metadata("/").is_ok(),
        "fork" => Command::new("/bin/true").spawn().is_ok(),
        "socket" => of(libc::SYS_socket, with(1, 1, 0)),
        "execve" => of(libc::SYS_execve, zero),
        "mount" => of(libc::SYS_mount, zero),
        "unshare" => of(libc::SYS_unshare, zero),
        "ptrace" => of(libc::SYS_ptrace, zero),
        "kill" => of(libc::SYS_kill, with(usize::try_from(std::process::id()).unwrap(), 0, 0)),
        "bpf" => of(libc::SYS_bpf, zero),
        "io_uring" => of(libc::SYS_io_uring_setup, zero),
        "sendmsg" => of(libc::SYS_sendmsg, zero),
        "ioctl" => of(libc::SYS_ioctl, zero),
        "prctl" => of(libc::SYS_prctl, with(3, 0, 0)),
        "code" => of(libc::SYS_mmap, page(7)),
        "mprotect" => {
            let at = call(libc::SYS_mmap, page(3)).unwrap();
            of(libc::SYS_mprotect, with(usize::try_from(at).unwrap(), 4096, 5))
        }
        name => panic!("{name}"),
    }
}

fn start(attempt: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(this("sandbox::tests::is_inside"))
        .env(ATTEMPT, attempt)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn ended(attempt: &str) -> ExitStatus {
    start(attempt).wait_with_output().unwrap().status
}

#[test]
fn what_a_worker_must_not_do_kills_it() {
    let calls = [
        "fork", "socket", "execve", "mount", "unshare", "ptrace", "kill", "bpf", "io_uring",
        "sendmsg", "ioctl", "prctl", "code", "mprotect", "stat",
    ];
    for attempt in calls {
        assert_eq!(ended(attempt).signal(), Some(libc::SIGSYS), "{attempt}");
    }
}

#[test]
fn what_a_worker_needs_is_allowed_and_files_are_not_there() {
    for (attempt, code) in [
        ("thread", DONE),
        ("memory", DONE),
        ("open", REFUSED),
        // The attempts themselves are sound: outside they succeed.
        ("outside open", DONE),
        ("outside stat", DONE),
        ("outside socket", DONE),
        ("outside fork", DONE),
        ("outside kill", DONE),
        ("outside code", DONE),
        ("outside mprotect", DONE),
        ("outside prctl", DONE),
        ("outside unshare", DONE),
    ] {
        assert_eq!(ended(attempt).code(), Some(code), "{attempt}");
    }
}

/// A line of `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim()
}

#[test]
fn a_worker_has_no_rights() {
    let mut child = start("wait");
    let mut said = vec![0; 4096];
    let mut out = child.stdout.take().unwrap();
    let mut text = String::new();
    while !text.contains("in force: ") {
        let n = out.read(&mut said).unwrap();
        assert!(n > 0, "{text}");
        text.push_str(std::str::from_utf8(&said[..n]).unwrap());
    }
    // The thread that entered: the harness has another one.
    let tasks = format!("/proc/{}/task", child.id());
    let names = fs::read_dir(&tasks).unwrap().map(|e| e.unwrap().file_name());
    let thread: u32 = names.map(|name| name.to_str().unwrap().parse().unwrap()).max().unwrap();
    let proc = format!("{tasks}/{thread}");
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
    assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), ("1", "2"));
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    if rustix::process::geteuid().is_root() {
        assert_eq!(field(&status, "Uid"), ["65534"; 4].join("\t"));
        assert_eq!(field(&status, "Gid"), ["65534"; 4].join("\t"));
        assert_eq!((field(&status, "Groups"), field(&status, "CapBnd")), ("", "0000000000000000"));
        for namespace in ["net", "ipc", "uts", "mnt"] {
            let of = |proc: &str| fs::read_link(format!("{proc}/ns/{namespace}")).unwrap();
            assert_ne!(of(&proc), of("/proc/self"), "{namespace}");
        }
        let mounts = fs::read_to_string(format!("{proc}/mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
    } else {
        eprintln!("skipped: users and namespaces need root");
    }
    if text.contains("Landlock") && text.contains("not in force: Landlock") {
        eprintln!("skipped: this kernel has no Landlock");
    }
    child.stdin.take().unwrap().write_all(b".").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(DONE));
}

#[test]
fn a_probe_tells_what_protects() {
    let protection = worker("probe").probe().unwrap();
    let text = protection.to_string();
    assert!(text.starts_with("seccomp, limits, no capabilities"), "{text}");
    assert_eq!(protection.nobody, rustix::process::geteuid().is_root(), "{text}");
    assert_eq!(text.contains("not in force"), !protection.is_complete(), "{text}");
    eprintln!("measured: {text}");
}

#[test]
fn a_program_that_is_no_worker_is_an_error() {
    for (program, code) in [("/bin/true", "worker-process-died"), ("/no/such/program", "io")] {
        let error = Worker::new(program, []).probe().unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(!error.to_string().is_empty());
    }
}
