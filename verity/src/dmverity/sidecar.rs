//! The file beside an image that says how to open its device, in the form of containerd: `layer.erofs.dmverity`, which
//! holds `{"roothash":"<hex>","hashoffset":N}`. Where the root hash is signed there is a third member, which containerd
//! passes over: `"signature":"<base64>"`.

use serde_json::Value;

use super::error::Error;
use super::{DmVerityTree, RootHash, Signature};

/// What is appended to the name of an image.
pub const SUFFIX: &str = ".dmverity";
/// Most bytes of such a file: the longest signature in base64, and the rest.
pub const LIMIT: u64 = 48 << 10;

/// What the file says. Everything else is in the superblock of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sidecar {
    /// The root hash.
    pub root: RootHash,
    /// Where the superblock of the tree is, in bytes.
    pub hash_offset: u64,
}

impl From<&DmVerityTree> for Sidecar {
    fn from(verity: &DmVerityTree) -> Self {
        Self { root: verity.root, hash_offset: verity.hash_offset }
    }
}

impl Sidecar {
    /// The content of the file.
    #[must_use]
    pub fn to_bytes(self, signature: Option<&Signature>) -> Vec<u8> {
        let Self { root, hash_offset } = self;
        let signed = signature.map(|signature| format!(r#","signature":"{signature}""#));
        let signed = signed.unwrap_or_default();
        format!(r#"{{"roothash":"{root}","hashoffset":{hash_offset}{signed}}}"#).into_bytes()
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

/// The signature that the file holds, if it does.
///
/// # Errors
/// [`Error::Sidecar`].
pub fn signature(bytes: &[u8]) -> Result<Option<Signature>, Error> {
    let bad = |why| Error::Sidecar { why };
    let value: Value = serde_json::from_slice(bytes).map_err(|_| bad("it is no JSON"))?;
    let Some(text) = value.get("signature") else { return Ok(None) };
    let signature = text.as_str().and_then(Signature::parse);
    signature.map(Some).ok_or(bad("its \"signature\" is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_containerd() {
        let sidecar = Sidecar { root: RootHash([0xAB; 32]), hash_offset: 8192 };
        let digits = "ab".repeat(32);
        let text = format!(r#"{{"roothash":"{digits}","hashoffset":8192}}"#);
        assert_eq!(sidecar.to_bytes(None), text.as_bytes());
        assert_eq!(signature(text.as_bytes()).unwrap(), None);
        let signed = Signature::from_der(vec![0x30, 0]);
        let bytes = sidecar.to_bytes(signed.as_ref());
        assert_eq!(Sidecar::parse(&bytes).unwrap(), sidecar);
        assert_eq!(signature(&bytes).unwrap(), signed);
        for bad in [r#"{"signature":""}"#, r#"{"signature":1}"#, "x"] {
            assert!(signature(bad.as_bytes()).is_err(), "{bad}");
        }
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
