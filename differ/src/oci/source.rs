//! Opening an image: from a location to verified documents and blobs that can be read.

use std::collections::BTreeSet;
use std::path::Path;

use super::archive::Archive;
use super::document::is_config_type;
use super::document::{
    CONFIG_LIMIT, Config, Descriptor, Document, Index, MANIFEST_LIMIT, Manifest,
};
use super::image::{ImageLayer, LayerPosition, OciImage};
use super::{CONTAINERD_NAME, EROFS_FEATURE, Location, Platform, REF_NAME, Transport, docker};
use crate::content::{Blob, OciLayout, Provider};
use crate::error::{BudgetError, ContentError, OciImageError};
use crate::{Digest, Error, LayerType, Result};

/// Indexes inside indexes: real ones have none.
pub(crate) const MAX_DEPTH: usize = 4;

/// Which images of an index are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// The best one for this machine. A location with one image only gives that one, whatever it runs on.
    Host {
        /// Whether an image of EROFS layers is better than one of tar layers.
        erofs: bool,
    },
    /// The best one for each of these platforms, which must be there. One that has the feature `erofs` prefers images of
    /// EROFS layers.
    Platforms(Vec<Platform>),
    /// All of them.
    All,
}

impl Default for Select {
    fn default() -> Self {
        Self::Host { erofs: false }
    }
}

impl Select {
    /// The platforms of which one image each is wanted; nothing when all images are.
    fn wanted(&self) -> Option<Vec<Platform>> {
        match self {
            Self::Host { erofs: false } => Some(vec![Platform::host()]),
            Self::Host { erofs: true } => Some(vec![Platform::host().with_feature(EROFS_FEATURE)]),
            Self::Platforms(wanted) => Some(wanted.clone()),
            Self::All => None,
        }
    }

    /// Refuses an image that is not one of several, unless it is for every platform that was asked for.
    fn check(&self, image: &OciImage) -> Result<()> {
        let Self::Platforms(wanted) = self else { return Ok(()) };
        let there = image.platform();
        match wanted.iter().find(|wanted| !there.answers(wanted)) {
            Some(wanted) => Err(no_platform(wanted, [there])),
            None => Ok(()),
        }
    }
}

/// What was found at a location.
#[derive(Debug)]
pub struct ImageSource {
    /// The wanted images.
    pub images: Vec<OciImage>,
    /// The index they are listed in, when there is one.
    pub index: Option<SourceIndex>,
    /// The entries of a layout's `index.json` that lead to them.
    pub roots: Vec<Descriptor>,
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
    /// Whether all of its images were wanted.
    pub all: bool,
    /// What it lists besides the wanted images: other platforms, signatures, attestations.
    pub others: Vec<Descriptor>,
}

impl ImageSource {
    /// The bytes of a layer.
    ///
    /// # Errors
    /// [`crate::error::ContentError::BlobMissing`], and what the storage reports.
    pub fn blob(&self, layer: &ImageLayer) -> Result<Blob> {
        match &layer.place {
            LayerPosition::Listed(descriptor) => self.provider.open(&descriptor.digest),
            LayerPosition::Member(blob) => Ok(blob.clone()),
        }
    }

    /// Opens `location`. An archive from standard input or a compressed one is copied to a scratch file in
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
                let missing = || {
                    Error::Content(ContentError::BadArchive {
                        reason: "it has no index.json".to_owned(),
                    })
                };
                let index = archive.read("index.json", MANIFEST_LIMIT)?.ok_or_else(missing)?;
                (Box::new(archive), index)
            }
            Transport::DockerArchive => {
                let archive = Archive::open(&location.path, scratch)?;
                let image = docker::image(&archive, reference)?;
                select.check(&image)?;
                let (images, roots) = (vec![image], Vec::new());
                return Ok(Self { images, index: None, roots, provider: Box::new(archive) });
            }
        };
        let Document::Index(index) = Document::parse("index.json", None, &index)? else {
            let reason = "it is no index".to_owned();
            return Err(Error::Image(OciImageError::BadDocument {
                what: "index.json".to_owned(),
                reason,
            }));
        };
        let root = resolve(index, reference, location.transport)?;
        let roots = match &root {
            Root::Listed(entry) => vec![entry.clone()],
            Root::Layout(index) => index.manifests.clone(),
        };
        let (images, index) = match root {
            Root::Listed(entry) => load(&*provider, &entry, select)?,
            Root::Layout(index) => select_from(&*provider, index, None, select)?,
        };
        Ok(Self { images, index, roots, provider })
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
    let is_meant = |entry: &&Descriptor| reference.is_none_or(|wanted| called(entry, wanted));
    let mut found: Vec<&Descriptor> = index.manifests.iter().filter(is_meant).collect();
    // What is no image is meant only where there is nothing else.
    if found.iter().any(|entry| is_runnable(entry)) {
        found.retain(|entry| is_runnable(entry));
    }
    if let [entry] = found.as_slice() {
        return Ok(Root::Listed((*entry).clone()));
    }
    let platforms: BTreeSet<_> = found.iter().filter_map(|entry| entry.platform.as_ref()).collect();
    let names: BTreeSet<_> = found.iter().map(|entry| entry.annotation(REF_NAME)).collect();
    if !found.is_empty() && platforms.len() == found.len() && names.len() == 1 {
        let entries = found.into_iter().cloned().collect();
        return Ok(Root::Layout(index.rewritten(entries)));
    }
    Err(Error::Image(OciImageError::WhichImage {
        transport: transport.name(),
        reference: reference.map(str::to_owned),
        found: !found.is_empty(),
        names: super::document::names(&index),
    }))
}

type Loaded = (Vec<OciImage>, Option<SourceIndex>);

fn load(provider: &dyn Provider, entry: &Descriptor, select: &Select) -> Result<Loaded> {
    let bytes =
        provider.open(&entry.digest)?.document(&entry.digest, entry.size, MANIFEST_LIMIT)?;
    match Document::parse(&what(entry), Some(&entry.media_type), &bytes)? {
        Document::Index(index) => select_from(provider, index, Some(entry.digest.clone()), select),
        Document::Manifest(manifest) => {
            let leaf = Leaf::open(provider, entry, manifest, bytes)?;
            let image = leaf.image()?;
            select.check(&image)?;
            Ok((vec![image], None))
        }
    }
}

fn what(entry: &Descriptor) -> String {
    format!("manifest {}", entry.digest)
}

fn no_platform<'a>(wanted: &Platform, there: impl IntoIterator<Item = &'a Platform>) -> Error {
    let there: BTreeSet<String> = there.into_iter().map(Platform::to_string).collect();
    let there: Vec<String> = there.into_iter().collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    // How an image is stored is no matter of the machine.
    let os_features = wanted.os_features.iter().filter(|f| *f != EROFS_FEATURE).cloned().collect();
    let wanted = Platform { os_features, ..wanted.clone() };
    Error::Image(OciImageError::NoPlatform { wanted: wanted.to_string(), there })
}

/// An image, not yet read beyond the platform of its config.
struct Leaf {
    entry: Descriptor,
    manifest: Box<Manifest>,
    bytes: Vec<u8>,
    config: Vec<u8>,
    /// What the entry or else the config says it runs on.
    platform: Platform,
}

impl Leaf {
    /// Reads the config of a manifest.
    fn open(
        provider: &dyn Provider,
        entry: &Descriptor,
        manifest: Box<Manifest>,
        bytes: Vec<u8>,
    ) -> Result<Self> {
        let described = &manifest.config;
        if !manifest.is_image() {
            let media_type = described.media_type.clone();
            return Err(Error::Image(OciImageError::NotAnImage {
                digest: entry.digest.clone(),
                media_type,
            }));
        }
        let (digest, size) = (&described.digest, described.size);
        let config = provider.open(digest)?.document(digest, size, CONFIG_LIMIT)?;
        let platform = match &entry.platform {
            Some(platform) => platform.clone(),
            None => Config::platform(&config_name(digest), &config)?,
        };
        Ok(Self { entry: entry.clone(), manifest, bytes, config, platform })
    }

    /// Reads the rest.
    fn image(self) -> Result<OciImage> {
        let what = config_name(&self.manifest.config.digest);
        let config = Config::parse(&what, &self.config, self.manifest.layers.len())?;
        let mut layers = Vec::with_capacity(self.manifest.layers.len());
        for (descriptor, diff_id) in self.manifest.layers.iter().zip(&config.diff_ids) {
            layers.push(ImageLayer {
                place: LayerPosition::Listed(Box::new(descriptor.clone())),
                layer_type: LayerType::parse(&descriptor.media_type)?,
                diff_id: diff_id.clone(),
            });
        }
        Ok(OciImage {
            source_digest: self.entry.digest.clone(),
            entry: Some(self.entry),
            manifest: *self.manifest,
            manifest_bytes: Some(self.bytes),
            config,
            config_bytes: self.config,
            layers,
        })
    }
}

fn config_name(digest: &Digest) -> String {
    format!("config {digest}")
}

/// Collects the images of an index, and of the indexes in it, that may be wanted; the rest goes to `others`. What is
/// surely not wanted is not opened: layouts often hold one platform only.
struct ImageSearch<'a> {
    provider: &'a dyn Provider,
    /// The platforms of which one image each is wanted; nothing when all images are.
    wanted: Option<&'a [Platform]>,
    seen: BTreeSet<Digest>,
    leaves: Vec<Leaf>,
    others: Vec<Descriptor>,
    /// The platforms that there are images for.
    there: BTreeSet<Platform>,
    /// Why the first entry was passed over that could have been an image.
    fault: Option<Error>,
}

impl ImageSearch<'_> {
    fn index(&mut self, index: &Index, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            let reason = format!("indexes are nested more than {MAX_DEPTH} deep");
            return Err(Error::Image(OciImageError::BadDocument {
                what: "index".to_owned(),
                reason,
            }));
        }
        for entry in &index.manifests {
            if !self.seen.insert(entry.digest.clone()) {
                continue;
            }
            let is_runnable = is_runnable(entry);
            self.there.extend(entry.platform.clone().filter(|_| is_runnable));
            if !is_runnable || !entry.platform.as_ref().is_none_or(|p| self.is_wanted(p)) {
                self.others.push(entry.clone());
                continue;
            }
            match self.entry(entry, depth) {
                // What does not say that it is an image for some platform need not be one.
                Err(error) if entry.platform.is_none() && is_no_image(&error) => {
                    self.others.push(entry.clone());
                    self.fault.get_or_insert(error);
                }
                result => result?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Descriptor, depth: usize) -> Result<()> {
        let blob = self.provider.open(&entry.digest)?;
        let bytes = blob.document(&entry.digest, entry.size, MANIFEST_LIMIT)?;
        let manifest = match Document::parse(&what(entry), Some(&entry.media_type), &bytes)? {
            Document::Index(inner) => return self.index(&inner, depth + 1),
            Document::Manifest(manifest) => manifest,
        };
        if !manifest.is_image() {
            self.others.push(entry.clone());
            return Ok(());
        }
        let leaf = Leaf::open(self.provider, entry, manifest, bytes)?;
        if leaf.platform.is_unknown() {
            self.others.push(entry.clone());
            return Ok(());
        }
        self.there.insert(leaf.platform.clone());
        if self.is_wanted(&leaf.platform) {
            self.leaves.push(leaf);
        } else {
            self.others.push(entry.clone());
        }
        Ok(())
    }

    fn is_wanted(&self, platform: &Platform) -> bool {
        self.wanted.is_none_or(|wanted| wanted.iter().any(|wanted| platform.answers(wanted)))
    }

    /// Which of the leaves are wanted, by position.
    fn best(&self) -> Result<BTreeSet<usize>> {
        let Some(wanted) = self.wanted else { return Ok((0..self.leaves.len()).collect()) };
        wanted.iter().map(|wanted| self.best_for(wanted)).collect()
    }

    /// The position of the image that serves `wanted` best, and of several such the first. One of tar layers goes before
    /// one that is EROFS already, unless `wanted` has that feature.
    fn best_for(&self, wanted: &Platform) -> Result<usize> {
        let is_native_wanted = wanted.has_feature(EROFS_FEATURE);
        let key = |(position, leaf): (usize, &Leaf)| {
            let is_other_form = leaf.platform.has_feature(EROFS_FEATURE) != is_native_wanted;
            Some((leaf.platform.rank(wanted)?, is_other_form, position))
        };
        let best = self.leaves.iter().enumerate().filter_map(key).min();
        let (.., position) = best.ok_or_else(|| no_platform(wanted, &self.there))?;
        Ok(position)
    }
}

/// Whether an entry that gave this error may be no image at all. Damage and failures of the storage are no answer to that.
fn is_no_image(error: &Error) -> bool {
    matches!(
        error,
        Error::Content(ContentError::BlobMissing { .. })
            | Error::Image(OciImageError::BadDocument { .. })
            | Error::Image(OciImageError::SchemaOne { .. })
            | Error::Content(ContentError::BadDigest { .. })
            | Error::Budget(BudgetError::Document { .. })
    )
}

/// The annotation by which BuildKit says that a manifest is about another one of the same index.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Whether an entry of an index may lead to an image that runs. Attestations are listed as images for a platform that does not
/// exist, or with an annotation; artifacts without a platform have a type of their own (image-spec, descriptor.md,
/// `artifactType`).
pub(crate) fn is_runnable(entry: &Descriptor) -> bool {
    entry.is_document()
        && entry.annotation(REFERENCE_TYPE).is_none()
        && (entry.platform.is_some() || entry.artifact_type().is_none_or(is_config_type))
        && entry.platform.as_ref().is_none_or(|platform| !platform.is_unknown())
}

fn select_from(
    provider: &dyn Provider,
    index: Index,
    digest: Option<Digest>,
    select: &Select,
) -> Result<Loaded> {
    let wanted = select.wanted();
    let mut search = ImageSearch {
        provider,
        wanted: wanted.as_deref(),
        seen: BTreeSet::new(),
        leaves: Vec::new(),
        others: Vec::new(),
        there: BTreeSet::new(),
        fault: None,
    };
    search.index(&index, 1)?;
    let best = search.best();
    let ImageSearch { leaves, mut others, there, fault, .. } = search;
    if let Some(fault) = fault.filter(|_| leaves.is_empty() && there.is_empty()) {
        return Err(fault);
    }
    let best = best?;
    let mut images = Vec::with_capacity(best.len());
    for (position, leaf) in leaves.into_iter().enumerate() {
        if best.contains(&position) {
            images.push(leaf.image()?);
        } else {
            others.push(leaf.entry);
        }
    }
    if images.is_empty() {
        let reason = "it lists no image".to_owned();
        return Err(Error::Image(OciImageError::BadDocument { what: "index".to_owned(), reason }));
    }
    let all = wanted.is_none();
    let is_single = !all && images.len() == 1;
    let index = (!is_single).then_some(SourceIndex { index, digest, all, others });
    Ok((images, index))
}
