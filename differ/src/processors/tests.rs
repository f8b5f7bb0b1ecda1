use std::io::{Cursor, Read as _};
use std::path::Path;
use std::time::Instant;

use super::{Payloads, Processed, Processor, ProcessorInput, plan};
use crate::apply::layer::{LayerInput, LayerSpec, Options, apply};
use crate::decode::Cancel;
use crate::testing::{archive, gzip};
use crate::{Digest, EROFS_LAYER, Error, OCI_LAYER};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";

/// A shell that does something.
fn shell(script: &str, accepts: &str, returns: &str) -> Processor {
    Processor {
        id: "test".to_owned(),
        accepts: vec![accepts.to_owned()],
        returns: returns.to_owned(),
        path: "/bin/sh".into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: Vec::new(),
    }
}

#[test]
fn processors_are_put_in_a_row_until_the_type_is_known() {
    let processors = [
        shell("", ENCRYPTED, GZIP),
        shell("", "wrapped", ENCRYPTED),
        shell("", "round", "about"),
        shell("", "about", "round"),
        shell("", "nowhere", "unknown"),
        shell("", "a", EROFS_LAYER),
    ];
    let planned = |media_type| {
        plan(&processors, media_type)
            .map(|(steps, end)| (steps.iter().map(|s| s.takes.to_owned()).collect::<Vec<_>>(), end))
            .map_err(crate::testing::code)
    };
    for (media_type, steps, end) in [
        (GZIP, &[][..], GZIP),
        (ENCRYPTED, &[ENCRYPTED], GZIP),
        ("wrapped", &["wrapped", ENCRYPTED], GZIP),
        ("a", &["a"], EROFS_LAYER),
    ] {
        let steps: Vec<String> = steps.iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(planned(media_type), Ok((steps, end)), "{media_type}");
    }
    assert_eq!(planned("round"), Err("processor-loop"));
    assert_eq!(planned("nowhere"), Err("media-type-unsupported"));
    assert_eq!(planned("unknown"), Err("media-type-unsupported"));
    // A user's own decoder is preferred.
    let own = [shell("", GZIP, OCI_LAYER)];
    assert_eq!(plan(&own, GZIP).unwrap().1, OCI_LAYER);
}

/// What comes out of processors that get `blob`.
fn run(processors: &[Processor], payload: Option<&[u8]>, blob: &[u8]) -> Result<Vec<u8>, Error> {
    run_as(processors, payload, blob, &Digest::of(blob), &Cancel::default())
}

fn run_as(
    processors: &[Processor],
    payload: Option<&[u8]>,
    blob: &[u8],
    digest: &Digest,
    cancel: &Cancel,
) -> Result<Vec<u8>, Error> {
    let first = processors[0].accepts[0].as_str();
    let (steps, _) = plan(processors, first)?;
    let payloads: Payloads = payload.map(|p| ("test".to_owned(), p.to_vec())).into_iter().collect();
    let (source, size) = (Box::new(Cursor::new(blob.to_vec())), blob.len() as u64);
    let input = ProcessorInput { source, digest: digest.clone(), size, cancel: cancel.clone() };
    let mut processed = Processed::start(&steps, &payloads, input)?;
    let mut out = Vec::new();
    match processed.read_to_end(&mut out) {
        Ok(_) => Ok(out),
        Err(e) => Err(Error::reading("reading", e)),
    }
}

#[test]
fn a_processor_gets_the_layer_the_type_the_environment_and_the_payload() {
    let script =
        r#"printf '%s|%s|' "$STREAM_PROCESSOR_MEDIATYPE" "$OWN"; cat <&3; printf '|'; cat"#;
    let mut processor = shell(script, "in", OCI_LAYER);
    processor.env = vec!["OWN=a=b".to_owned()];
    let large = b"payload".repeat(30_000);
    let out = run(&[processor], Some(&large), b"layer").unwrap();
    assert_eq!(out, [b"in|a=b|".as_slice(), &large, b"|layer"].concat());
    // Without a payload there is no descriptor 3.
    let closed = shell("[ -e /proc/self/fd/3 ] && echo open; cat", "in", OCI_LAYER);
    assert_eq!(run(&[closed], None, b"layer").unwrap(), b"layer");
}

#[test]
fn processors_in_a_row_and_large_layers() {
    let blob = b"0123456789".repeat(200_000);
    let upper = shell("tr 0 o", "one", "two");
    let lower = shell("tr 1 l", "two", OCI_LAYER);
    let out = run(&[upper, lower], None, &blob).unwrap();
    assert_eq!(out, b"ol23456789".repeat(200_000));
    // One that reads only the beginning has the rest verified all the same.
    let head = shell("head -c 3", "in", OCI_LAYER);
    assert_eq!(run(std::slice::from_ref(&head), None, &blob).unwrap(), b"012");
    let other = Digest::of(b"other");
    let error = run_as(&[head], None, &blob, &other, &Cancel::default()).unwrap_err();
    assert_eq!(error.code(), "blob-digest-mismatch");
}

#[test]
fn the_failure_of_a_processor_is_named_with_what_it_said() {
    for (script, says) in [
        ("cat; echo no key >&2; exit 3", "exit status: 3: no key"),
        ("exit 1", "exit status: 1"),
        ("kill -9 $$", "signal: 9"),
        ("head -c 100000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1", "xend"),
    ] {
        let error = run(&[shell(script, "in", OCI_LAYER)], None, b"layer").unwrap_err();
        assert_eq!(error.code(), "processor-failed", "{script}");
        let text = error.to_string();
        assert!(text.contains(says) && text.contains("/bin/sh"), "{script}: {text}");
        assert!(text.len() < 5_000, "{} bytes", text.len());
    }
    // The second one dies; the first one's broken pipe is a consequence.
    let blob = b"0123456789".repeat(200_000);
    let chain = [shell("exec cat", "one", "two"), shell("exit 4", "two", OCI_LAYER)];
    let text = run(&chain, None, &blob).unwrap_err().to_string();
    assert!(text.contains("exit status: 4"), "{text}");
    let missing = Processor { path: "/no/such/program".into(), ..shell("", "in", OCI_LAYER) };
    let error = run(&[missing], None, b"layer").unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

/// Whether there are processes with this in their arguments.
fn is_running(what: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(what)
    })
}

#[test]
fn who_calls_it_off_kills_the_processors_and_what_they_started() {
    let cancel = Cancel::default();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            // A grandchild holds the output open.
            let processor = shell("sleep 987654 & wait", "in", OCI_LAYER);
            run_as(&[processor], None, b"layer", &Digest::of(b"layer"), &cancel)
        });
        while !is_running("987654") {
            std::thread::yield_now();
        }
        cancel.cancel();
        assert_eq!(work.join().unwrap().unwrap_err().code(), "cancelled");
    });
    while is_running("987654") {
        assert!(start.elapsed().as_secs() < 60, "it goes on");
        std::thread::yield_now();
    }
}

#[test]
fn a_result_that_nobody_reads_ends_its_processors() {
    let processor = [shell("exec sleep 876543", "in", OCI_LAYER)];
    let (steps, _) = plan(&processor, "in").unwrap();
    let (source, digest) = (Box::new(std::io::empty()), Digest::of(b""));
    let input = ProcessorInput { source, digest, size: 0, cancel: Cancel::default() };
    let processed = Processed::start(&steps, &Payloads::new(), input).unwrap();
    drop(processed);
    assert!(!is_running("876543"));
}

fn applied(options: &Options, blob: &[u8], target: &Path) -> Result<Digest, Error> {
    let layer = LayerSpec {
        media_type: ENCRYPTED.to_owned(),
        digest: Digest::of(blob),
        size: blob.len() as u64,
        diff_id: None,
        payloads: Payloads::new(),
        verity: None,
        signature: None,
        fsverity: None,
    };
    let source = LayerInput::Stream(Box::new(Cursor::new(blob.to_vec())));
    apply(source, &layer, target, &Vec::new(), options).map(|applied| applied.digest)
}

#[test]
fn an_encrypted_layer_is_applied_and_a_failing_processor_leaves_nothing() {
    let tar = archive(&[("file", 0o644)]);
    let secret: Vec<u8> = gzip(&tar).iter().map(|b| b ^ 0x20).collect();
    // Every byte is replaced by its counterpart.
    let table: String = (0..=255u8).map(|b| format!("\\{:03o}", b ^ 0x20)).collect();
    let all: String = (0..=255u8).map(|b| format!("\\{b:03o}")).collect();
    let decrypt = format!("LC_ALL=C tr '{all}' '{table}'");
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("layer.erofs");
    let with = |script: &str| Options {
        processors: vec![shell(script, ENCRYPTED, GZIP)],
        ..Options::default()
    };
    let failing = with(&format!("{decrypt}; exit 1"));
    assert_eq!(applied(&failing, &secret, &target).unwrap_err().code(), "processor-failed");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let unknown = applied(&Options::default(), &secret, &target).unwrap_err();
    assert_eq!(unknown.code(), "media-type-unsupported");
    assert_eq!(applied(&with(&decrypt), &secret, &target).unwrap(), Digest::of(&tar));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
