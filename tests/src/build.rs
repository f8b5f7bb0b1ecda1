//! Images of archives and directories, made as `erolith mkfs` makes them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use erolith_mkfs::Error;
use erolith_mkfs::build::{Builder, Finish, Options, Summary};
use erolith_mkfs::io::{FileSink, Input};
use erolith_mkfs::tar::Limits;

/// An image that takes shape at a path.
fn builder(path: &Path, options: &Options) -> Result<Builder<FileSink>, Error> {
    let fail = |source| Error::Input { what: path.display().to_string(), source };
    let mut open = File::options();
    let file = open.read(true).write(true).create_new(true).open(path).map_err(fail)?;
    let dir = path.parent().map_or_else(|| File::open("."), File::open).map_err(fail)?;
    Builder::new(FileSink::new(file, OwnedFd::from(dir)), options.clone())
}

/// Makes the image of an archive.
///
/// # Errors
/// What is wrong with the archive or the output.
pub fn from_tar(input: impl Input, path: &Path, options: &Options) -> Result<Summary, Error> {
    let mut builder = builder(path, options)?;
    builder.fill_from_tar(input, Limits::default())?;
    Ok(builder.finish(&Finish::default())?.1)
}

/// Makes the metadata image of an archive that stays where it is.
///
/// # Errors
/// What is wrong with the archive or the output.
pub fn index_of(
    input: impl Input,
    archive_bytes: u64,
    path: &Path,
    options: &Options,
) -> Result<Summary, Error> {
    let options = Options { tar_index: true, ..options.clone() };
    let mut builder = builder(path, &options)?;
    builder.fill_from_tar(input, Limits::default())?;
    let finish = Finish { device_bytes: archive_bytes, ..Finish::default() };
    Ok(builder.finish(&finish)?.1)
}

/// Makes the image of a directory.
///
/// # Errors
/// What is wrong with the directory or the output.
pub fn from_dir(
    dir: &Path,
    path: &Path,
    options: &Options,
) -> Result<Summary, erolith_overlay::Error> {
    from_dir_as(dir, path, options, [0; 16])
}

/// Makes the image of a directory, with a UUID.
///
/// # Errors
/// What is wrong with the directory or the output.
pub fn from_dir_as(
    dir: &Path,
    path: &Path,
    options: &Options,
    uuid: [u8; 16],
) -> Result<Summary, erolith_overlay::Error> {
    use std::os::fd::AsFd as _;
    let fail = |source| Error::Input { what: dir.display().to_string(), source };
    let root = File::open(dir).map_err(fail)?;
    let mut builder = builder(path, options)?;
    erolith_overlay::fill_from_dir(&mut builder, root.as_fd(), || {
        Ok::<_, erolith_overlay::Error>(())
    })?;
    Ok(builder.finish(&Finish { uuid, ..Finish::default() })?.1)
}
