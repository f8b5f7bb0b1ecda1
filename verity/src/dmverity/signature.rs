//! Signatures of root hashes.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most bytes of one: what a key of the kernel's type "user" holds (`security/keys/user_defined.c`).
const LIMIT: usize = 32_767;
/// What DER begins with here: a sequence.
const SEQUENCE: u8 = 0x30;

/// A detached PKCS #7 signature, in DER, of the hexadecimal digits of a root hash, as `veritysetup` takes one by
/// `--root-hash-signature`. The kernel alone verifies it, by the certificates that it trusts.
///
/// ```sh
/// openssl smime -sign -nocerts -noattr -binary -inkey key.pem -signer cert.pem -outform der
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Signature(Vec<u8>);

impl Signature {
    /// Takes one for what it says it is; `None` for what cannot be one.
    #[must_use]
    pub fn from_der(bytes: Vec<u8>) -> Option<Self> {
        let may_be = bytes.first() == Some(&SEQUENCE) && bytes.len() <= LIMIT;
        may_be.then_some(Self(bytes))
    }

    /// The same of base64, as annotations and sidecars have it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_der(STANDARD.decode(text).ok()?)
    }

    /// DER.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_one_is_refused() {
        let good = Signature::from_der(vec![0x30, 0x03, 1, 2, 3]).unwrap();
        assert_eq!(Signature::parse(&good.to_string()), Some(good));
        for bad in [vec![], vec![0x31, 0], vec![0x30; LIMIT + 1]] {
            assert_eq!(Signature::from_der(bad), None);
        }
        assert_eq!(Signature::parse("MA"), None);
        assert!(Signature::from_der(vec![0x30; LIMIT]).is_some());
    }
}
