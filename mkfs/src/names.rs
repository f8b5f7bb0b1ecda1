//! Paths as bytes: components with slashes between them, none at either end; the root is empty. And
//! what of such bytes a message shows.

/// The path of `name` in the directory `dir`.
#[must_use]
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// The directory and the last component of a path; both are empty for the root.
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
    let (dir, name) = path.split_at(slash);
    (dir, name.strip_prefix(b"/").unwrap_or(name))
}

/// Input bytes for a message: lossy, and cut where a hostile name would flood a log.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    const KEEP: usize = 256;
    String::from_utf8_lossy(bytes.get(..KEEP).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_and_joined() {
        for (dir, name, path) in
            [("", "", ""), ("", "a", "a"), ("a", "b", "a/b"), ("a/b", "c", "a/b/c")]
        {
            let [dir, name, path] = [dir, name, path].map(str::as_bytes);
            assert_eq!(split(path), (dir, name));
            assert_eq!(join(dir, name), path);
        }
    }
}
