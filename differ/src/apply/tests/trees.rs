//! Images with hash trees, and their sidecars.

use erolith_mkfs::protect;
use erolith_verity::dmverity::sidecar::{self, Sidecar};
use erolith_verity::dmverity::{self, DmVerityTree, RootHash, Signature};

use super::*;

impl Dir {
    /// The tree that the sidecar tells of, compared with the image.
    fn verified(&self) -> Option<DmVerityTree> {
        let bytes = fs::read(self.0.path().join("layer.erofs.dmverity")).ok()?;
        let Sidecar { root, hash_offset } = Sidecar::parse(&bytes).unwrap();
        let file = File::open(self.image()).unwrap();
        let header = dmverity::verify(&file, hash_offset, root, &|| false).unwrap();
        Some(header.verity(root))
    }

    fn signature(&self) -> Option<Signature> {
        sidecar::signature(&fs::read(self.0.path().join("layer.erofs.dmverity")).unwrap()).unwrap()
    }

    fn sorted(&self) -> Vec<String> {
        let mut names = self.names();
        names.sort();
        names
    }
}

fn with_trees() -> Options {
    Options { dm_verity: true, ..Options::default() }
}

fn signature() -> Option<Signature> {
    Signature::from_der(b"0 signed".to_vec())
}

const BOTH: [&str; 2] = ["layer.erofs", "layer.erofs.dmverity"];

#[test]
fn a_converted_layer_gets_a_tree_and_a_sidecar() {
    let tar = archive(&[("etc/", 0o755), ("etc/hosts", 0o644)]);
    let (plain, dir) = (Dir::new(), Dir::new());
    plain.apply(OCI_LAYER, &tar, &Options::default()).unwrap();
    let applied = dir.apply(OCI_LAYER, &tar, &with_trees()).unwrap();
    assert_eq!(applied.verity, dir.verified());
    assert_eq!(dir.sorted(), BOTH);
    assert_eq!(applied.digest, Digest::of(&tar), "the diffID is the layer's, without the tree");
    let (with, without) = (fs::read(dir.image()).unwrap(), fs::read(plain.image()).unwrap());
    assert!(with.starts_with(&without));
    assert_eq!(applied.verity.unwrap().hash_offset, without.len() as u64);
    // Annotations of an archive apply to another image.
    let root = RootHash([1; 32]);
    let verity = Some(DmVerityTree { root, hash_offset: 4096, block_size: 4096 });
    let annotated = LayerSpec { verity, signature: signature(), ..layer(OCI_LAYER, &tar) };
    assert_eq!(dir.apply_as(&annotated, &tar, &with_trees()).unwrap().verity, applied.verity);
    assert_eq!(dir.signature(), None);
    // Without a tree, the sidecar of the image before goes.
    assert_eq!(dir.apply(OCI_LAYER, &tar, &Options::default()).unwrap().verity, None);
    assert_eq!(dir.names(), ["layer.erofs"]);
}

#[test]
fn native_layers_get_sidecars_from_promises_that_hold() {
    let (store, plain) = (Dir::new(), image());
    let blob = store.0.path().join("blob");
    write(&blob, &plain);
    let file = File::options().read(true).write(true).open(&blob).unwrap();
    let made = protect::append_tree(&file, &|| false).unwrap();
    let bytes = fs::read(&blob).unwrap();
    let zstd = zstd::encode_all(bytes.as_slice(), 1).unwrap();
    let promising =
        LayerSpec { verity: Some(made), signature: signature(), ..layer(EROFS_LAYER, &bytes) };
    // Whether trees are wanted or not; stored or streamed, packed or not.
    for options in [Options::default(), with_trees()] {
        for share in [Share::Link, Share::Never] {
            let (dir, options) = (Dir::new(), Options { share, ..options.clone() });
            let applied = dir.share(&blob, &promising, &options).unwrap();
            assert_eq!((applied.verity, dir.verified()), (Some(made), Some(made)));
            assert_eq!(dir.signature(), signature());
            assert_eq!(applied.how == ApplyMethod::Linked, share == Share::Link);
        }
        let dir = Dir::new();
        let packed = LayerSpec { verity: Some(made), ..layer(EROFS_LAYER_ZSTD, &zstd) };
        assert_eq!(dir.apply_as(&packed, &zstd, &options).unwrap().verity, Some(made));
        assert_eq!(fs::read(dir.image()).unwrap(), bytes);
        assert_eq!(dir.verified(), Some(made));
    }
    // A promise about another image.
    let lied =
        LayerSpec { verity: Some(DmVerityTree { root: RootHash([1; 32]), ..made }), ..promising };
    let sized =
        LayerSpec { verity: Some(DmVerityTree { block_size: 512, ..made }), ..lied.clone() };
    let missing = LayerSpec { verity: Some(made), ..layer(EROFS_LAYER, &plain) };
    let bare = store.0.path().join("bare");
    write(&bare, &plain);
    for (layer, blob, code) in [
        (&lied, &blob, "dmverity-root"),
        (&sized, &blob, "dmverity-super"),
        (&missing, &bare, "dmverity-no-tree"),
    ] {
        for share in [Share::Link, Share::Never] {
            let (dir, options) = (Dir::new(), Options { share, ..Options::default() });
            assert_eq!(dir.share(blob, layer, &options).unwrap_err().code(), code);
            assert_eq!(dir.names(), Vec::<String>::new());
        }
    }
}

#[test]
fn native_layers_without_a_tree_get_one_where_it_is_wanted() {
    let (store, plain) = (Dir::new(), image());
    let blob = store.0.path().join("blob");
    write(&blob, &plain);
    for share in [Share::Link, Share::Reflink, Share::Never] {
        let (dir, options) = (Dir::new(), Options { share, ..with_trees() });
        let applied = dir.share(&blob, &layer(EROFS_LAYER, &plain), &options).unwrap();
        assert_ne!(applied.how, ApplyMethod::Linked, "the blob stays what it is");
        assert_eq!(applied.verity, dir.verified());
        assert_eq!(dir.sorted(), BOTH);
        assert_eq!(fs::read(&blob).unwrap(), plain);
        assert_eq!(applied.digest, Digest::of(&plain));
        // Another has a tree that no annotation promises: it is verified, and taken.
        let bytes = fs::read(dir.image()).unwrap();
        let second = Dir::new();
        let again = second.apply(EROFS_LAYER, &bytes, &options).unwrap();
        assert_eq!((again.verity, second.verified()), (applied.verity, applied.verity));
        assert_eq!(fs::read(second.image()).unwrap(), bytes);
    }
}
