//! The same layers here and in a worker process: the same image and the same answer, or the same error; and nothing that
//! is left of a worker.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use erolith_mkfs::io::ReadAt;
use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::apply::{Isolation, LayerOpener, ParentImages, Times};
use crate::content::{BlobSource, LocalBlob};
use crate::decode::{Budget, Cancel, Request};
use crate::error::ContentError;
use crate::sandbox;

fn worker(mark: &str) -> Isolation {
    Isolation::Worker(Arc::new(sandbox::tests::worker(mark)))
}

/// What came of a layer: the answer without its times, the image, and how many bytes it was told were read.
type ApplyResult = Result<(Applied, Vec<u8>, u64), (&'static str, String)>;

/// Where a layer is read from.
#[derive(Debug, Clone, Copy)]
enum From {
    Stream,
    File,
    /// A store that has no files.
    Memory,
}

/// A blob that is in no file.
#[derive(Debug)]
struct MemoryBlob(Vec<u8>);

impl ReadAt for MemoryBlob {
    /// Less than is asked for, as a network gives it.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..));
        let rest = rest.unwrap_or_default();
        let n = rest.len().min(buf.len()).min(5000);
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }
}

impl BlobSource for MemoryBlob {}

/// Applies a layer, from wherever it is.
fn run(
    room: &Isolation,
    layer: &LayerSpec,
    blob: &[u8],
    options: &Options,
    from: From,
) -> ApplyResult {
    let (store, dir) = (Dir::new(), Dir::new());
    let read = Arc::new(AtomicU64::new(0));
    let sum = Arc::clone(&read);
    let add = move |n| {
        sum.fetch_add(n, Ordering::Relaxed);
    };
    let (room, progress) = (room.clone(), OnBytes::new(add));
    let options = Options { room, progress, ..options.clone() };
    let path = store.0.path().join("blob");
    write(&path, &[b"before", blob].concat());
    let source = match from {
        From::Stream => LayerInput::Stream(Box::new(io::Cursor::new(blob.to_vec()))),
        From::File => LayerInput::Stored(stored(&path, 6, blob.len() as u64)),
        From::Memory => LayerInput::Stored(Blob::from_source(Arc::new(MemoryBlob(blob.to_vec())))),
    };
    let applied = apply(source, layer, &dir.image(), &Vec::<PathBuf>::new(), &options);
    match applied {
        Ok(applied) => {
            let applied = Applied { times: Times::default(), ..applied };
            Ok((applied, fs::read(dir.image()).unwrap(), read.load(Ordering::Relaxed)))
        }
        Err(error) => {
            assert_eq!(dir.names(), Vec::<String>::new(), "{error}");
            {
                let text = error.to_string();
                Err((crate::testing::code(error), text))
            }
        }
    }
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An archive with files of many sizes: content, tails that go to the scratch file, and inodes.
fn large() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let noise = |n: usize| (n..n + 9_000).map(|i| u8::try_from(i * i % 251).unwrap());
    for n in 0..3_000_usize {
        let content: Vec<u8> = noise(n).take(n % 4_000 + n % 7 * 800).collect();
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("d{}/f{n}", n % 10), &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_worker_makes_the_same_image_and_says_the_same() {
    let (tar, image) = (large(), image());
    let there = worker("same");
    for (media_type, blob) in [
        (OCI_LAYER, tar.clone()),
        (GZIP, gzip(&tar)),
        ("application/vnd.oci.image.layer.v1.tar+zstd", zstd(&tar)),
        (EROFS_LAYER, image.clone()),
        (EROFS_LAYER_ZSTD, zstd(&image)),
    ] {
        let layer = layer(media_type, &blob);
        for (from, dm_verity) in [
            (From::File, false),
            (From::Stream, false),
            (From::Memory, false),
            (From::File, true),
            (From::Memory, true),
        ] {
            let options = Options { dm_verity, ..Options::default() };
            let here = run(&Isolation::Here, &layer, &blob, &options, from).unwrap();
            let there = run(&there, &layer, &blob, &options, from).unwrap();
            assert_eq!(here.0, there.0, "{media_type}");
            assert!(here.1 == there.1, "{media_type}: other bytes");
            assert_eq!((here.2, there.2), (blob.len() as u64, blob.len() as u64), "{media_type}");
        }
    }
}

#[test]
fn a_worker_says_which_attributes_were_dropped() {
    let mut builder = tar::Builder::new(Vec::new());
    let names: Vec<String> = (0..20).map(|n| format!("SCHILY.xattr.com.example.{n:02}")).collect();
    for file in ["a", "b"] {
        builder.append_pax_extensions(names.iter().map(|name| (name.as_str(), &b"v"[..]))).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_mode(0o644);
        builder.append_data(&mut header, file, &[][..]).unwrap();
    }
    let blob = builder.into_inner().unwrap();
    let layer = layer(OCI_LAYER, &blob);
    let there = worker("dropped");
    for room in [&Isolation::Here, &there] {
        let applied = run(room, &layer, &blob, &Options::default(), From::File).unwrap().0;
        let dropped = applied.summary.unwrap().dropped_xattrs;
        assert_eq!((dropped.count, dropped.has_more_names()), (40, true));
        let expected: Vec<String> = (0..8).map(|n| format!("com.example.{n:02}")).collect();
        assert_eq!(dropped.names(), expected);
        let text = dropped.to_string();
        assert!(text.starts_with("40 extended attributes dropped"), "{text}");
        assert!(text.ends_with("com.example.07, ..."), "{text}");
    }
}

#[test]
fn a_worker_gives_the_same_errors() {
    let (tar, image) = (tar(), image());
    let other = Digest::of(b"something else");
    let cancelled = Options::default();
    cancelled.cancel.cancel();
    let good = Options::default();
    let budget = Budget { max_output: 100, ..Budget::default() };
    let small = Options { budget, ..Options::default() };
    let (mut cut, mut torn, mut damaged) = (gzip(&tar), gzip(&tar), image.clone());
    cut.truncate(cut.len() - 12);
    let middle = torn.len() / 2;
    torn[middle] ^= 0xff;
    damaged[1024 + 16] ^= 0xff;
    let of = |media_type: &str, blob: &[u8]| layer(media_type, blob);
    let lied = LayerSpec { digest: other.clone(), ..of(OCI_LAYER, &tar) };
    let of_diff = LayerSpec { diff_id: Some(other.clone()), ..of(OCI_LAYER, &tar) };
    let there = worker("errors");
    for (layer, blob, options) in [
        (of(OCI_LAYER, b"other"), &tar, &good),
        (lied, &tar, &good),
        (of_diff, &tar, &good),
        (of(GZIP, &cut), &cut, &good),
        (of(GZIP, &torn), &torn, &good),
        (of(OCI_LAYER, &tar[..700]), &tar[..700].to_vec(), &good),
        (of(OCI_LAYER, &image), &image, &good),
        (of(OCI_LAYER, &tar), &tar, &cancelled),
        (of(OCI_LAYER, &tar), &tar, &small),
        (of(EROFS_LAYER, &tar), &tar, &good),
        (of(EROFS_LAYER, &damaged), &damaged, &good),
        (of(EROFS_LAYER_ZSTD, &zstd(&damaged)), &zstd(&damaged), &good),
    ] {
        for from in [From::File, From::Stream, From::Memory] {
            let here = run(&Isolation::Here, &layer, blob, options, from).unwrap_err();
            let there = run(&there, &layer, blob, options, from).unwrap_err();
            assert_eq!(here, there);
        }
    }
}

#[test]
fn a_stored_image_is_checked_in_the_worker_however_it_is_taken() {
    let (store, good) = (Dir::new(), image());
    let path = store.0.path().join("blob");
    let mut bad = good.clone();
    bad[1024 + 16] ^= 0xff;
    for (bytes, code) in [(&good, None), (&bad, Some("super-checksum"))] {
        write(&path, bytes);
        let layer = layer(EROFS_LAYER, bytes);
        for share in [Share::Link, Share::Reflink, Share::Never] {
            let (dir, room) = (Dir::new(), worker("check"));
            let options = Options { share, room, ..Options::default() };
            let applied = dir.share(&path, &layer, &options);
            assert_eq!(applied.err().map(crate::testing::code), code, "{share:?}");
            // A program that is no worker: nothing is taken unchecked.
            let none = Isolation::Worker(Arc::new(sandbox::Worker::new("/bin/true", [])));
            let options = Options { share, room: none, ..Options::default() };
            let error = Dir::new().share(&path, &layer, &options).unwrap_err();
            assert_eq!(error.code(), "worker-process-died");
        }
    }
}

/// More layers below than descriptors fit into one message.
struct TestParents(Vec<PathBuf>, bool);

impl ParentImages for TestParents {
    fn images(&self) -> crate::Result<Vec<LocalBlob>> {
        if self.1 {
            Err(Error::Content(ContentError::Busy { reference: "below".into() }))
        } else {
            self.0.images()
        }
    }
}

#[test]
fn a_worker_asks_for_the_layers_below() {
    let (nearest, lowest) = (Dir::new(), Dir::new());
    nearest.apply(OCI_LAYER, &archive(&[("etc/", 0o700)]), &Options::default()).unwrap();
    lowest.apply(OCI_LAYER, &archive(&[("opt/", 0o711)]), &Options::default()).unwrap();
    let mut lowers = vec![nearest.image(); 300];
    lowers.push(lowest.image());
    let blob = archive(&[("opt/file", 0o644)]);
    let layer = layer(OCI_LAYER, &blob);
    let applied = |room, fails| {
        let above = Dir::new();
        let source = LayerInput::Stream(Box::new(io::Cursor::new(blob.clone())));
        let options = Options { room, ..Options::default() };
        let lowers = TestParents(lowers.clone(), fails);
        let applied = apply(source, &layer, &above.image(), &lowers, &options)?;
        assert!(applied.inherits);
        Ok::<_, Error>(fs::read(above.image()).unwrap())
    };
    let (here, there) = (applied(Isolation::Here, false), applied(worker("below"), false));
    assert!(here.unwrap() == there.unwrap());
    assert_eq!(applied(worker("below"), true).unwrap_err().code(), "ingest-busy");
}

#[test]
fn a_layer_below_may_be_in_no_file() {
    let (below, dir) = (Dir::new(), Dir::new());
    below.apply(OCI_LAYER, &archive(&[("opt/", 0o711)]), &Options::default()).unwrap();
    let bytes = fs::read(below.image()).unwrap();
    let opened = |parent: Blob| {
        let (scratch, cancel) = (dir.0.path().to_owned(), Cancel::default());
        let opener = LayerOpener { scratch, cancel, progress: OnBytes::default() };
        let layer = Blob::from_source(Arc::new(MemoryBlob(archive(&[("opt/file", 0o644)]))));
        let image = opener.image(layer, Request::default(), &[parent]).unwrap();
        let image = Image::open(image, Vec::new()).unwrap();
        let opt = image.lookup(b"opt").unwrap().unwrap();
        opt.meta().mode & 0o7777
    };
    assert_eq!(opened(stored(&below.image(), 0, bytes.len() as u64)), 0o711);
    assert_eq!(opened(Blob::from_source(Arc::new(MemoryBlob(bytes)))), 0o711);
    assert_eq!(dir.names(), Vec::<String>::new());
}

/// Gives some bytes, then does something, then waits for the end of the test.
struct Stalls<F> {
    first: io::Cursor<Vec<u8>>,
    then: Option<F>,
    cancel: Cancel,
}

impl<F: FnOnce()> Read for Stalls<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.first.read(buf)?;
        if n > 0 {
            return Ok(n);
        }
        if let Some(then) = self.then.take() {
            then();
        }
        while self.cancel.check().is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::other("the test is over"))
    }
}

/// The processes that were started with `mark`.
fn marked(mark: &str) -> Vec<Pid> {
    let wanted = format!("--skip={mark}\0");
    let pids = fs::read_dir("/proc").unwrap().filter_map(|e| {
        let pid = e.unwrap().file_name().to_str()?.parse::<i32>().ok()?;
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        line.contains(&wanted).then(|| Pid::from_raw(pid))?
    });
    pids.collect()
}

/// Applies a layer that stalls in the middle, with `then` done at that point.
fn stalled(mark: &str, options: Options, then: impl FnOnce() + Send + 'static) -> Error {
    let (dir, over, blob) = (Dir::new(), Cancel::default(), gzip(&large()));
    let half = blob[..blob.len() / 2].to_vec();
    let (first, cancel) = (io::Cursor::new(half), over.clone());
    let source = LayerInput::Stream(Box::new(Stalls { first, then: Some(then), cancel }));
    let options = Options { room: worker(mark), ..options };
    let layer = layer(GZIP, &blob);
    let start = Instant::now();
    let applied = apply(source, &layer, &dir.image(), &Vec::<PathBuf>::new(), &options);
    over.cancel();
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(dir.names(), Vec::<String>::new());
    assert_eq!(marked(mark), [], "a process is left");
    applied.unwrap_err()
}

#[test]
fn a_worker_that_is_killed_is_an_error_that_names_the_signal() {
    // Not one that Rust's runtime handles, as it does with SIGSEGV to find overflows of the stack.
    for (signal, name) in [(Signal::KILL, "SIGKILL"), (Signal::ABORT, "SIGABRT")] {
        let mark = name.to_lowercase();
        let of_it = mark.clone();
        let kill = move || {
            // It may be on its way between fork and exec.
            let mut pids = marked(&of_it);
            while pids.is_empty() {
                pids = marked(&of_it);
            }
            pids.into_iter().for_each(|pid| kill_process(pid, signal).unwrap());
        };
        let error = stalled(&mark, Options::default(), kill);
        assert_eq!(error.code(), "worker-process-died");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn work_that_is_called_off_ends_its_worker() {
    let options = Options::default();
    let cancel = options.cancel.clone();
    let error = stalled("called-off", options, move || cancel.cancel());
    assert!(matches!(error, Error::Cancelled), "{error}");
}

#[test]
fn a_worker_has_no_more_time_than_its_layer() {
    let budget = Budget { max_time: Some(Duration::from_millis(10)), ..Budget::default() };
    let options = Options { budget, ..Options::default() };
    let error = stalled("late", options, || {});
    assert_eq!(error.code(), "budget-time", "{error}");
}

#[test]
fn why_a_stream_ended_is_told_by_who_read_it() {
    struct Fails(u8);
    impl Read for Fails {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 {
                return Err(io::Error::other(Error::Content(ContentError::BlobMissing {
                    digest: Digest::of(b""),
                })));
            }
            buf.fill(0);
            Ok(buf.len().min(512))
        }
    }
    let (dir, layer) = (Dir::new(), layer(OCI_LAYER, b"any"));
    let options = Options { room: worker("fails"), ..Options::default() };
    let layer = LayerSpec { size: 1 << 20, ..layer };
    let source = LayerInput::Stream(Box::new(Fails(0)));
    let applied = apply(source, &layer, &dir.image(), &Vec::<PathBuf>::new(), &options);
    assert_eq!(applied.unwrap_err().code(), "blob-missing");
}

/// A filesystem that is too small; then one process that did all of it, and what it still has open.
#[test]
fn nothing_is_left_of_workers_that_worked_or_failed() {
    const INSIDE: &str = "EROLITH_TEST_SMALL";
    let Some(small) = std::env::var_os(INSIDE) else {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: mounting needs root");
        }
        let at = TempDir::new().unwrap();
        let script = r#"mount -t tmpfs -o size=512k,mode=700 tmpfs "$0" && exec "$@""#;
        let status = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(at.path())
            .arg(std::env::current_exe().unwrap())
            .args(["apply::tests::rooms::nothing_is_left_of_workers_that_worked_or_failed"])
            .args(["--exact", "--test-threads=1"])
            .env(INSIDE, at.path())
            .stdout(Stdio::null())
            .status();
        return assert!(status.unwrap().success());
    };
    let (tar, room) = (large(), worker("small"));
    let layer = layer(OCI_LAYER, &tar);
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for room in [Isolation::Here, room] {
        run(&room, &layer, &tar, &Options::default(), From::Stream).unwrap();
        let source = LayerInput::Stream(Box::new(io::Cursor::new(tar.clone())));
        let target = Path::new(&small).join("layer.erofs");
        let options = Options { room, ..Options::default() };
        let error = apply(source, &layer, &target, &Vec::<PathBuf>::new(), &options).unwrap_err();
        assert_eq!(error.code(), "output-io", "{error}");
        assert!(erolith_errors::error_chain(&error).contains("No space left"), "{error}");
        assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
    }
    // The thread that fed it ends when it finds the pipe closed.
    let deadline = Instant::now() + Duration::from_secs(10);
    while open() > before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(open(), before);
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    assert_eq!(children.trim(), "");
}
