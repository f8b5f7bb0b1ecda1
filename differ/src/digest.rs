//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>` (image-spec, descriptor.md, "Registered
//! algorithms").

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// A registered digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Algorithm {
    /// SHA-256: what every registry uses.
    #[default]
    Sha256,
    /// SHA-512: optional in the specification, accepted on input.
    Sha512,
}

impl Algorithm {
    /// Its name in a digest, and the name of its directory under `blobs/`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hexadecimal part.
    fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A digest. Its hexadecimal part is always lower case and of the right length, so it is safe as a file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// What `text` spells, if that is a digest as the specification has it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, hex) = text.split_once(':')?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return None,
        };
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let is_digest = hex.len() == algorithm.hex_len() && hex.bytes().all(lower);
        is_digest.then(|| Self { algorithm, hex: hex.to_owned() })
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal part.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes a digest of bytes as they pass.
#[derive(Clone)]
pub struct Hasher(HasherState);

#[derive(Clone)]
enum HasherState {
    Sha256(Sha256),
    /// The same without SHA instructions.
    Sha256Vector(ring::digest::Context),
    Sha512(Sha512),
}

impl HasherState {
    fn sha256() -> Self {
        if has_sha_instructions() {
            Self::Sha256(Sha256::new())
        } else {
            Self::Sha256Vector(ring::digest::Context::new(&ring::digest::SHA256))
        }
    }
}

/// Whether `sha2` finds instructions to use. Elsewhere than on x86 it is assumed to.
fn has_sha_instructions() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("sha");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hasher").field(&self.algorithm()).finish()
    }
}

impl Hasher {
    /// Of no bytes yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => HasherState::sha256(),
            Algorithm::Sha512 => HasherState::Sha512(Sha512::new()),
        })
    }

    /// Which digest this will be.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            HasherState::Sha256(_) | HasherState::Sha256Vector(_) => Algorithm::Sha256,
            HasherState::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            HasherState::Sha256(h) => h.update(bytes),
            HasherState::Sha256Vector(h) => h.update(bytes),
            HasherState::Sha512(h) => h.update(bytes),
        }
    }

    /// The digest of all bytes added.
    #[must_use]
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        let hex = match self.0 {
            HasherState::Sha256(h) => hex(&h.finalize()),
            HasherState::Sha256Vector(h) => hex(h.finish().as_ref()),
            HasherState::Sha512(h) => hex(&h.finalize()),
        };
        Digest { algorithm, hex }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(if n < 10 { b'0' + n } else { b'a' + n - 10 });
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_implementations_of_sha256_agree() {
        let data: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let vector = HasherState::Sha256Vector(ring::digest::Context::new(&ring::digest::SHA256));
        let [mut a, mut b] = [Hasher(HasherState::Sha256(Sha256::new())), Hasher(vector)];
        for chunk in data.chunks(777) {
            a.update(chunk);
            b.update(chunk);
        }
        assert_eq!(a.finish(), b.finish());
    }

    #[test]
    fn d09_digest_spelling() {
        let sha256 = Digest::of(b"");
        assert_eq!(
            sha256.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let hex512 = "0123456789abcdef".repeat(8);
        assert!(format!("sha512:{hex512}").parse::<Digest>().is_ok());
        for bad in [
            sha256.to_string().to_uppercase(),
            format!("sha256:{}", sha256.hex().to_uppercase()),
            format!("sha256:{}", &sha256.hex()[1..]),
            format!("sha512:{}", sha256.hex()),
            format!("md5:{}", &sha256.hex()[..32]),
            format!("sha384:{}", &hex512[..96]),
            "sha256:../../../../etc/passwd".to_owned(),
            "sha256:".to_owned(),
            sha256.hex().to_owned(),
            String::new(),
        ] {
            let error = bad.parse::<Digest>().expect_err(&bad);
            assert_eq!(error.code(), "digest-invalid", "{bad}");
        }
    }
}
