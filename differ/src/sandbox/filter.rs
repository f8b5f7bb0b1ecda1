//! The system calls that a worker makes, found by running it. Any other one kills it.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::{Error, Result};

/// Calls that are allowed, whatever their arguments. Bytes come and go through descriptors that are open already.
const ALLOWED: &[i64] = &[
    // Bytes in and out.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_copy_file_range,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_sync_file_range,
    libc::SYS_fstat,
    libc::SYS_close,
    // The images of the layers below.
    libc::SYS_recvmsg,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
];

/// Calls that fail and do no harm, with what they fail with. The C library makes them and has another way.
const REFUSED: &[(i64, i32)] = &[
    // Before it gives memory back, it looks into /proc; to start a thread, it tries the newer call first, whose flags a
    // filter cannot see.
    (libc::SYS_openat, libc::EACCES),
    (libc::SYS_clone3, libc::ENOSYS),
];

/// Descriptors may be examined and duplicated.
const FCNTL: [i32; 3] = [libc::F_GETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC];

/// Installs the filter for all threads of this process; it cannot be taken away again.
///
/// # Errors
/// What the system says; then there is no protection.
pub(super) fn install() -> Result<()> {
    for program in programs()? {
        let applied = seccompiler::apply_filter_all_threads(&program);
        applied.map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// The strictest answer of all programs counts.
fn programs() -> Result<Vec<BpfProgram>> {
    let mut programs = Vec::new();
    for (call, errno) in REFUSED {
        let errno = SeccompAction::Errno(errno.unsigned_abs());
        let rules = BTreeMap::from([(*call, Vec::new())]);
        programs.push(program(rules, SeccompAction::Allow, errno)?);
    }
    let anyway = ALLOWED.iter().chain(REFUSED.iter().map(|(call, _)| call));
    let mut rules: BTreeMap<_, _> = anyway.map(|call| (*call, Vec::new())).collect();
    rules.extend(conditional()?);
    // Kills must be possible before anything else is refused: the last program goes in last.
    programs.push(program(rules, SeccompAction::KillProcess, SeccompAction::Allow)?);
    Ok(programs)
}

/// Calls that are allowed with some arguments only.
fn conditional() -> Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let bits = |mask: i32| SeccompCmpOp::MaskedEq(u64::from(mask.unsigned_abs()));
    let number = |n: i32| u64::from(n.unsigned_abs());
    let (exec, empty) = (libc::PROT_EXEC, libc::AT_EMPTY_PATH);
    let thread = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
    let this = number(rustix::process::getpid().as_raw_nonzero().get());
    let abort = rule(&[(0, SeccompCmpOp::Eq, this), (2, SeccompCmpOp::Eq, number(libc::SIGABRT))])?;
    let commands = FCNTL.iter().map(|command| rule(&[(1, SeccompCmpOp::Eq, number(*command))]));
    Ok(BTreeMap::from([
        // No memory becomes code.
        (libc::SYS_mmap, vec![rule(&[(2, bits(exec), 0)])?]),
        (libc::SYS_mprotect, vec![rule(&[(2, bits(exec), 0)])?]),
        // Threads, no processes.
        (libc::SYS_clone, vec![rule(&[(0, bits(thread), number(thread))])?]),
        // Open files are examined, not paths.
        (libc::SYS_statx, vec![rule(&[(2, bits(empty), number(empty))])?]),
        (libc::SYS_newfstatat, vec![rule(&[(3, bits(empty), number(empty))])?]),
        (libc::SYS_fcntl, commands.collect::<Result<_>>()?),
        // Threads get names.
        // Its own, and only upwards: it has no rights.
        (libc::SYS_setpriority, vec![rule(&[(1, SeccompCmpOp::Eq, 0)])?]),
        (libc::SYS_prctl, vec![rule(&[(0, SeccompCmpOp::Eq, number(libc::PR_SET_NAME))])?]),
        // What abort(3) does.
        (libc::SYS_tgkill, vec![abort]),
    ]))
}

/// Arguments: position, comparison, value. All are 32 bits wide, or have nothing above them that matters.
fn rule(arguments: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule> {
    let conditions = arguments.iter().map(|(index, operator, value)| {
        SeccompCondition::new(*index, SeccompCmpArgLen::Dword, operator.clone(), *value)
    });
    let conditions = conditions.collect::<std::result::Result<_, _>>();
    let rule = conditions.and_then(SeccompRule::new);
    rule.map_err(|error| failed(&error))
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(|error| failed(&error))?;
    let filter = SeccompFilter::new(rules, otherwise, action, arch);
    let program = filter.and_then(BpfProgram::try_from);
    program.map_err(|error| failed(&error))
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::io("filtering system calls")(std::io::Error::other(error.to_string()))
}
