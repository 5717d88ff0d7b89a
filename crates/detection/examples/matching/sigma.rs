//! SigmaHQ's rules from their archive; the tests of tidewatch-rules read them by this file too.

use std::fs::File;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Its name in the folder of the data.
pub const ARCHIVE: &str = "rules.tar.zst";
/// The directories of rules that are current.
const CURRENT: [&str; 4] = ["rules", "rules-emerging-threats", "rules-threat-hunting", "rules-compliance"];

/// A site's own values: two of the rules ask for the names of its certification authorities.
const PLACEHOLDERS: &str = "taxonomy:\n  placeholders: {known_cdcs: [ca-1, ca-2]}\n";

/// The rules, unpacked, with values for their placeholders; the others beside the current ones are removed.
pub fn unpacked(archive: File) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar")
        .args(["x", "-C"])
        .arg(directory.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("tar is there");
    zstd::stream::copy_decode(archive, tar.stdin.take().unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
    for other in std::fs::read_dir(directory.path().join("sigma")).unwrap() {
        let other = other.unwrap();
        if other.path().is_dir() && !CURRENT.contains(&other.file_name().to_str().unwrap()) {
            std::fs::remove_dir_all(other.path()).unwrap();
        }
    }
    std::fs::write(directory.path().join("placeholders.yml"), PLACEHOLDERS).unwrap();
    directory
}
