//! Every statement that runs more than once. All but those of lists and cleanup find their rows by an index.

/// Parameters: how many. Gives the end of the reserved range.
pub(super) const RESERVE: &str = "UPDATE ids SET next = next + ?1 RETURNING next";

/// Parameters: key.
pub(super) const FIND: &str = "
SELECT s.id, s.kind, s.parent, p.key, s.created, s.updated, s.size, s.inodes
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent
WHERE s.key = ?1";

/// Parameters: id.
pub(super) const KIND_OF: &str = "SELECT kind FROM snapshots WHERE id = ?1";

/// Parameters: id.
pub(super) const PARENT_OF: &str = "SELECT parent FROM snapshots WHERE id = ?1";

/// Parameters: id. The oldest child.
pub(super) const CHILD_OF: &str = "SELECT key FROM snapshots WHERE parent = ?1 ORDER BY id LIMIT 1";

/// Parameters: id.
pub(super) const LABELS_OF: &str = "SELECT key, value FROM labels WHERE snapshot = ?1";

/// Parameters: id, key, parent, kind, time.
pub(super) const INSERT: &str = "
INSERT INTO snapshots (id, key, parent, kind, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?5)";

/// Parameters: id, key, parent, kind, time, size, inodes.
pub(super) const COMMIT: &str = "
UPDATE snapshots SET key = ?2, parent = ?3, kind = ?4, created = ?5, updated = ?5, size = ?6, inodes = ?7
WHERE id = ?1";

/// Parameters: id. As [`FIND`], with the key behind.
pub(super) const ENTRY: &str = "
SELECT s.id, s.kind, s.parent, p.key, s.created, s.updated, s.size, s.inodes, s.key
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent
WHERE s.id = ?1";

/// Parameters: id.
pub(super) const DAMAGE_OF: &str = "SELECT reason FROM quarantine WHERE snapshot = ?1";

/// Parameters: id, key, parent, kind, created, updated, size, inodes.
pub(super) const PUT_ENTRY: &str = "
INSERT INTO snapshots (id, key, parent, kind, created, updated, size, inodes)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

/// Parameters: id, time. Gives the time kept, which is never before the snapshot was made.
pub(super) const TOUCH: &str =
    "UPDATE snapshots SET updated = max(created, ?2) WHERE id = ?1 RETURNING updated";

/// Parameters: id. The labels go with it.
pub(super) const DELETE: &str = "DELETE FROM snapshots WHERE id = ?1";

/// Parameters: id.
pub(super) const DROP_LABELS: &str = "DELETE FROM labels WHERE snapshot = ?1";

/// Parameters: id, key, value.
pub(super) const PUT_LABEL: &str = "INSERT INTO labels (snapshot, key, value) VALUES (?1, ?2, ?3)";

/// Parameters: digest, diffID, size. What was known of the digest is forgotten.
pub(super) const PUT_BLOB: &str =
    "INSERT OR REPLACE INTO blobs (digest, diff_id, size) VALUES (?1, ?2, ?3)";

/// Parameters: how many to keep. The oldest go.
pub(super) const CUT_BLOBS: &str =
    "DELETE FROM blobs WHERE seq <= (SELECT max(seq) FROM blobs) - ?1";

/// Parameters: digest.
pub(super) const BLOB: &str = "SELECT diff_id, size FROM blobs WHERE digest = ?1";

/// Parameters: id, digest, whether the kernel holds the image against it.
pub(super) const PUT_SEAL: &str =
    "INSERT OR REPLACE INTO seals (snapshot, digest, enforced) VALUES (?1, ?2, ?3)";

/// Parameters: id.
pub(super) const SEAL: &str = "SELECT digest, enforced FROM seals WHERE snapshot = ?1";

/// Parameters: id, root hash, where the tree begins.
pub(super) const PUT_TREE: &str =
    "INSERT OR REPLACE INTO trees (snapshot, root, hash_offset) VALUES (?1, ?2, ?3)";

/// Parameters: id.
pub(super) const TREE: &str = "SELECT root, hash_offset FROM trees WHERE snapshot = ?1";

/// Parameters: id.
pub(super) const DROP_TREE: &str = "DELETE FROM trees WHERE snapshot = ?1";

/// Parameters: id, reason. What was found first stays.
pub(super) const PUT_DAMAGED: &str =
    "INSERT INTO quarantine (snapshot, reason) VALUES (?1, ?2) ON CONFLICT DO NOTHING";

/// Parameters: id.
pub(super) const DROP_DAMAGED: &str = "DELETE FROM quarantine WHERE snapshot = ?1";

/// Parameters: id, diffID, origin. Nothing for a snapshot that is not there.
pub(super) const PUT_ORIGIN: &str = "
INSERT OR REPLACE INTO origins (snapshot, diff_id, origin)
SELECT id, ?2, ?3 FROM snapshots WHERE id = ?1";

/// Parameters: id.
pub(super) const ORIGIN: &str = "SELECT origin FROM origins WHERE snapshot = ?1";

/// Parameters: id. The layers with the same digest.
pub(super) const SAME_DIGEST: &str = "
SELECT o.snapshot FROM seals m JOIN seals o ON o.digest = m.digest WHERE m.snapshot = ?1";

/// Parameters: id. The layers with the same diffID.
pub(super) const SAME_DIFF_ID: &str = "
SELECT o.snapshot FROM origins m JOIN origins o ON o.diff_id = m.diff_id WHERE m.snapshot = ?1";

/// Parameters: id.
pub(super) const KEY_OF: &str = "SELECT key FROM snapshots WHERE id = ?1";

/// Parameters: chain. The newest first.
pub(super) const WITH_REF: &str = "
SELECT s.id, s.key, s.kind FROM labels l JOIN snapshots s ON s.id = l.snapshot
WHERE l.key = 'containerd.io/snapshot.ref' AND l.value = ?1 ORDER BY l.snapshot DESC";

/// Parameters: diffID. The newest first.
pub(super) const WITH_DIFF_ID: &str = "
SELECT s.id, s.key, s.kind FROM labels l JOIN snapshots s ON s.id = l.snapshot
WHERE l.key = 'containerd.io/snapshot/diff-id' AND l.value = ?1 ORDER BY l.snapshot DESC";

/// The statements above, which must cost the same however many snapshots there are.
#[cfg(test)]
pub(super) const QUICK: &[&str] = &[
    FIND,
    KIND_OF,
    PARENT_OF,
    CHILD_OF,
    LABELS_OF,
    INSERT,
    COMMIT,
    TOUCH,
    DELETE,
    DROP_LABELS,
    PUT_LABEL,
    PUT_BLOB,
    CUT_BLOBS,
    BLOB,
    PUT_SEAL,
    SEAL,
    PUT_TREE,
    TREE,
    DROP_TREE,
    ENTRY,
    DAMAGE_OF,
    PUT_ENTRY,
    PUT_DAMAGED,
    DROP_DAMAGED,
    PUT_ORIGIN,
    ORIGIN,
    SAME_DIGEST,
    SAME_DIFF_ID,
    KEY_OF,
    WITH_REF,
    WITH_DIFF_ID,
];

/// All layers that are damaged, which most of the time are none.
pub(super) const DAMAGED: &str = "SELECT snapshot, reason FROM quarantine";

/// Parameters: digest. The damaged layers that had it.
pub(super) const DAMAGED_WITH: &str = "
SELECT q.snapshot FROM quarantine q JOIN seals s ON s.snapshot = q.snapshot
WHERE s.digest = ?1 ORDER BY q.snapshot";

/// All snapshots, oldest first.
pub(super) const LIST: &str = "
SELECT s.id, s.kind, s.parent, p.key, s.created, s.updated, s.size, s.inodes, s.key
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent
ORDER BY s.id";

/// All labels, in the order of [`LIST`].
pub(super) const LIST_LABELS: &str =
    "SELECT snapshot, key, value FROM labels ORDER BY snapshot, key";

/// All ids.
pub(super) const IDS: &str = "SELECT id FROM snapshots ORDER BY id";

/// Parameters: the kind of layers. Everything below what is not a layer. UNION ends the walk even in a circle.
pub(super) const LOWERS: &str = "
WITH RECURSIVE used (id) AS (
    SELECT parent FROM snapshots WHERE kind <> ?1 AND parent IS NOT NULL
    UNION
    SELECT s.parent FROM used JOIN snapshots s ON s.id = used.id WHERE s.parent IS NOT NULL
)
SELECT id FROM used";
