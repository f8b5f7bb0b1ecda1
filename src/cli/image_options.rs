//! The options of building images that `mkfs` and `convert` share, named as in mkfs.erofs.

use erolith_mkfs::build::{Options, Owner, Timestamp};

use crate::exit::Usage;
use crate::term::parse_image_time;

/// How images are built.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Image options")]
pub(crate) struct ImageOptions {
    /// Block size in bytes, 512 to 65536.
    #[arg(short = 'b', value_name = "BYTES", default_value = "4096")]
    block_size: u32,
    /// Extended options: noinline_data, ^inline_data, force-inode-extended, noholes; several with commas.
    #[arg(short = 'E', value_name = "OPTION", value_delimiter = ',')]
    extended: Vec<String>,
    /// The same as -Enoinline_data: no file content behind inodes, for DAX.
    #[arg(long)]
    no_inline: bool,
    /// Volume label, 15 bytes at most.
    #[arg(short = 'L', value_name = "LABEL", default_value = "")]
    label: String,
    /// Time of every inode, in seconds since 1970. SOURCE_DATE_EPOCH instead replaces later times only.
    #[arg(short = 'T', long = "timestamp", value_name = "SECONDS", allow_negative_numbers = true)]
    timestamp: Option<i64>,
    /// All files belong to root.
    #[arg(long)]
    all_root: bool,
    /// All files belong to this user.
    #[arg(long, value_name = "UID")]
    force_uid: Option<u32>,
    /// All files belong to this group.
    #[arg(long, value_name = "GID")]
    force_gid: Option<u32>,
    /// Add this to every user.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    uid_offset: u32,
    /// Add this to every group.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    gid_offset: u32,
    /// Share xattrs that occur more often than this; a negative number drops all xattrs.
    #[arg(short = 'x', value_name = "NUMBER", default_value_t = 2, allow_negative_numbers = true)]
    xattr_share: i64,
    /// Align the data of files to this many blocks.
    #[arg(long, value_name = "BLOCKS", default_value_t = 1)]
    dsunit: u64,
    /// Append a dm-verity hash tree, by which the kernel notices every changed block.
    #[arg(long)]
    pub(crate) dm_verity: bool,
    /// Refuse archives in which a name appears twice.
    #[arg(long)]
    strict: bool,
}

impl ImageOptions {
    /// The options asked for.
    ///
    /// # Errors
    /// [`Usage`].
    pub(crate) fn options(&self) -> anyhow::Result<Options> {
        let mut options = Options {
            label: self.label.clone(),
            timestamp: timestamp(self.timestamp)?,
            owner: Owner {
                force_uid: self.force_uid.or(self.all_root.then_some(0)),
                force_gid: self.force_gid.or(self.all_root.then_some(0)),
                uid_offset: self.uid_offset,
                gid_offset: self.gid_offset,
            },
            inline_data: !self.no_inline,
            align_blocks: self.dsunit.max(1),
            share_xattrs_above: u64::try_from(self.xattr_share).ok(),
            ..Options::default()
        };
        options.layer.refuse_duplicates = self.strict;
        options.layer.xattrs.drop_all = self.xattr_share < 0;
        options.block_bits = match self.block_size {
            size if size.is_power_of_two() => u8::try_from(size.trailing_zeros()).unwrap_or(0),
            _ => return Err(Usage("-b: a block size is a power of two".into()).into()),
        };
        for name in &self.extended {
            match name.as_str() {
                "noinline_data" | "^inline_data" => options.inline_data = false,
                "force-inode-extended" => options.force_extended = true,
                "noholes" => options.holes = false,
                // These are how images are always made.
                "inline_data" | "xattr-name-filter" => {}
                other => return Err(Usage(format!("-E {other}: not supported")).into()),
            }
        }
        Ok(options)
    }
}

/// The policy on times: the option, or SOURCE_DATE_EPOCH of the environment.
fn timestamp(option: Option<i64>) -> anyhow::Result<Timestamp> {
    if let Some(seconds) = option {
        return Ok(Timestamp::All(seconds));
    }
    Ok(source_date_epoch()?.map_or(Timestamp::Keep, Timestamp::Clamp))
}

/// SOURCE_DATE_EPOCH of the environment, in seconds since 1970 (reproducible-builds.org).
pub(super) fn source_date_epoch() -> anyhow::Result<Option<i64>> {
    let Some(value) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = parse_image_time(&value.to_string_lossy());
    Ok(Some(seconds.map_err(|error| Usage(format!("SOURCE_DATE_EPOCH: {error}")))?))
}
