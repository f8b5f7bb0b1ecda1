//! What compressed blobs were found to contain, so that the same blob need not be read again.

use rusqlite::{OptionalExtension, params};

use super::rows::{integer, unsigned};
use super::{Store, sql};

/// How many blobs are remembered. The oldest are forgotten, so that a node that pulls for years does not grow.
const REMEMBERED: i64 = 1 << 16;

impl Store {
    /// Remembers that the blob with digest `blob`, of `size` bytes, contains the layer `diff_id`. A power cut may take that:
    /// the blob is read again then.
    ///
    /// # Errors
    /// Those of the database.
    pub fn remember_blob(&self, blob: &str, diff_id: &str, size: u64) -> crate::Result<()> {
        self.remember_within(blob, diff_id, size, REMEMBERED)
    }

    /// As [`Self::remember_blob`], keeping the last `limit` blobs.
    pub(super) fn remember_within(
        &self,
        blob: &str,
        diff_id: &str,
        size: u64,
        limit: i64,
    ) -> crate::Result<()> {
        self.write_lazily(|tx| {
            let keep = || {
                tx.prepare_cached(sql::PUT_BLOB)?.execute(params![blob, diff_id, integer(size)])?;
                tx.prepare_cached(sql::CUT_BLOBS)?.execute([limit])
            };
            keep().map_err(super::Error::from)?;
            Ok(())
        })
    }

    /// The diffID and the size of a blob that was remembered.
    ///
    /// # Errors
    /// Those of the database.
    pub fn diff_id_of(&self, blob: &str) -> crate::Result<Option<(String, u64)>> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(sql::BLOB)?;
            Ok(statement
                .query_row([blob], |row| Ok((row.get(0)?, unsigned(row, 1)?)))
                .optional()?)
        })
    }
}
