//! Owners of a container in a user namespace: what it calls 0 is another number on disk.

use super::Range;
use crate::Error;
use erolith_mkfs::interpreted::{
    ACL_ACCESS, ACL_DEFAULT, ACL_ENTRY, ACL_GROUP, ACL_HEADER, ACL_USER, CAPABILITY, CAPABILITY_3,
};
use erolith_mkfs::meta::{Meta, Xattr};
use erolith_mkfs::names::shown;

/// The maps of a container. Without ranges, ids are the same inside and outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// Of users.
    pub users: Vec<Range>,
    /// Of groups.
    pub groups: Vec<Range>,
}

/// Revisions of capabilities without and with the root user they are for, as the top byte of their first word.
const CAP_2: u8 = 2;
const CAP_3: u8 = 3;

impl Owners {
    fn inside(ranges: &[Range], id: u32, path: &[u8]) -> Result<u32, Error> {
        if ranges.is_empty() {
            return Ok(id);
        }
        let within = |range: &Range| {
            let offset = id.checked_sub(range.host).filter(|&offset| offset < range.len)?;
            range.container.checked_add(offset)
        };
        // The path of the root is empty, and with a wrong map the root is the first to fail.
        let name = if path.is_empty() { b"/" } else { path };
        ranges.iter().find_map(within).ok_or_else(|| Error::Owner { what: shown(name), id })
    }

    /// As the container sees the attributes of the file `path`.
    pub(super) fn meta(&self, meta: Meta, path: &[u8]) -> Result<Meta, Error> {
        let uid = Self::inside(&self.users, meta.uid, path)?;
        let gid = Self::inside(&self.groups, meta.gid, path)?;
        Ok(Meta { uid, gid, ..meta })
    }

    /// As the container sees an extended attribute of the file `path`.
    pub(super) fn xattr(&self, xattr: &Xattr, path: &[u8]) -> Result<Xattr, Error> {
        let mut xattr = xattr.clone();
        match xattr.name.as_slice() {
            _ if *self == Self::default() => {}
            ACL_ACCESS | ACL_DEFAULT => {
                self.access_list(&mut xattr.value, path)?;
            }
            CAPABILITY => self.capability(&mut xattr.value, path)?,
            _ => {}
        }
        Ok(xattr)
    }

    fn access_list(&self, value: &mut [u8], path: &[u8]) -> Result<(), Error> {
        let entries = value.get_mut(ACL_HEADER..).unwrap_or_default();
        for entry in entries.chunks_exact_mut(ACL_ENTRY) {
            let &mut [low, high, _, _, a, b, c, d] = entry else { continue };
            let ranges = match u16::from_le_bytes([low, high]) {
                ACL_USER => &self.users,
                ACL_GROUP => &self.groups,
                _ => continue,
            };
            let id = Self::inside(ranges, u32::from_le_bytes([a, b, c, d]), path)?;
            entry.get_mut(4..).unwrap_or_default().copy_from_slice(&id.to_le_bytes());
        }
        Ok(())
    }

    /// A capability for the root user of the container is one for root, inside.
    fn capability(&self, value: &mut Vec<u8>, path: &[u8]) -> Result<(), Error> {
        let &[_, _, _, CAP_3, .., a, b, c, d] = value.as_slice() else { return Ok(()) };
        if value.len() != CAPABILITY_3.0 {
            return Ok(());
        }
        let id = Self::inside(&self.users, u32::from_le_bytes([a, b, c, d]), path)?;
        value.truncate(CAPABILITY_3.0 - 4);
        if id == 0 {
            value.get_mut(3..4).unwrap_or_default().fill(CAP_2);
        } else {
            value.extend_from_slice(&id.to_le_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners() -> Owners {
        let range = |container, host, len| Range { container, host, len };
        Owners {
            users: vec![range(0, 100_000, 1000), range(1000, 5, 1)],
            groups: vec![range(0, 200_000, 1000)],
        }
    }

    #[test]
    fn ids_are_those_of_the_container() {
        let meta = |uid, gid| Meta { uid, gid, ..Meta::default() };
        let owners = owners();
        assert_eq!(owners.meta(meta(100_999, 200_007), b"f").unwrap(), meta(999, 7));
        assert_eq!(owners.meta(meta(5, 200_000), b"f").unwrap(), meta(1000, 0));
        for (uid, gid) in [(101_000, 200_000), (0, 200_000), (100_000, 100_000)] {
            let error = owners.meta(meta(uid, gid), b"f").unwrap_err();
            assert_eq!(error.code(), "owner-unmapped");
        }
        let error = owners.meta(meta(0, 200_000), b"").unwrap_err().to_string();
        assert!(error.starts_with("/: owner or group 0 "), "{error}");
        let same = meta(77, u32::MAX);
        assert_eq!(Owners::default().meta(same, b"f").unwrap(), same);
    }

    #[test]
    fn ids_in_attributes_are_those_of_the_container() {
        let xattr = |name: &str, value: Vec<u8>| Xattr { name: name.into(), value };
        let acl = |user: u32| {
            let mut acl = vec![2, 0, 0, 0];
            for (tag, id) in [(1u16, u32::MAX), (ACL_USER, user), (ACL_GROUP, user)] {
                acl.extend(tag.to_le_bytes());
                acl.extend([6, 0]);
                let id = if tag == ACL_GROUP && id > 50_000 { id + 100_000 } else { id };
                acl.extend(id.to_le_bytes());
            }
            acl
        };
        let capability = |revision: u8, root: Option<u32>| {
            let mut value = vec![1, 0, 0, revision];
            value.extend([0x20; 16]);
            value.extend(root.into_iter().flat_map(u32::to_le_bytes));
            value
        };
        for (name, host, inside) in [
            ("system.posix_acl_access", acl(100_033), acl(33)),
            ("security.capability", capability(3, Some(100_000)), capability(2, None)),
            ("security.capability", capability(3, Some(100_001)), capability(3, Some(1))),
            ("security.capability", capability(2, None), capability(2, None)),
            ("user.other", acl(100_033), acl(100_033)),
        ] {
            let got = owners().xattr(&xattr(name, host.clone()), b"f").unwrap();
            assert_eq!(got, xattr(name, inside), "{name}");
            let same = Owners::default().xattr(&xattr(name, host.clone()), b"f").unwrap();
            assert_eq!(same, xattr(name, host), "{name}");
        }
    }
}
