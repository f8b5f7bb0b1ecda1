//! EROFS images as mounts.
