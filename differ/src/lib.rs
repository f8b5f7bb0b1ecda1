//! Layers in and out of EROFS: media types, digests, compression, the content store.
