//! Opening an image: from a location to verified documents and blobs that can be read.

use std::collections::BTreeSet;
use std::path::Path;

use super::archive::Archive;
use super::document::{
    CONFIG_LIMIT, Config, Descriptor, Document, Index, MANIFEST_LIMIT, Manifest,
};
use super::{CONTAINERD_NAME, EROFS_FEATURE, Location, Platform, REF_NAME, Transport, docker};
use crate::content::{Blob, OciLayout, Provider};
use crate::{Digest, Error, LayerType, Result};

/// Indexes inside indexes: real ones have none.
pub(crate) const MAX_DEPTH: usize = 4;

/// Which images of an index are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// The best one for each of these platforms.
    Platforms(Vec<Platform>),
    /// All of them.
    All,
}

impl Default for Select {
    fn default() -> Self {
        Self::Platforms(vec![Platform::host()])
    }
}

/// What was found at a location.
#[derive(Debug)]
pub struct Source {
    /// The wanted images.
    pub images: Vec<Image>,
    /// The index they are listed in, when there is one.
    pub index: Option<SourceIndex>,
    /// Where other blobs than layers are read from.
    pub provider: Box<dyn Provider>,
}

/// The index of several images.
#[derive(Debug)]
pub struct SourceIndex {
    /// The document.
    pub index: Index,
    /// Its digest, when it is a blob and not just the list in a layout.
    pub digest: Option<Digest>,
    /// Were all of its images wanted?
    pub all: bool,
    /// What it lists besides the wanted images: other platforms, signatures, attestations.
    pub others: Vec<Descriptor>,
}

/// One image.
#[derive(Debug)]
pub struct Image {
    /// Digest of the manifest; of the config when there is no manifest.
    pub source_digest: Digest,
    /// How the index lists it.
    pub entry: Option<Descriptor>,
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest as it was stored; `docker save` stores none.
    pub manifest_bytes: Option<Vec<u8>>,
    /// The config.
    pub config: Config,
    /// The config as it was stored.
    pub config_bytes: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// Where it is.
    pub place: Place,
    /// What the media type says it is.
    pub layer_type: LayerType,
    /// What it must expand to.
    pub diff_id: Digest,
}

/// Where the bytes of a layer are.
#[derive(Debug)]
pub enum Place {
    /// Stored under its digest, as the manifest lists it.
    Listed(Box<Descriptor>),
    /// Stored under some other name, by `docker save`.
    Member(Blob),
}

impl Layer {
    /// How the manifest lists it, if it does.
    #[must_use]
    pub fn descriptor(&self) -> Option<&Descriptor> {
        match &self.place {
            Place::Listed(descriptor) => Some(descriptor),
            Place::Member(_) => None,
        }
    }

    /// Bytes of its blob.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.place {
            Place::Listed(descriptor) => descriptor.size,
            Place::Member(blob) => blob.len(),
        }
    }
}

impl Source {
    /// The bytes of a layer.
    ///
    /// # Errors
    /// [`Error::BlobMissing`], and what the storage reports.
    pub fn blob(&self, layer: &Layer) -> Result<Blob> {
        match &layer.place {
            Place::Listed(descriptor) => self.provider.open(&descriptor.digest),
            Place::Member(blob) => Ok(blob.clone()),
        }
    }

    /// Opens `location`. An archive from standard input or a compressed one is copied to a nameless file in
    /// `scratch` first.
    ///
    /// # Errors
    /// When there is no such image, more than one, or when its documents are not in order.
    pub fn open(location: &Location, select: &Select, scratch: &Path) -> Result<Self> {
        let reference = location.reference.as_deref();
        let (provider, index): (Box<dyn Provider>, _) = match location.transport {
            Transport::Oci => {
                let layout = OciLayout::open(&location.path)?;
                let index = layout.index()?;
                (Box::new(layout), index)
            }
            Transport::OciArchive => {
                let archive = Archive::open(&location.path, scratch)?;
                let missing = || Error::BadArchive { reason: "it has no index.json".to_owned() };
                let index = archive.read("index.json", MANIFEST_LIMIT)?.ok_or_else(missing)?;
                (Box::new(archive), index)
            }
            Transport::DockerArchive => {
                let archive = Archive::open(&location.path, scratch)?;
                let image = docker::image(&archive, reference)?;
                return Ok(Self { images: vec![image], index: None, provider: Box::new(archive) });
            }
        };
        let Document::Index(index) = Document::parse("index.json", None, &index)? else {
            let reason = "it is no index".to_owned();
            return Err(Error::BadDocument { what: "index.json".to_owned(), reason });
        };
        let (images, index) = match resolve(index, reference, location.transport)? {
            Root::Listed(entry) => load(&*provider, &entry, select)?,
            Root::Layout(index) => select_from(&*provider, index, None, select)?,
        };
        Ok(Self { images, index, provider })
    }
}

enum Root {
    /// The document that this entry of `index.json` leads to.
    Listed(Descriptor),
    /// These entries of `index.json` together: one image for several platforms.
    Layout(Index),
}

/// Finds `reference` in `index.json`.
fn resolve(index: Index, reference: Option<&str>, transport: Transport) -> Result<Root> {
    let called = |entry: &Descriptor, wanted: &str| {
        entry.annotation(REF_NAME) == Some(wanted)
            || entry.annotation(CONTAINERD_NAME) == Some(wanted)
            || entry.digest.to_string() == wanted
    };
    let found: Vec<&Descriptor> = index
        .manifests
        .iter()
        .filter(|entry| reference.is_none_or(|wanted| called(entry, wanted)))
        .collect();
    if let [entry] = found.as_slice() {
        return Ok(Root::Listed((*entry).clone()));
    }
    let platforms: BTreeSet<_> = found.iter().filter_map(|entry| entry.platform.as_ref()).collect();
    let names: BTreeSet<_> = found.iter().map(|entry| entry.annotation(REF_NAME)).collect();
    if !found.is_empty() && platforms.len() == found.len() && names.len() == 1 {
        let entries = found.into_iter().cloned().collect();
        return Ok(Root::Layout(index.rewritten(entries)));
    }
    Err(Error::WhichImage {
        transport: transport.name(),
        reference: reference.map(str::to_owned),
        found: !found.is_empty(),
        names: super::document::names(&index),
    })
}

type Loaded = (Vec<Image>, Option<SourceIndex>);

fn load(provider: &dyn Provider, entry: &Descriptor, select: &Select) -> Result<Loaded> {
    let bytes =
        provider.open(&entry.digest)?.document(&entry.digest, entry.size, MANIFEST_LIMIT)?;
    match Document::parse(&what(entry), Some(&entry.media_type), &bytes)? {
        Document::Index(index) => select_from(provider, index, Some(entry.digest.clone()), select),
        Document::Manifest(manifest) => {
            let image = image(provider, entry, manifest, bytes)?;
            if let Select::Platforms(wanted) = select
                && let [wanted] = wanted.as_slice()
                && *wanted != Platform::host()
                && !image.config.platform.answers(wanted)
            {
                return Err(no_platform(wanted, [&image.config.platform]));
            }
            Ok((vec![image], None))
        }
    }
}

fn what(entry: &Descriptor) -> String {
    format!("manifest {}", entry.digest)
}

fn no_platform<'a>(wanted: &Platform, there: impl IntoIterator<Item = &'a Platform>) -> Error {
    let there: Vec<String> = there.into_iter().map(Platform::to_string).collect();
    Error::NoPlatform { wanted: wanted.to_string(), there: there.join(", ") }
}

/// An image of an index, not yet read beyond its manifest.
struct Leaf {
    entry: Descriptor,
    manifest: Box<Manifest>,
    bytes: Vec<u8>,
}

/// Collects the images of an index, and of the indexes in it, that may be wanted; the rest goes to `others`. What is
/// surely not wanted is not opened: layouts often hold one platform only.
struct Search<'a> {
    provider: &'a dyn Provider,
    select: &'a Select,
    seen: BTreeSet<Digest>,
    leaves: Vec<Leaf>,
    others: Vec<Descriptor>,
}

impl Search<'_> {
    fn index(&mut self, index: &Index, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            let reason = format!("indexes are nested more than {MAX_DEPTH} deep");
            return Err(Error::BadDocument { what: "index".to_owned(), reason });
        }
        for entry in &index.manifests {
            if !self.seen.insert(entry.digest.clone()) {
                continue;
            }
            if !self.may_be_wanted(entry) {
                self.others.push(entry.clone());
                continue;
            }
            let blob = self.provider.open(&entry.digest)?;
            let bytes = blob.document(&entry.digest, entry.size, MANIFEST_LIMIT)?;
            match Document::parse(&what(entry), Some(&entry.media_type), &bytes)? {
                Document::Index(inner) => self.index(&inner, depth + 1)?,
                Document::Manifest(manifest) if manifest.is_image() => {
                    self.leaves.push(Leaf { entry: entry.clone(), manifest, bytes });
                }
                Document::Manifest(_) => self.others.push(entry.clone()),
            }
        }
        Ok(())
    }

    fn may_be_wanted(&self, entry: &Descriptor) -> bool {
        match (self.select, &entry.platform) {
            _ if !is_runnable(entry) => false,
            (Select::Platforms(wanted), Some(platform)) => {
                wanted.iter().any(|wanted| platform.answers(wanted))
            }
            _ => true,
        }
    }
}

/// BuildKit lists attestations as images for a platform that does not exist.
pub(crate) fn is_runnable(entry: &Descriptor) -> bool {
    entry.platform.as_ref().is_none_or(|p| p.os != "unknown" && p.architecture != "unknown")
}

fn select_from(
    provider: &dyn Provider,
    index: Index,
    digest: Option<Digest>,
    select: &Select,
) -> Result<Loaded> {
    let (seen, leaves, others) = (BTreeSet::new(), Vec::new(), Vec::new());
    let mut search = Search { provider, select, seen, leaves, others };
    search.index(&index, 1)?;
    let Search { leaves, mut others, .. } = search;
    let mut images = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        images.push(image(provider, &leaf.entry, leaf.manifest, leaf.bytes)?);
    }
    let all = *select == Select::All;
    let single = match select {
        Select::All => false,
        Select::Platforms(wanted) => {
            let mut kept = BTreeSet::new();
            for platform in wanted {
                let there = index.manifests.iter().filter_map(|entry| entry.platform.as_ref());
                let best = best(&images, platform).ok_or_else(|| no_platform(platform, there))?;
                kept.insert(best);
            }
            let mut position = 0;
            images.retain(|image| {
                let keep = kept.contains(&position);
                position += 1;
                if !keep {
                    others.extend(image.entry.clone());
                }
                keep
            });
            images.len() == 1
        }
    };
    if images.is_empty() {
        let reason = "it lists no image".to_owned();
        return Err(Error::BadDocument { what: "index".to_owned(), reason });
    }
    let index = (!single).then_some(SourceIndex { index, digest, all, others });
    Ok((images, index))
}

/// The position of the image for `wanted`: one of tar layers before one that is EROFS already, the first otherwise.
fn best(images: &[Image], wanted: &Platform) -> Option<usize> {
    let platform = |image: &Image| {
        let listed = image.entry.as_ref().and_then(|entry| entry.platform.clone());
        listed.unwrap_or_else(|| image.config.platform.clone())
    };
    let fits = |image: &&Image| platform(image).answers(wanted);
    let native = |image: &Image| platform(image).has_feature(EROFS_FEATURE);
    let candidates = images.iter().enumerate().filter(|(_, image)| fits(image));
    candidates.min_by_key(|(i, image)| (native(image), *i)).map(|(i, _)| i)
}

fn image(
    provider: &dyn Provider,
    entry: &Descriptor,
    manifest: Box<Manifest>,
    bytes: Vec<u8>,
) -> Result<Image> {
    if !manifest.is_image() {
        let media_type = manifest.config.media_type.clone();
        return Err(Error::NotAnImage { digest: entry.digest.clone(), media_type });
    }
    let described = &manifest.config;
    let config_bytes = provider.open(&described.digest)?.document(
        &described.digest,
        described.size,
        CONFIG_LIMIT,
    )?;
    let what = format!("config {}", described.digest);
    let config = Config::parse(&what, &config_bytes, manifest.layers.len())?;
    let mut layers = Vec::with_capacity(manifest.layers.len());
    for (descriptor, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
        layers.push(Layer {
            place: Place::Listed(Box::new(descriptor.clone())),
            layer_type: LayerType::parse(&descriptor.media_type)?,
            diff_id: diff_id.clone(),
        });
    }
    Ok(Image {
        source_digest: entry.digest.clone(),
        entry: Some(entry.clone()),
        manifest: *manifest,
        manifest_bytes: Some(bytes),
        config,
        config_bytes,
        layers,
    })
}
