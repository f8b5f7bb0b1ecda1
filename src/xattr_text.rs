//! What extended attributes say, for people: access control lists, file capabilities, and text.

use std::fmt::Write as _;

use erolith_mkfs::interpreted::acl_text;
use erolith_mkfs::meta::Xattr;

use crate::json;
use crate::term;

/// Names of capabilities by number (`linux/capability.h`).
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// The value of an attribute: decoded where its form is known, quoted where it is text, else hexadecimal.
pub(crate) fn value(xattr: &Xattr) -> String {
    decoded(xattr).unwrap_or_else(|| plain(&xattr.value))
}

/// The decoded value; `None` when the form is not known or the value does not have it.
pub(crate) fn decoded(xattr: &Xattr) -> Option<String> {
    match xattr.name.as_slice() {
        b"system.posix_acl_access" | b"system.posix_acl_default" => acl_text(&xattr.value),
        b"security.capability" => capability(&xattr.value),
        _ => None,
    }
}

/// As `getfattr` shows it. Attributes that are strings often count their NUL.
fn plain(value: &[u8]) -> String {
    let body = value.strip_suffix(b"\0").unwrap_or(value);
    match std::str::from_utf8(body) {
        Ok(body) if !body.contains(term::is_harmful) => {
            let end = if body.len() < value.len() { "\\000" } else { "" };
            format!("\"{}{end}\"", body.replace('\\', "\\\\").replace('"', "\\\""))
        }
        _ => format!("0x{}", json::hex(value)),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// The text form of `cap_to_text(3)` for what a file can carry: one effective bit for all, and two sets.
fn capability(value: &[u8]) -> Option<String> {
    const EFFECTIVE: u32 = 1;
    let magic = u32_at(value, 0)?;
    let (words, root) = match (magic >> 24, value.len()) {
        (1, 12) => (1, None),
        (2, 20) => (2, None),
        (3, 24) => (2, Some(u32_at(value, 20)?)),
        _ => return None,
    };
    let mut sets = [0u64; 2];
    for word in 0..words {
        for (i, set) in sets.iter_mut().enumerate() {
            *set |= u64::from(u32_at(value, 4 + word * 8 + i * 4)?) << (32 * word);
        }
    }
    let [permitted, inheritable] = sets;
    let mut out = String::new();
    for (flags, set) in [
        ("ip", permitted & inheritable),
        ("p", permitted & !inheritable),
        ("i", inheritable & !permitted),
    ] {
        if set == 0 {
            continue;
        }
        let names: Vec<String> = (0..64usize)
            .filter(|bit| set & (1 << bit) != 0)
            .map(|bit| match CAPABILITIES.get(bit) {
                Some(name) => format!("cap_{name}"),
                None => bit.to_string(),
            })
            .collect();
        let space = if out.is_empty() { "" } else { " " };
        let effective = if magic & EFFECTIVE == 0 { "" } else { "e" };
        let _ = write!(out, "{space}{}={effective}{flags}", names.join(","));
    }
    if let Some(root) = root {
        let _ = write!(out, " [rootid={root}]");
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &[u8], bytes: &[u8]) -> String {
        value(&Xattr { name: name.to_vec(), value: bytes.to_vec() })
    }

    #[test]
    fn lists_capabilities_and_text_are_decoded() {
        let acl: [&[u8]; 6] = [
            &[2, 0, 0, 0],
            &[1, 0, 7, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 232, 3, 0, 0],
            &[4, 0, 5, 0, 255, 255, 255, 255],
            &[16, 0, 5, 0, 255, 255, 255, 255],
            &[32, 0, 0, 0, 255, 255, 255, 255],
        ];
        let acl = acl.concat();
        let want = "user::rwx,user:1000:r--,group::r-x,mask::r-x,other::---";
        assert_eq!(shown(b"system.posix_acl_access", &acl), want);
        assert!(shown(b"system.posix_acl_access", &acl[..10]).starts_with("0x"));

        let mut raw = vec![1, 0, 0, 2, 0, 0x20, 0, 0];
        raw.resize(20, 0);
        assert_eq!(shown(b"security.capability", &raw), "cap_net_raw=ep");
        raw[3] = 3;
        raw.extend([0xe8, 3, 0, 0]);
        assert_eq!(shown(b"security.capability", &raw), "cap_net_raw=ep [rootid=1000]");
        raw.pop();
        assert!(shown(b"security.capability", &raw).starts_with("0x0100"));

        assert_eq!(shown(b"user.a", b"say \"hi\""), "\"say \\\"hi\\\"\"");
        assert_eq!(shown(b"security.selinux", b"ctx\0"), "\"ctx\\000\"");
        assert_eq!(shown(b"user.a", b"\x1b[2J"), "0x1b5b324a");
    }
}
