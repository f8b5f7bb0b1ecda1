//! The grammar, by table; and against everything else that people may send.

use proptest::prelude::*;

use super::super::types::{Info, Kind, Labels, Timestamp};
use super::regexp::translate;
use super::*;
use crate::store::SnapshotError;
use erolith_errors::ErrorStatus;

fn info(name: &str, parent: &str, kind: Kind, labels: &[(&str, &str)]) -> Info {
    let moment = Timestamp { seconds: 0, nanos: 0 };
    let labels: Labels = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    Info {
        name: name.to_owned(),
        parent: parent.to_owned(),
        kind,
        created: moment,
        updated: moment,
        labels,
    }
}

/// The snapshots that the tables are about.
fn corpus() -> Vec<Info> {
    vec![
        info("foo", "", Kind::Active, &[("foo", "true")]),
        info("bar", "foo", Kind::Committed, &[]),
        info("foo2", "bar", Kind::View, &[("foo", "present"), ("more complex label", "present")]),
        info("bar2", "bar", Kind::Committed, &[("bar", "true"), ("empty", "")]),
        info("q", "", Kind::Active, &[("more \\ and \"", "present")]),
        info("q.p", "", Kind::Active, &[("more \\ and \".post", "present"), ("l", "2")]),
        info("too complex, yo", "", Kind::View, &[("containerd.io/gc.root", "check")]),
        info("c", "a/b:c", Kind::View, &[("foo", "omg_asdf.asdf-qwer"), ("", "nameless")]),
    ]
}

/// Indexes of what these filters show.
fn shown(filters: &[&str]) -> Vec<usize> {
    let filters: Vec<String> = filters.iter().map(|&f| f.to_owned()).collect();
    let filters = Filters::parse(&filters).unwrap_or_else(|error| panic!("{filters:?}: {error}"));
    let all = corpus();
    (0..all.len()).filter(|&n| filters.matches(&all[n])).collect()
}

const ALL: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// Filters, and what they show.
const SHOWN: &[(&str, &[usize])] = &[
    ("", &ALL),
    // Presence.
    ("name", &ALL),
    ("parent", &ALL),
    ("kind", &ALL),
    ("labels", &[7]),
    ("labels.foo", &[0, 2, 7]),
    ("labels.empty", &[3]),
    ("unknown", &[]),
    ("labels.foo,name", &[0, 2, 7]),
    ("labels.foo,labels.bar", &[]),
    ("name.more.parts", &ALL),
    // Equality.
    ("name==bar", &[1]),
    ("name == bar", &[1]),
    ("  name ==\tbar", &[1]),
    (r#"name=="bar""#, &[1]),
    ("name==Bar", &[]),
    (r#"name=="too complex, yo""#, &[6]),
    ("name==q.p", &[5]),
    ("kind==active", &[0, 4, 5]),
    ("kind==view", &[2, 6, 7]),
    ("kind==committed", &[1, 3]),
    ("kind==Committed", &[]),
    (r#"parent=="""#, &[0, 4, 5, 6]),
    (r#"parent!="""#, &[1, 2, 3, 7]),
    (r#"parent=="a/b:c""#, &[7]),
    ("parent==a/b:c", &[7]),
    ("labels.foo==true", &[0]),
    ("labels.foo==omg_asdf.asdf-qwer", &[7]),
    (r#"labels.empty=="""#, &[3]),
    (r#"labels.none=="""#, &[]),
    (r#"unknown=="""#, &[]),
    ("labels.l==2", &[5]),
    ("name==bar,kind==committed, labels.x", &[]),
    ("kind==committed,labels.bar==true", &[3]),
    ("kind==committed, labels.bar == true", &[3]),
    ("name=='bar'", &[]),
    ("name==a=b", &[]),
    ("name==\u{1}bar", &[]),
    // Inequality is true of what is absent.
    ("name!=bar", &[0, 2, 3, 4, 5, 6, 7]),
    ("labels.foo!=true", &[1, 2, 3, 4, 5, 6, 7]),
    (r#"labels.none!="""#, &[]),
    ("unknown!=x", &ALL),
    // Quoted fields.
    (r#"labels."more complex label""#, &[2]),
    (r#""labels"."foo""#, &[0, 2, 7]),
    (r#"labels."more \\ and \""==present"#, &[4]),
    (r#"labels."more \\ and \"".post==present"#, &[5]),
    (r#"labels."containerd.io/gc.root"==check"#, &[6]),
    (r#"labels.containerd."io/gc".root"#, &[6]),
    (r#"labels."""#, &[7]),
    (r#"labels. "foo""#, &[0, 2, 7]),
    (r#""""#, &[]),
    // Escapes.
    (r#"name=="\x62\141\u0072""#, &[1]),
    (r#"name=="\U00000062ar""#, &[1]),
    (r#"name=="\a\b\f\n\r\t\v\\""#, &[]),
    // Regular expressions find, they need not cover.
    ("name~=ba", &[1, 3]),
    ("name~=^ba.$", &[1]),
    ("name~=[abc]+,parent!=foo", &[3, 6, 7]),
    (r#"name~="^b|^c""#, &[1, 3, 7]),
    ("name~=/^[fo]{3,3}$/", &[0]),
    ("name~=|^(q,?)+$|", &[4]),
    (r"name~=/\//", &[]),
    (r"parent~=/\//", &[7]),
    (r"parent~=|a/b|", &[7]),
    (r#"name~=/"/"#, &[]),
    (r"name~=^q\.p$", &[5]),
    (r"name~=/^q\\.p$/", &[5]),
    (r#"labels.foo~=".""#, &[0, 2, 7]),
    ("labels.foo~=^$", &[1, 3, 4, 5, 6]),
    ("unknown~=/.*/", &ALL),
    ("unknown~=/./", &[]),
    (r#"name~="""#, &ALL),
];

#[test]
fn selectors_choose_snapshots() {
    for (filter, expected) in SHOWN {
        assert_eq!(shown(&[filter]), *expected, "{filter}");
    }
}

#[test]
fn one_of_several_filters_is_enough() {
    assert_eq!(shown(&[]), ALL);
    assert_eq!(shown(&["name==foo", "name==bar"]), [0, 1]);
    assert_eq!(shown(&["name==foo,labels.foo", "kind==committed,labels.bar"]), [0, 3]);
    assert_eq!(shown(&["name==none", ""]), ALL);
    assert_eq!(shown(&["name==none", "unknown"]), [0; 0]);
}

/// What is no filter; where, in bytes; and what is said.
const REFUSED: &[(&str, usize, &str)] = &[
    (" ", 1, "expected a field"),
    (",", 0, "expected a field"),
    (".", 0, "expected a field"),
    ("==a", 0, "expected a field"),
    ("name,", 5, "expected a field"),
    ("name==foo,", 10, "expected a field"),
    (",name", 0, "expected a field"),
    ("labels.", 7, "expected a field"),
    ("labels..a", 7, "expected a field"),
    (r#"labels.?"more".post==present"#, 7, "expected a field"),
    ("'name'", 0, "expected a field"),
    ("größe", 2, "expected an operator"),
    ("name ", 5, "expected an operator"),
    ("name foo", 5, "expected an operator"),
    ("name ,kind", 5, "expected an operator"),
    ("labels .foo", 7, "expected an operator"),
    ("name\"foo\"", 4, "expected an operator"),
    ("name=foo", 4, "no operator `=`"),
    ("name===foo", 4, "no operator `===`"),
    ("name=~foo", 4, "no operator `=~`"),
    ("name!foo", 4, "no operator `!`"),
    ("name==", 6, "expected a value"),
    ("name== ", 7, "expected a value"),
    ("image~=,id?=?fbaq", 7, "expected a value"),
    ("name==.foo", 6, "expected a value"),
    ("name==foo ", 9, "unexpected ' '"),
    ("name==foo ,kind", 9, "unexpected ' '"),
    ("name==\"foo\"bar", 11, "unexpected 'b'"),
    ("name==foo\u{7f}", 9, "unexpected"),
    ("name==foo\0", 9, "unexpected"),
    ("\0", 0, "no text"),
    ("name==\u{fffd}", 6, "no text"),
    ("labels.|foo|==omg", 7, "only regular expressions"),
    ("name==/foo/", 6, "only regular expressions"),
    ("name!=|foo|", 6, "only regular expressions"),
    ("labels.ns/key==value", 9, "not closed"),
    ("labels.key==/value", 12, "not closed"),
    ("name==\"foo", 6, "not closed"),
    ("name==\"foo\\\"", 6, "not closed"),
    ("name==\"foo\\", 6, "not closed"),
    ("name==\"foo\nbar\"", 6, "not closed"),
    (r#"name=="\d""#, 7, "no such escape"),
    (r#"name=="\'""#, 7, "no such escape"),
    (r#"name=="\/""#, 7, "no such escape"),
    (r#"name~=/\d/"#, 7, "no such escape"),
    (r#"name=="\x4""#, 7, "no such escape"),
    (r#"name=="\x+1""#, 7, "no such escape"),
    (r#"name=="\u00e""#, 7, "no such escape"),
    (r#"name=="\ud800""#, 7, "no such escape"),
    (r#"name=="\UFFFFFFFF""#, 7, "no such escape"),
    (r#"name=="\400""#, 7, "no such escape"),
    (r#"name=="\08""#, 7, "no such escape"),
    ("name==\"\\xé\"", 7, "no such escape"),
    (r#"name=="a\xe4""#, 6, "not UTF-8"),
    ("name~=(", 6, "bad regular expression"),
    ("name~=**", 6, "bad regular expression"),
    ("name~=[z-a]", 6, "bad regular expression"),
    ("name~=(?=a)", 6, "bad regular expression"),
    ("name~=((a{1000}){1000}){1000}", 6, "bad regular expression"),
];

#[test]
fn what_is_no_filter_is_refused_with_its_place() {
    for &(filter, at, reason) in REFUSED {
        let error = match Filters::parse(&["name".into(), filter.into()]) {
            Err(crate::Error::Store(error)) => error,
            other => panic!("{filter:?}: {other:?}"),
        };
        assert_eq!((error.code(), error.status()), ("filter", ErrorStatus::InvalidArgument));
        let Error::Snapshot(SnapshotError::BadFilter { filter: named, at: place, reason: why }) =
            &error
        else {
            panic!()
        };
        assert_eq!(named, filter);
        assert!(why.contains(reason) && !why.contains('\n'), "{filter:?}: {why}");
        assert_eq!(*place, at, "{filter:?}: {why}");
    }
}

#[test]
fn long_filters_make_short_messages() {
    let filter = format!("name=={}(", "a ".repeat(1 << 20));
    let error = Filters::parse(&[filter]).unwrap_err();
    assert!(error.to_string().len() < 1000);
}

#[test]
fn expressions_mean_what_go_means() {
    for (go, ours) in [
        (r"\d+\D", "[0-9]+[^0-9]"),
        (r"[\d\s]", r"[[0-9][\t\n\f\r ]]"),
        (r"\w\W\S", r"[0-9A-Za-z_][^0-9A-Za-z_][^\t\n\f\r ]"),
        (r"\bfoo\b", r"(?-u:\b)foo(?-u:\b)"),
        (r"a{2}b{2,}c{2,3}", "a{2}b{2,}c{2,3}"),
        (r"a{b{,2}{}", r"a\{b\{,2}\{}"),
        (r"\p{Greek}\pL\x{41}\x41", r"\p{Greek}\pL\x{41}\x41"),
        (r"[[:alpha:]_]", "[[:alpha:]_]"),
        (r"[[:^alpha:]]", "[[:^alpha:]]"),
        (r"[[a]", r"[\[a]"),
        (r"[]a]", r"[\]a]"),
        (r"[^]a]", r"[^\]a]"),
        (r"[a&&b~~c]", r"[a\&\&b\~\~c]"),
        (r"[+--]", r"[+-\-]"),
        (r"[[:x]", r"[\[:x]"),
        (r"\Qa.b\Ec.", r"a\.bc."),
        (r"\Qa.b", r"a\.b"),
        (r"\<\>\.", r"<>\."),
        (r"\", r"\"),
        (r"[", "["),
    ] {
        assert_eq!(translate(go), ours, "{go}");
    }
    for (go, text, found) in [
        (r"^\d$", "٣", false),
        (r"^\w$", "é", false),
        (r"^.$", "é", true),
        (r"(?i)É", "é", true),
        (r"^[[:alpha:]]$", "é", false),
        (r"^[a&&b]+$", "a&b", true),
        (r"^[[x]+$", "[x", true),
        (r"^[]]+$", "]]", true),
        (r"^[^\d]$", "7", false),
        (r"^[+--]$", ",", true),
        (r"^a{,2}$", "a{,2}", true),
        (r"^\101\x41$", "AA", true),
        (r"\bé", "é", false),
        (r"\Q(\E", "(", true),
        (r"^a\z", "a", true),
        ("a$", "a\n", false),
    ] {
        assert_eq!(super::regexp::compile(go).unwrap().is_match(text), found, "{go} in {text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_filter_panics(filter in any::<String>()) {
        if let Ok(filters) = Filters::parse(&[filter]) {
            let _ = corpus().iter().filter(|info| filters.matches(info)).count();
        }
    }

    /// Nearer to the grammar, so that more gets through the first word.
    #[test]
    fn no_likely_filter_panics(
        filter in r#"(name|labels|labels\.a|"a\\"|[.,]|==|!=|~=|[/|"']|\\x4|[\[({^&\\]|\{1,|é|[a-z ]){1,12}"#
    ) {
        if let Ok(filters) = Filters::parse(&[filter]) {
            let _ = corpus().iter().filter(|info| filters.matches(info)).count();
        }
    }

    /// A value quoted as Go's `%q` does it is found again.
    #[test]
    fn quoted_values_are_exact(value in any::<String>()) {
        let value = value.replace(['\0', '\u{fffd}'], "");
        let quoted = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let snapshot = info(&value, "", Kind::Active, &[(&value, "x")]);
        for filter in [format!("name==\"{quoted}\""), format!("labels.\"{quoted}\"==x")] {
            prop_assert!(Filters::parse(&[filter]).unwrap().matches(&snapshot));
        }
        let other = info(&format!("{value}x"), "", Kind::Active, &[]);
        let filter = format!("name==\"{quoted}\"");
        prop_assert!(!Filters::parse(&[filter]).unwrap().matches(&other));
    }
}
