//! The page that `erolith inspect --html` writes, in a real browser: it works, and a hostile image cannot speak in it.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::Path;
use std::process::Command;

use erolith_tests::need;
use erolith_tests::program::Program;
use erolith_tests::tarball::Tarball;

/// Names and an attribute that would run or load something if they were markup.
const HOSTILE: [&str; 4] = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=document.title='owned'>",
    "\"><svg onload=document.title='owned'>",
    "</script><style>*{display:none}</style>",
];

fn browser() -> Result<&'static str, String> {
    let found = Command::new("chromium").arg("--version").output();
    found.map(|_| "chromium").map_err(|e| format!("chromium: {e}: install the package"))
}

/// Loads a page and runs its scripts. Returns the document then, what the browser complained about, and a picture.
fn load(browser: &str, page: &Path, home: &Path) -> (String, String, Vec<u8>) {
    let picture = home.join("page.png");
    let run = |what: &[&str]| {
        Command::new(browser)
            .env("HOME", home)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args([
                "--enable-logging=stderr",
                "--virtual-time-budget=3000",
                "--window-size=1200,1600",
            ])
            .arg(format!("--user-data-dir={}", home.display()))
            .args(what)
            .arg(format!("file://{}", page.display()))
            .output()
            .unwrap()
    };
    let dump = run(&["--dump-dom"]);
    run(&[&format!("--screenshot={}", picture.display())]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&dump.stdout), text(&dump.stderr), fs::read(picture).unwrap())
}

#[test]
fn the_page_works_and_names_of_the_image_stay_text() {
    let browser = need!(browser());
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut tar = Tarball::new().dir("usr").file("usr/large", vec![1; 500_000]);
    for (i, name) in HOSTILE.iter().enumerate() {
        let path = format!("{}/file-{i}", name.replace('/', "\u{2215}"));
        let pax = [("path", path.as_str()), ("SCHILY.xattr.user.<b>bold", "x")];
        tar = tar.pax(&pax).file("x", vec![2; 100_000]);
    }
    fs::write(path("tar"), tar.end()).unwrap();
    let erolith = Program(env!("CARGO_BIN_EXE_erolith"));
    let at = |name: &str| path(name).display().to_string();
    erolith.printed(&["mkfs", "--quiet", "--tar", &at("image"), &at("tar")]);
    erolith.printed(&["inspect", "--duplicates", "--html", &at("page.html"), &at("image")]);

    let source = fs::read_to_string(path("page.html")).unwrap();
    for outside in ["http://", "https://", "src=\"", "@import", "url("] {
        assert!(!source.contains(outside), "the page refers to something outside: {outside}");
    }
    let (document, complaints, picture) = load(browser, &path("page.html"), dir.path());
    assert!(
        document.contains("data-ready=\"yes\""),
        "the script did not run to its end: {complaints}"
    );
    assert!(document.contains(">/</button>"), "the way back to the root is missing");
    assert!(document.contains("488 KiB"), "the size of the large file is missing");
    assert_eq!(document.matches("<script").count(), 1, "a name became markup");
    assert_eq!(document.matches("<style").count(), 1, "a name became markup");
    assert!(
        !document.contains("<img")
            && !document.contains("<b>")
            && !document.contains("<title>owned")
    );
    assert!(!complaints.contains("Content Security Policy"), "{complaints}");
    assert!(picture.len() > 20_000, "the picture is blank: {} bytes", picture.len());
}
