//! What a worker may use of memory, disk and descriptors.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::wire::WorkerJob;
use crate::apply::Task;
use crate::decode::Budget;

/// Address space that every worker needs: the program, the stacks and arenas of its threads, blocks on their way.
const BASE: u64 = 2 << 30;
/// Bytes of memory for a member of an archive, or an inode that is checked: about 200 for the inode, the rest for names
/// and attributes.
const PER_ENTRY: u64 = 512;
/// Members that a layer has at most, where nothing else is said.
const ENTRIES: u64 = 10_000_000;
/// The socket, three files of the order, and the images of 500 layers below; the rest is for descriptors that are held
/// twice.
const DESCRIPTORS: u64 = 1024;
/// Bytes of a header of an archive: no member is shorter.
const HEADER: u64 = 512;
/// Bytes of an image besides what its members take.
const FIXED: u64 = 1 << 30;

/// Limits of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkerLimits {
    /// Bytes of address space (`RLIMIT_AS`).
    memory: u64,
    /// Bytes of a file (`RLIMIT_FSIZE`).
    file: u64,
    /// Descriptors (`RLIMIT_NOFILE`).
    descriptors: u64,
}

impl WorkerLimits {
    /// Those for some work. Memory follows from what decoding may take (two zstd windows) and from how many members a layer
    /// may have, not from its bytes. A file is at most as large as an image of the largest layer that the budget allows can
    /// be: a block for each header and each block of the archive.
    pub(super) fn of(job: &WorkerJob) -> Self {
        let (budget, entries, largest) = match job {
            WorkerJob::Convert { task, request, .. } => match &**task {
                Task::Tar(options) => {
                    let budget = request.budget;
                    let block = (1u64 << options.block_bits.min(16)).max(HEADER);
                    let grown = (block / HEADER).saturating_mul(options.align_blocks.max(1));
                    let bytes = budget.max_output.saturating_mul(grown).saturating_add(FIXED);
                    (budget, u64::from(options.layer.max_entries), bytes.min(options.max_bytes))
                }
                Task::Native => (request.budget, ENTRIES, request.budget.max_output),
            },
            WorkerJob::Probe | WorkerJob::Check(_) | WorkerJob::Fork => {
                (Budget::default(), ENTRIES, 0)
            }
        };
        let windows = 2u64.checked_shl(budget.zstd_window_log).unwrap_or(u64::MAX);
        let memory = entries.saturating_mul(PER_ENTRY).saturating_add(windows).saturating_add(BASE);
        Self { memory, file: largest, descriptors: DESCRIPTORS }
    }

    /// Sets them for this process, and that it leaves no core. Lower ones stay.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn set(self) -> io::Result<()> {
        let of = [
            (Resource::As, self.memory),
            (Resource::Fsize, self.file),
            (Resource::Nofile, self.descriptors),
            (Resource::Core, 0),
        ];
        for (resource, wanted) in of {
            let most = getrlimit(resource).maximum.unwrap_or(u64::MAX).min(wanted);
            setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use erolith_mkfs::build::Options;
    use erolith_mkfs::protect;

    use super::*;
    use crate::decode::Request;
    use crate::sandbox::wire::JobInput;

    #[test]
    fn limits_follow_from_the_budget_and_not_from_the_layer() {
        let convert = |task, budget| {
            let (task, request) = (Box::new(task), Request { budget, ..Request::default() });
            let (source, wanted) = (JobInput::Stream, protect::ProtectOptions::default());
            let request = Box::new(request);
            WorkerLimits::of(&WorkerJob::Convert { task, source, request, wanted })
        };
        let small = Budget { max_output: 1 << 20, zstd_window_log: 20, ..Budget::default() };
        let tar = |options: Options| Task::Tar(options);
        let (gib, mib) = (1u64 << 30, 1u64 << 20);
        let many = 10_000_000 * 512;
        for (limits, memory, file) in [
            (convert(tar(Options::default()), small), 2 * gib + 2 * mib + many, 8 * mib + gib),
            (convert(Task::Native, small), 2 * gib + 2 * mib + many, mib),
            (
                convert(tar(Options { max_bytes: 77, ..Options::default() }), Budget::default()),
                2 * gib + 256 * mib + many,
                77,
            ),
            (WorkerLimits::of(&WorkerJob::Probe), 2 * gib + 256 * mib + many, 0),
        ] {
            assert_eq!(limits, WorkerLimits { memory, file, descriptors: 1024 });
        }
    }
}
