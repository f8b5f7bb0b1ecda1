//! The facts that the tests of containerd's `platforms` package state, as tables.

use super::*;

fn parse(text: &str) -> Platform {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn names_are_normalised_on_both_sides() {
    for (text, expect) in [
        ("linux/x86_64", "linux/amd64"),
        ("linux/x86-64", "linux/amd64"),
        ("linux/AMD64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/V3", "linux/amd64/v3"),
        ("linux/i386", "linux/386"),
        ("linux/i386/v5", "linux/386"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/Aarch64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v9.0", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armhf/v6", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("macOS/arm64", "darwin/arm64"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("windows(10.0.17763+win32k)/amd64", "windows(10.0.17763+win32k)/amd64"),
        ("windows()/amd64", "windows/amd64"),
        ("linux(+erofs)/amd64", "linux(+erofs)/amd64"),
        ("x86_64", "linux/amd64"),
        ("s390x", "linux/s390x"),
        ("armel", "linux/arm/v6"),
    ] {
        assert_eq!(parse(text).to_string(), expect, "{text}");
        assert_eq!(parse(expect), parse(text), "{expect} is stable");
    }
    for bad in [
        "",
        "linux",
        "nothing",
        "linux/",
        "/amd64",
        "/linux/arm",
        "linux/arm/",
        "linux /arm",
        "linux/&arm",
        "linux/amd64/v1/x",
        "linux/../x y",
        "linux(/amd64",
        "linux(a b)/amd64",
        "linux/*",
    ] {
        assert_eq!(bad.parse::<Platform>().unwrap_err().code(), "platform-invalid", "{bad}");
    }
}

/// What a platform takes, the best first, and what it does not take.
const ONLY: &[(&str, &[&str], &[&str])] = &[
    (
        "linux/amd64",
        &["linux/amd64", "linux/386"],
        &["linux/amd64/v2", "linux/amd64/v3", "linux/arm/v7", "linux/arm64", "windows/amd64"],
    ),
    (
        "linux/amd64/v2",
        &["linux/amd64/v2", "linux/amd64/v1", "linux/386"],
        &["linux/amd64/v3", "linux/amd64/v4", "linux/arm/v7", "linux/arm64", "windows/amd64"],
    ),
    ("linux/386", &["linux/386"], &["linux/amd64", "linux/arm/v7", "linux/arm64", "windows/amd64"]),
    (
        "linux/arm/v8",
        &["linux/arm/v8", "linux/arm", "linux/arm/v6", "linux/arm/v5"],
        &["linux/amd64", "linux/arm/v4", "linux/arm64", "windows/arm"],
    ),
    (
        "linux/arm",
        &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
        &["linux/arm/v4", "linux/arm/v8", "linux/arm64", "windows/arm"],
    ),
    (
        "linux/arm/v6",
        &["linux/armel", "linux/arm/v5"],
        &["linux/arm", "linux/arm/v4", "linux/arm/v7", "linux/arm/v8", "linux/arm64"],
    ),
    (
        "linux/arm/v5",
        &["linux/arm/v5"],
        &["linux/arm", "linux/arm/v4", "linux/arm/v6", "linux/arm/v7"],
    ),
    ("linux/arm/v4", &["linux/arm/v4"], &["linux/arm", "linux/arm/v5", "linux/arm64"]),
    (
        "linux/arm64/v9",
        &[
            "linux/arm64/v9",
            "linux/arm64/v8.5",
            "linux/arm64/v8.4",
            "linux/arm64/v8.3",
            "linux/arm64/v8.2",
            "linux/arm64/v8.1",
            "linux/arm64",
            "linux/arm/v8",
            "linux/arm",
            "linux/arm/v6",
            "linux/arm/v5",
        ],
        &["linux/amd64", "linux/arm/v4", "linux/arm64/v8.6", "linux/arm64/v9.1", "windows/arm"],
    ),
    (
        "linux/arm64/v9.1",
        &["linux/arm64/v9.1", "linux/arm64/v9.0", "linux/arm64/v8.6", "linux/arm64/v8.5"],
        &["linux/arm64/v8.7", "linux/arm64/v9.2"],
    ),
    (
        "linux/arm64/v8.1",
        &[
            "linux/arm64/v8.1",
            "linux/arm64/v8",
            "linux/arm/v8",
            "linux/arm",
            "linux/arm/v6",
            "linux/arm/v5",
        ],
        &["linux/amd64", "linux/arm/v4", "linux/arm/v9", "linux/arm64/v9", "windows/arm"],
    ),
    (
        "linux/arm64",
        &["linux/arm64/v8", "linux/arm/v8", "linux/arm", "linux/arm/v6", "linux/arm/v5"],
        &[
            "linux/amd64",
            "linux/arm/v4",
            "linux/arm/v9",
            "linux/arm64/v9",
            "linux/arm64/v8.1",
            "windows/arm",
        ],
    ),
    (
        "windows/amd64",
        &["windows(10.0.17763)/amd64"],
        &["linux/amd64", "linux/arm64", "windows/arm", "windows(10.0.17763+win32k)/amd64"],
    ),
    (
        "windows(10.0.17763.1)/amd64",
        &["windows(10.0.17763.2)/amd64"],
        &["windows(10.0.17764)/amd64", "linux/amd64"],
    ),
    ("linux(+gpu)/amd64", &["linux(+gpu)/amd64"], &["linux(+gpu+simd)/amd64"]),
    ("linux/amd64", &["linux(+erofs)/amd64"], &["linux(+gpu)/amd64"]),
];

#[test]
fn a_platform_takes_what_it_can_run_and_the_best_first() {
    for (wanted, taken, refused) in ONLY {
        let rank = |have: &&str| parse(have).rank(&parse(wanted));
        let ranks: Vec<_> = taken.iter().map(rank).collect();
        assert!(ranks.iter().all(Option::is_some), "{wanted}: {ranks:?}");
        assert!(ranks.is_sorted_by(|a, b| a < b), "{wanted}: {ranks:?}");
        for have in *refused {
            assert_eq!(rank(have), None, "{have} for {wanted}");
        }
    }
}

#[test]
fn names_in_documents_are_compared_like_those_of_users() {
    for (os, architecture, variant, wanted) in [
        ("linux", "x86_64", "", "linux/amd64"),
        ("Linux", "amd64", "", "linux/amd64"),
        ("", "amd64", "v1", "linux/amd64"),
        ("linux", "aarch64", "v8", "linux/arm64"),
        ("linux", "armhf", "", "linux/arm/v7"),
        ("linux", "arm", "7", "linux/armhf"),
        ("linux", "386", "", "linux/i386"),
    ] {
        let platform = Platform::new(os, architecture, variant);
        assert_eq!(platform.rank(&parse(wanted)), Some(0), "{platform} for {wanted}");
    }
    assert!(Platform::new("unknown", "unknown", "").is_unknown());
    assert!(!Platform::new("linux", "amd64", "").is_unknown());
}

#[test]
fn the_variant_of_arm_is_that_of_the_machine() {
    for (machine, variant) in [
        ("armv5tel", "v5"),
        ("armv6l", "v6"),
        ("armv7l", "v7"),
        ("armv8l", "v8"),
        ("aarch64", "v8"),
        ("", "v7"),
    ] {
        assert_eq!(arm_variant(machine), variant, "{machine}");
    }
    assert!(Platform::host().answers(&Platform::host()));
}

#[test]
fn platforms_survive_json() {
    let erofs = parse("linux/arm64/v9").with_feature("erofs").with_feature("erofs");
    assert_eq!(erofs.to_string(), "linux(+erofs)/arm64/v9");
    let json = erofs.to_json();
    assert_eq!(Platform::from_json(json.as_object().unwrap()), erofs);
}
