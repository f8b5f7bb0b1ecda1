//! The file beside an image that says how to open its device, in the form of containerd: `layer.erofs.dmverity`, which
//! holds `{"roothash":"<hex>","hashoffset":N}`.

use serde_json::Value;

use super::error::Error;
use super::{RootHash, Verity};

/// What is appended to the name of an image.
pub const SUFFIX: &str = ".dmverity";
/// Most bytes of such a file.
pub const LIMIT: u64 = 4096;

/// What the file says. Everything else is in the superblock of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sidecar {
    /// The root hash.
    pub root: RootHash,
    /// Where the superblock of the tree is, in bytes.
    pub hash_offset: u64,
}

impl From<&Verity> for Sidecar {
    fn from(verity: &Verity) -> Self {
        Self { root: verity.root, hash_offset: verity.hash_offset }
    }
}

impl Sidecar {
    /// The content of the file.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let Self { root, hash_offset } = self;
        format!(r#"{{"roothash":"{root}","hashoffset":{hash_offset}}}"#).into_bytes()
    }

    /// Understands the file. Members that are not known here do not matter.
    ///
    /// # Errors
    /// [`Error::Sidecar`], [`Error::BadRoot`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let bad = |why| Error::Sidecar { why };
        let value: Value = serde_json::from_slice(bytes).map_err(|_| bad("it is no JSON"))?;
        let root = value.get("roothash").and_then(Value::as_str);
        let root = root.ok_or(bad("it has no text \"roothash\""))?.parse()?;
        let hash_offset = value.get("hashoffset").and_then(Value::as_u64);
        let hash_offset = hash_offset.ok_or(bad("it has no number \"hashoffset\""))?;
        Ok(Self { root, hash_offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_containerd() {
        let sidecar = Sidecar { root: RootHash([0xAB; 32]), hash_offset: 8192 };
        let digits = "ab".repeat(32);
        let text = format!(r#"{{"roothash":"{digits}","hashoffset":8192}}"#);
        assert_eq!(sidecar.to_bytes(), text.as_bytes());
        for same in [
            text.clone(),
            format!(
                "{{\n \"hashoffset\": 8192, \"roothash\": \"sha256:{digits}\", \"x\": null\n}}\n"
            ),
        ] {
            assert_eq!(Sidecar::parse(same.as_bytes()).unwrap(), sidecar);
        }
        for bad in
            ["", "[]", "{}", r#"{"roothash":"ab","hashoffset":8192}"#, &text.replace("8192", "-1")]
        {
            assert!(Sidecar::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
