//! The files under a directory.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

/// Directories nested deeper are not read.
const MAX_DEPTH: usize = 16;

/// The files under `path` whose name is `wanted`, or `path` itself where it is a file. Each stands once, however many
/// symbolic links lead to it: a link may lead to a directory that it is in, and Kubernetes mounts a ConfigMap as links to
/// `..data/NAME`, where `..data` is a link to a directory beside it. Nothing is opened but directories; a FIFO would
/// block.
///
/// # Errors
/// A directory cannot be read, or `path` is neither file nor directory.
pub fn files(path: &Path, wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() {
        return Ok(vec![(path.to_owned(), metadata)]);
    }
    if !metadata.is_dir() {
        return Err(io::Error::other("it is neither a file nor a directory"));
    }
    let mut walk = Walk { wanted, seen: HashSet::new(), files: Vec::new() };
    walk.directory(path, 0)?;
    Ok(walk.files)
}

/// A file's bytes without the mark that editors on Windows put before UTF-8.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

struct Walk<'w> {
    wanted: &'w dyn Fn(&str) -> bool,
    /// Without links.
    seen: HashSet<PathBuf>,
    files: Vec<(PathBuf, Metadata)>,
}

/// In the order in which they are looked at. Of several paths to a file the plainest is to be its name: one that does
/// not change when a ConfigMap does, and no link's if it has another.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_directory: bool,
    is_hidden: bool,
    is_link: bool,
    path: PathBuf,
}

impl Walk<'_> {
    fn directory(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let real = path.canonicalize()?;
        if !self.seen.insert(real.clone()) {
            return Ok(());
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let path = entry.path();
            // A file that vanished since it was listed is as good as never there.
            let (Ok(metadata), Ok(own)) = (fs::metadata(&path), entry.file_type()) else { continue };
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let rank = Rank { is_directory: metadata.is_dir(), is_hidden, is_link: own.is_symlink(), path };
            entries.push((rank, metadata));
        }
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (Rank { is_directory, is_link, path, .. }, metadata) in entries {
            if is_directory {
                if depth < MAX_DEPTH {
                    self.directory(&path, depth + 1)?;
                }
                continue;
            }
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if !metadata.is_file() || !(self.wanted)(name) {
                continue;
            }
            let Ok(real) = (if is_link { path.canonicalize() } else { Ok(real.join(name)) }) else {
                continue;
            };
            if self.seen.insert(real) {
                self.files.push((path, metadata));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::to_itself(&["a.yml"], &[("loop", "."), ("other", ".")], &["a.yml"])]
    #[case::to_one_above(&["sub/deep/a.yml"], &[("sub/deep/up", "..")], &["sub/deep/a.yml"])]
    #[case::to_one_beside(&["sub/a.yml"], &[("again", "sub")], &["sub/a.yml"])]
    #[case::to_a_file(&["z.yml"], &[("a.yml", "z.yml")], &["z.yml"])]
    #[case::to_nothing(&["a.yml"], &[("b.yml", "gone.yml")], &["a.yml"])]
    #[case::a_config_map(
        &["..2026_11_27/a.yml", "..2026_11_27/b.yml"],
        &[("..data", "..2026_11_27"), ("a.yml", "..data/a.yml"), ("b.yml", "..data/b.yml")],
        &["a.yml", "b.yml"]
    )]
    #[case::a_config_map_with_folders(
        &["..2026_11_27/sub/a.yml"],
        &[("..data", "..2026_11_27"), ("sub", "..data/sub")],
        &["sub/a.yml"]
    )]
    fn a_file_stands_once_whatever_links_lead_to_it(
        #[case] written: &[&str],
        #[case] links: &[(&str, &str)],
        #[case] expected: &[&str],
    ) {
        let folder = tempfile::tempdir().unwrap();
        for name in written {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        for (link, target) in links {
            symlink(target, folder.path().join(link)).unwrap();
        }
        let found = files(folder.path(), &|name| name.ends_with(".yml")).unwrap();
        let found: Vec<&Path> =
            found.iter().map(|(path, _)| path.strip_prefix(folder.path()).unwrap()).collect();
        assert_eq!(found, expected.iter().map(Path::new).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_neither_file_nor_directory_is_refused_unopened() {
        let error = files(Path::new("/dev/null"), &|_| true).unwrap_err();
        assert_eq!(error.to_string(), "it is neither a file nor a directory");
    }
}
