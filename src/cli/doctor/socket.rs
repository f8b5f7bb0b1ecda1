//! Whether systemd holds the daemon's socket. Found by looking, so that it does not matter what the unit is called.
//!
//! A containerd that starts while the daemon is away asks it once which images are unpacked. Where the connection is
//! refused, Kubernetes sees no image until containerd is restarted; where it waits, all is well.

use std::fs;
use std::io;
use std::path::Path;

use super::Row;

/// Looks at process 1, by `/proc`.
pub(super) fn row(address: &Path) -> Row {
    held_by(Path::new("/proc"), "1", address)
}

/// The flag of a socket that listens (`__SO_ACCEPTCON`, include/uapi/linux/net.h).
const LISTENS: u32 = 1 << 16;

fn held_by(proc: &Path, pid: &str, address: &Path) -> Row {
    const NAME: &str = "socket-unit";
    let process = proc.join(pid);
    let init = fs::read_to_string(process.join("comm")).unwrap_or_default();
    if init.trim() != "systemd" {
        let evidence =
            "process 1 is not systemd: start containerd when the daemon answers, not before";
        return Row::untried(NAME, evidence);
    }
    let sockets = fs::read_to_string(proc.join("net/unix")).unwrap_or_default();
    let held = match held(&process.join("fd")) {
        Ok(held) => held,
        Err(error) => {
            return Row::untried(NAME, &format!("{}: {error}", process.join("fd").display()));
        }
    };
    let ok = listening(&sockets, address).any(|inode| held.contains(&format!("socket:[{inode}]")));
    let word = if ok { "systemd holds" } else { "systemd does not hold" };
    let advice = "install dist/erolith.socket: systemctl enable --now erolith.socket. A containerd that starts while the \
                  daemon is away shows Kubernetes no image otherwise, until it is restarted";
    Row::found(NAME, ok, format!("{word} {}", address.display()), advice)
}

/// What the descriptors of a process are.
fn held(dir: &Path) -> io::Result<Vec<String>> {
    let links = fs::read_dir(dir)?.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    Ok(links.map(|link| link.display().to_string()).collect())
}

/// The inodes of the sockets that listen at `address`, of the lines of `/proc/net/unix`:
/// `slot: references protocol flags type state inode path`.
fn listening<'t>(table: &'t str, address: &'t Path) -> impl Iterator<Item = &'t str> {
    table.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        let flags = u32::from_str_radix(words.nth(3)?, 16).ok()?;
        let inode = words.nth(2)?;
        let path = words.next()?;
        (flags & LISTENS != 0 && Path::new(path) == address).then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::tests::write;

    /// A `/proc` in which process 1 is `init` and has these descriptors.
    fn proc_of(init: &str, descriptors: &[&str]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir_all(proc.path().join("1/fd")).unwrap();
        fs::create_dir_all(proc.path().join("net")).unwrap();
        write(&proc.path().join("1/comm"), init);
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
             0000000000000000: 00000002 00000000 00010000 0001 01 111 /run/erolith/erolith.sock\n\
             0000000000000000: 00000003 00000000 00000000 0001 03 222 /run/erolith/erolith.sock\n\
             0000000000000000: 00000002 00000000 00010000 0001 01 333\n\
             0000000000000000: 00000002 00000000 00010000 0001 01 444 /run/other.sock\n";
        write(&proc.path().join("net/unix"), table);
        for (number, target) in descriptors.iter().enumerate() {
            let link = proc.path().join(format!("1/fd/{number}"));
            std::os::unix::fs::symlink(target, link).unwrap();
        }
        proc
    }

    #[test]
    fn the_one_that_listens_is_looked_for_among_those_of_systemd() {
        let address = Path::new("/run/erolith/erolith.sock");
        for (init, descriptors, state) in [
            ("systemd\n", &["/dev/null", "socket:[111]"][..], "ok"),
            ("systemd\n", &["socket:[222]", "socket:[333]", "socket:[444]"], "missing"),
            ("systemd\n", &[], "missing"),
            ("bash\n", &["socket:[111]"], "untried"),
        ] {
            let proc = proc_of(init, descriptors);
            assert_eq!(held_by(proc.path(), "1", address).state, state, "{init} {descriptors:?}");
        }
    }

    #[test]
    fn the_kernel_s_own_table_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("sock");
        let socket = std::os::unix::net::UnixListener::bind(&address).unwrap();
        let table = fs::read_to_string("/proc/net/unix").unwrap();
        let inodes: Vec<_> = listening(&table, &address).collect();
        assert_eq!(inodes.len(), 1);
        let held = held(Path::new("/proc/self/fd")).unwrap();
        assert!(held.contains(&format!("socket:[{}]", inodes[0])), "{held:?}");
        drop(socket);
    }
}
