//! Layers with hash trees.

use std::io;

use erolith_verity::dmverity::{self, DmVerityTree, RootHash, Signature};

use super::*;
use crate::convert::Sign;

fn with_trees() -> Options {
    Options { dm_verity: true, ..Options::default() }
}

/// The annotations of the layers of the image called `new`.
fn annotations(layout: &OciLayout) -> Vec<serde_json::Map<String, Value>> {
    let layers = manifest(layout)["layers"].as_array().unwrap().clone();
    layers.iter().map(|layer| layer["annotations"].as_object().unwrap().clone()).collect()
}

fn verify(
    layout: &OciLayout,
    digest: &Digest,
    verity: &DmVerityTree,
) -> std::result::Result<(), dmverity::Error> {
    let blob = layout.open(digest).unwrap();
    dmverity::verify(&blob, verity.hash_offset, verity.root, &|| false).map(drop)
}

#[test]
fn trees_are_part_of_the_layers_and_said_in_annotations() {
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let (plain, _) = bench.run(&Options::default()).unwrap();
    let (report, layout) = bench.run(&with_trees()).unwrap();
    let said = annotations(&layout);
    for (i, layer) in report.images[0].layers.iter().enumerate() {
        let verity = layer.verity.unwrap();
        verify(&layout, &layer.digest, &verity).unwrap();
        assert_eq!(said[i]["org.erofs.dmverity.root_digest"], format!("sha256:{}", verity.root));
        assert_eq!(said[i]["org.erofs.dmverity.hash_offset"], verity.hash_offset.to_string());
        assert_eq!(said[i]["org.erofs.dmverity.block_size"], "4096");
        assert_eq!(verity.hash_offset, plain.images[0].layers[i].size, "behind the same image");
        assert_eq!(layer.digest, layer.diff_id);
        // Readers do not mind.
        open(&layout, &layer.digest);
    }
    // Once more: nothing is made, and the same is said.
    let (again, layout) = bench.run(&with_trees()).unwrap();
    assert_eq!(again.digest, report.digest);
    assert!(again.images[0].layers.iter().all(|layer| layer.reused));
    assert_eq!(annotations(&layout), said);
}

#[test]
fn digests_are_said_where_they_are_wanted_and_held_to_where_they_are_promised() {
    let key = "org.erofs.fsverity.digest";
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let wanted = Options { fs_verity: true, ..Options::default() };
    let (plain, layout) = bench.run(&Options::default()).unwrap();
    assert!(annotations(&layout).iter().all(|of| !of.contains_key(key)));
    let (report, layout) = bench.run(&wanted).unwrap();
    let said = annotations(&layout);
    for (i, layer) in report.images[0].layers.iter().enumerate() {
        let blob = layout.open(&layer.digest).unwrap();
        let digest = erolith_verity::fsverity::Digest::of(&blob, &mut |_| {}).unwrap();
        assert_eq!((layer.fsverity, &said[i][key]), (Some(digest), &digest.to_string().into()));
        assert_eq!(layer.digest, plain.images[0].layers[i].digest, "the bytes are the same");
    }
    // Compressed ones have the digest of what they become.
    let zstd = Options { output: Output::Zstd { level: 3, threads: 1 }, ..wanted.clone() };
    let (packed, _) = bench.run(&zstd).unwrap();
    let digests = |report: &Report| {
        report.images[0].layers.iter().map(|layer| layer.fsverity).collect::<Vec<_>>()
    };
    assert_eq!(digests(&packed), digests(&report));
    // With trees it covers those too; and once more the same is said without anything being made.
    let both = Options { dm_verity: true, ..wanted };
    let (trees, _) = bench.run(&both).unwrap();
    assert_ne!(digests(&trees), digests(&report));
    let (again, layout) = bench.run(&both).unwrap();
    assert_eq!(digests(&again), digests(&trees));
    assert!(again.images[0].layers.iter().all(|layer| layer.reused));
    assert!(annotations(&layout).iter().all(|of| of.contains_key(key)));
}

#[test]
fn native_layers_keep_their_trees_or_get_one() {
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let (raw, _) = bench.run(&Options::default()).unwrap();
    let (first, _) =
        bench.run_as("oci:source", "oci:trees:new", &Select::default(), &with_trees()).unwrap();
    let layers = |report: &Report| -> Vec<(Digest, Option<DmVerityTree>)> {
        report.images[0].layers.iter().map(|l| (l.diff_id.clone(), l.verity)).collect()
    };
    // With trees, whether asked for or not, packed or not.
    let zstd = Output::Zstd { level: 1, threads: 1 };
    for (from, output, dm_verity) in [
        ("oci:trees", Output::Raw, true),
        ("oci:trees", Output::Raw, false),
        ("oci:trees", zstd, false),
        ("oci:packed", Output::Raw, false),
        ("oci:packed", Output::Raw, true),
        ("oci:target", Output::Raw, true),
    ] {
        let options = Options { output, dm_verity, ..Options::default() };
        let to = if output == Output::Raw { "oci:again:new" } else { "oci:packed:new" };
        let (report, layout) = bench.run_as(from, to, &Select::default(), &options).unwrap();
        assert_eq!(layers(&report), layers(&first), "{from} {output:?} {dm_verity}");
        let said = annotations(&layout);
        assert!(said.iter().all(|of| of.contains_key("org.erofs.dmverity.root_digest")));
    }
    assert!(layers(&raw).iter().all(|(_, verity)| verity.is_none()));
}

#[derive(Debug)]
struct Signer(bool);

impl Sign for Signer {
    fn sign(&self, root: RootHash) -> io::Result<Signature> {
        let signature = Signature::from_der(format!("0{root}").into_bytes()).unwrap();
        self.0.then_some(signature).ok_or_else(|| io::Error::other("no key"))
    }
}

#[test]
fn root_hashes_are_signed_and_stay_so() {
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let with = |can| Options { signer: Some(Arc::new(Signer(can))), ..with_trees() };
    let sign = |from, to, options: &Options| {
        let (_, layout) = bench.run_as(from, to, &Select::default(), options)?;
        Ok(annotations(&layout))
    };
    let is_signed = |of: &serde_json::Map<String, Value>| {
        let root: RootHash =
            of["org.erofs.dmverity.root_digest"].as_str().unwrap().parse().unwrap();
        let signature = of.get("org.erofs.dmverity.signature").map(|text| text.as_str().unwrap());
        signature.and_then(Signature::parse) == Signer(true).sign(root).ok()
    };
    let refused = sign("oci:source", "oci:refused:new", &with(false));
    assert!(refused.is_err_and(|e: Error| erolith_errors::error_chain(&e).contains("no key")));
    // A second conversion needs no new signature: the trees are the same.
    for (from, to, options) in [
        ("oci:source", "oci:signed:new", with(true)),
        ("oci:signed", "oci:again:new", Options::default()),
        (
            "oci:again",
            "oci:packed:new",
            Options { output: Output::Zstd { level: 1, threads: 1 }, ..with_trees() },
        ),
    ] {
        let said = sign(from, to, &options).unwrap();
        assert!(said.iter().all(is_signed), "{from}: {said:?}");
    }
    let unsigned = sign("oci:source", "oci:unsigned:new", &with_trees()).unwrap();
    assert!(!unsigned.iter().any(|of| of.contains_key("org.erofs.dmverity.signature")));
}

#[test]
fn promises_that_do_not_hold_are_refused() {
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let (report, layout) = bench.run(&with_trees()).unwrap();
    let layer = &report.images[0].layers[0];
    let mut image = Vec::new();
    layout.open(&layer.digest).unwrap().reader().read_to_end(&mut image).unwrap();
    let verity = layer.verity.unwrap();
    let mut flipped = image.clone();
    // What no structure of the image covers.
    flipped[usize::try_from(verity.hash_offset).unwrap() - 1] ^= 1;
    let other = "sha256:".to_owned() + &"00".repeat(32);
    let root = format!("sha256:{}", verity.root);
    let offset = verity.hash_offset.to_string();
    let table = [
        (&image, root.as_str(), offset.as_str(), None),
        (&image, other.as_str(), offset.as_str(), Some("dmverity-root")),
        (&image, root.as_str(), "4096", Some("dmverity-no-tree")),
        (&image, root.as_str(), "many", Some("annotation-invalid")),
        (&flipped, root.as_str(), offset.as_str(), Some("dmverity-block")),
    ];
    for (image, root, offset, want) in table {
        let bench = Bench::new();
        let mut fixture = bench.fixture();
        fixture.layer(EROFS_LAYER, image);
        fixture.annotate_layer("org.erofs.dmverity.root_digest", root);
        fixture.annotate_layer("org.erofs.dmverity.hash_offset", offset);
        fixture.image("latest");
        let got = bench.run(&Options::default()).map(drop).map_err(crate::testing::code);
        assert_eq!(got.err(), want, "{root} {offset}");
    }
}

#[test]
fn a_digest_that_is_promised_and_not_there_is_refused() {
    let key = "org.erofs.fsverity.digest";
    let bench = Bench::new();
    two_layers(&bench).image("latest");
    let (report, layout) = bench.run(&Options { fs_verity: true, ..Options::default() }).unwrap();
    let layer = &report.images[0].layers[0];
    let mut image = Vec::new();
    layout.open(&layer.digest).unwrap().reader().read_to_end(&mut image).unwrap();
    let (digest, other) = (layer.fsverity.unwrap().to_string(), "00".repeat(32));
    for (promised, dm_verity, want) in [
        (digest.as_str(), false, None),
        (digest.as_str(), true, None),
        (&format!("sha256:{other}"), false, Some("fsverity-digest")),
        (&format!("sha256:{other}"), true, Some("fsverity-digest")),
        (&other, false, Some("annotation-invalid")),
    ] {
        let bench = Bench::new();
        let mut fixture = bench.fixture();
        fixture.layer(EROFS_LAYER, &image);
        fixture.annotate_layer(key, promised);
        fixture.image("latest");
        let run = bench.run(&Options { dm_verity, ..Options::default() });
        match (run, want) {
            (Ok((_, layout)), None) => {
                let said = annotations(&layout)[0][key].clone();
                assert_eq!(said == digest.as_str(), !dm_verity, "the tree is part of it");
            }
            (run, want) => assert_eq!(run.map(drop).map_err(crate::testing::code).err(), want),
        }
    }
}
