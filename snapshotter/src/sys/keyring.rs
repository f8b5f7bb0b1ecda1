//! Keys that the kernel takes from the thread that makes a request (`add_key(2)`, `keyctl(2)`).
//!
//! No maintained crate has these calls without bringing a parser of command lines along; they are two.

use std::ffi::CString;

use rustix::io::Errno;

/// `KEY_SPEC_THREAD_KEYRING`: where only calls of this thread look, and which ends with it.
const THREAD_KEYRING: libc::c_long = -1;
/// `KEYCTL_UNLINK`.
const UNLINK: libc::c_long = 9;

/// A key of the type "user", which only this thread finds, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Key(libc::c_long);

impl Key {
    /// Keeps `payload` under the name `description`.
    ///
    /// # Errors
    /// The kernel's answer; EDQUOT when root has too many keys.
    pub(crate) fn of_thread(description: &str, payload: &[u8]) -> Result<Self, Errno> {
        let description = CString::new(description).map_err(|_| Errno::INVAL)?;
        // SAFETY: two strings that end with NUL, and `payload.len()` bytes, which the kernel copies.
        let serial = unsafe {
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                description.as_ptr(),
                payload.as_ptr(),
                payload.len(),
                THREAD_KEYRING,
            )
        };
        if serial < 0 { Err(last_error()) } else { Ok(Self(serial)) }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // Numbers only. One that stays ends with its thread.
        // SAFETY: no memory is passed.
        unsafe { libc::syscall(libc::SYS_keyctl, UNLINK, self.0, THREAD_KEYRING) };
    }
}

fn last_error() -> Errno {
    let errno = std::io::Error::last_os_error();
    Errno::from_io_error(&errno).unwrap_or(Errno::IO)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `KEYCTL_RESTRICT_KEYRING`.
    const RESTRICT: libc::c_long = 29;

    /// Puts an X.509 certificate into the keyring with this number, which takes no other from then on.
    pub(crate) fn add_certificate(ring: i64, der: &[u8]) -> Result<(), Errno> {
        // SAFETY: two strings that end with NUL, and `der.len()` bytes, which the kernel copies.
        let key = unsafe {
            let (kind, name) = (c"asymmetric".as_ptr(), c"".as_ptr());
            libc::syscall(libc::SYS_add_key, kind, name, der.as_ptr(), der.len(), ring)
        };
        if key < 0 {
            return Err(last_error());
        }
        // SAFETY: no memory is passed.
        let done = unsafe { libc::syscall(libc::SYS_keyctl, RESTRICT, ring, 0, 0) };
        if done < 0 { Err(last_error()) } else { Ok(()) }
    }

    /// `KEYCTL_SEARCH` in this thread's keyring.
    fn find(description: &str) -> Result<libc::c_long, Errno> {
        let description = CString::new(description).unwrap();
        // SAFETY: two strings that end with NUL.
        let serial = unsafe {
            let kind = c"user".as_ptr();
            libc::syscall(libc::SYS_keyctl, 10, THREAD_KEYRING, kind, description.as_ptr(), 0)
        };
        if serial < 0 { Err(last_error()) } else { Ok(serial) }
    }

    #[test]
    fn a_key_is_there_as_long_as_it_lives_and_for_this_thread_only() {
        let name = "erolith:test";
        let key = match Key::of_thread(name, b"payload") {
            Err(Errno::NOSYS) => return println!("skipped: this kernel has no keys"),
            key => key.unwrap(),
        };
        assert_eq!(find(name), Ok(key.0));
        std::thread::spawn(move || assert!(find(name).is_err())).join().unwrap();
        drop(key);
        assert_eq!(find(name), Err(Errno::NOKEY));
        assert_eq!(Key::of_thread("a\0b", b"").unwrap_err(), Errno::INVAL);
    }
}
