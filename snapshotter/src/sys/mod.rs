//! System calls and ioctls that no safe crate offers. Each wrapper is as small as it can be, says why it is
//! sound, and has a test that fails when a number or a layout is wrong.
#![allow(unsafe_code)]

pub(crate) mod dm;
pub(crate) mod fs_verity;
pub(crate) mod idmap;
pub(crate) mod keyring;
pub(crate) mod loopdev;
pub(crate) mod namespace;
pub(crate) mod project;
pub(crate) mod quota;
pub(crate) mod userns;
