//! What protects the system from a worker.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What protects the rest of the system from a worker. The filter of system calls, the limits of resources, no new
/// privileges, no capabilities and no other descriptors are always there: without them no layer is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Whether the user is `nobody`. Not where the daemon is no root itself, or `nobody` is not mapped.
    pub nobody: bool,
    /// Whether all capabilities are gone from the bounding set too. That takes `CAP_SETPCAP`.
    pub bounding: bool,
    /// Network, IPC and UTS namespaces of its own. These take `CAP_SYS_ADMIN`, as the next does.
    pub namespaces: bool,
    /// A mount namespace with nothing in it.
    pub mounts: bool,
    /// Landlock: no file can be opened, no address connected to. Since Linux 5.13.
    pub landlock: bool,
}

impl Protection {
    fn parts(&self) -> [(&'static str, bool); 5] {
        let Self { nobody, bounding, namespaces, mounts, landlock } = *self;
        [
            ("user nobody", nobody),
            ("empty bounding set", bounding),
            ("own namespaces", namespaces),
            ("no mounts", mounts),
            ("Landlock", landlock),
        ]
    }

    /// Whether everything is in force.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.parts().iter().all(|(_, in_force)| *in_force)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seccomp, limits, no capabilities")?;
        for (name, _) in self.parts().iter().filter(|(_, in_force)| *in_force) {
            write!(f, ", {name}")?;
        }
        let missing = self.parts().into_iter().filter(|(_, in_force)| !in_force);
        for (n, (name, _)) in missing.enumerate() {
            write!(f, "{}{name}", if n == 0 { "; not in force: " } else { ", " })?;
        }
        Ok(())
    }
}
