//! Rules from a directory of YAML files.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::engine::{Document, Engine, Rsigma};
use crate::files::{files, without_mark};
use crate::orgs::OrgsDocument;
use crate::rules::Rules;
use crate::taxonomy::{Taxonomy, TaxonomyDocument};
use crate::view::Fields;

/// Larger files are no rules.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Documents of all files.
const MAX_DOCUMENTS: usize = 50_000;
/// Documents of a file in which one builds upon others (`action:`), and its bytes: each is parsed with all before it.
const MAX_BUILDING_DOCUMENTS: usize = 100;
const MAX_BUILDING_BYTES: usize = 256 * 1024;
/// Characters of a reason. A parser's may hold the whole document.
const MAX_REASON: usize = 400;

/// Something wrong with a rule document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// File it is in.
    pub path: PathBuf,
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong, for a person.
    pub reason: String,
    /// What follows from it.
    pub kind: DefectKind,
    /// An earlier version of the file's rules stays in force.
    pub kept_last_good: bool,
}

/// What a defect means for its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefectKind {
    /// It is no rule.
    Refused,
    /// It is a rule, left out because another one has its id.
    TakenId,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.reason)?;
        if self.kept_last_good { f.write_str(" (its last good version stays)") } else { Ok(()) }
    }
}

/// What became of a directory.
#[derive(Debug)]
pub struct Loaded {
    /// The rules that compiled.
    pub rules: Rules,
    /// The documents that did not.
    pub defects: Vec<Defect>,
}

/// Where a document came from, and its text: with the documents it builds upon before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub path: Arc<Path>,
    pub line: usize,
    pub documents: Vec<String>,
}

impl Source {
    pub(crate) fn texts(&self) -> Vec<&str> {
        self.documents.iter().map(String::as_str).collect()
    }
}

/// Loads every `*.yml` and `*.yaml` under `directory`, `*.test.yml` aside; or the one file that it names. For a document
/// that is wrong, the rules that `previous` had from the same file stay, unless they are there anew.
///
/// # Errors
/// The directory cannot be read; files below it that cannot are defects.
pub fn load(directory: &Path, taxonomy: &Taxonomy, previous: Option<&Rules>) -> io::Result<Loaded> {
    let files = files(directory, &is_rule_file)?;
    let mut sources = Vec::new();
    let mut defects = Vec::new();
    for (path, _) in files {
        match read(&path) {
            Ok(text) => add(&path, &text, &mut sources, &mut defects),
            Err(reason) => defects.push(refused(&path, 1, reason)),
        }
    }
    Ok(compile(sources, defects, taxonomy, previous))
}

fn refused(path: &Path, line: usize, mut reason: String) -> Defect {
    if let Some((end, _)) = reason.char_indices().nth(MAX_REASON) {
        reason.truncate(end);
        reason.push('…');
    }
    Defect { path: path.to_owned(), line, reason, kind: DefectKind::Refused, kept_last_good: false }
}

/// Adds the documents of a file, as far as there may be so many.
fn add(path: &Path, text: &str, sources: &mut Vec<Source>, defects: &mut Vec<Defect>) {
    match split(path, text) {
        Ok(mut more) => {
            let left = MAX_DOCUMENTS.saturating_sub(sources.len());
            if let Some(first) = more.get(left) {
                let reason = format!("there are more than {MAX_DOCUMENTS} documents in all files");
                defects.push(refused(path, first.line, reason));
            }
            more.truncate(left);
            sources.append(&mut more);
        }
        Err((line, reason)) => defects.push(refused(path, line, reason)),
    }
}

/// Compiles the documents of one text, as if it were the file `path`.
pub fn load_documents(path: &Path, text: &str, taxonomy: &Taxonomy) -> Loaded {
    let (mut sources, mut defects) = (Vec::new(), Vec::new());
    add(path, text, &mut sources, &mut defects);
    compile(sources, defects, taxonomy, None)
}

/// A number that changes when a file that [`load`] would read appears, disappears, or is written.
///
/// # Errors
/// The directory cannot be read.
pub fn fingerprint(directory: &Path) -> io::Result<u64> {
    let files = files(directory, &is_rule_file)?;
    let mut hasher = std::hash::DefaultHasher::new();
    for (path, metadata) in files {
        path.hash(&mut hasher);
        metadata.len().hash(&mut hasher);
        metadata.modified().ok().hash(&mut hasher);
        (metadata.dev(), metadata.ino()).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn is_rule_file(name: &str) -> bool {
    let yaml = name.strip_suffix(".yml").or_else(|| name.strip_suffix(".yaml"));
    yaml.is_some_and(|stem| !stem.ends_with(".test") && !stem.starts_with('.'))
}

fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("the file has more than {MAX_FILE_BYTES} bytes"));
    }
    let text = std::str::from_utf8(without_mark(&bytes)).map_err(|_| "the file is not UTF-8".to_owned())?;
    Ok(text.to_owned())
}

/// Splits a file into its documents. One that may build upon others (`action:`) takes those before it along.
///
/// # Errors
/// Line and reason, where that would be too much.
fn split(path: &Path, text: &str) -> Result<Vec<Source>, (usize, String)> {
    let path: Arc<Path> = Arc::from(path);
    let mut parts: Vec<(usize, String)> = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line.trim_end() == "---" {
            parts.push((index + 2, String::new()));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let blank = |part: &str| part.lines().all(|line| line.trim().is_empty() || line.starts_with('#'));
    parts.retain(|(_, part)| !blank(part));
    let builds = parts.iter().any(|(_, part)| part.lines().any(|line| line.starts_with("action:")));
    if builds && text.len() > MAX_BUILDING_BYTES {
        return Err((
            1,
            format!("a file with `action:` may have {MAX_BUILDING_BYTES} bytes, it has {}", text.len()),
        ));
    }
    if let Some((line, _)) = parts.get(MAX_BUILDING_DOCUMENTS).filter(|_| builds) {
        return Err((*line, format!("a file with `action:` may have {MAX_BUILDING_DOCUMENTS} documents")));
    }
    let mut earlier: Vec<String> = Vec::new();
    let sources = parts
        .into_iter()
        .map(|(line, part)| {
            let documents = if builds {
                earlier.push(part);
                earlier.clone()
            } else {
                vec![part]
            };
            Source { path: path.clone(), line, documents }
        })
        .collect();
    Ok(sources)
}

/// First 16 hexadecimal digits of the SHA-256 of a document.
fn hash(source: &Source) -> String {
    let mut digest = Sha256::new();
    for document in &source.documents {
        digest.update(document.as_bytes());
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn compile(
    sources: Vec<Source>,
    mut defects: Vec<Defect>,
    taxonomy: &Taxonomy,
    previous: Option<&Rules>,
) -> Loaded {
    let taxonomy = extended(taxonomy, &sources, previous);
    let mut fields = Fields::default();
    let mut compiled = Vec::new();
    let mut broken: HashSet<Arc<Path>> =
        defects.iter().map(|defect| Arc::from(defect.path.as_path())).collect();
    for (index, source) in sources.iter().enumerate() {
        match compile_one(source, &mut fields, &taxonomy) {
            Ok(Some(document)) => compiled.push((index, source.clone(), document)),
            Ok(None) => {}
            Err(defect) => {
                broken.insert(source.path.clone());
                defects.push(defect);
            }
        }
    }
    let count = sources.len();
    let mut kept: HashSet<Arc<Path>> = HashSet::new();
    let anew: HashSet<String> =
        compiled.iter().map(|(_, _, document)| document.identity().into_owned()).collect();
    for old in previous.map_or(&[][..], |rules| &rules.sources) {
        if !broken.contains(&old.path) {
            continue;
        }
        if let Ok(Some(document)) = compile_one(old, &mut fields, &taxonomy)
            && !anew.contains(&*document.identity())
        {
            kept.insert(old.path.clone());
            compiled.push((count, old.clone(), document));
        }
    }
    for defect in &mut defects {
        defect.kept_last_good = kept.contains(defect.path.as_path());
    }
    let (rules, left_out) = Rules::assemble(compiled, fields, taxonomy);
    for (index, kind, reason) in left_out {
        if let Some(source) = sources.get(index) {
            defects.push(Defect {
                path: source.path.to_path_buf(),
                line: source.line,
                reason,
                kind,
                kept_last_good: false,
            });
        }
    }
    Loaded { rules, defects }
}

/// The tables with what the user adds; in place of additions that are wrong, those that `previous` had from the same file.
fn extended(taxonomy: &Taxonomy, sources: &[Source], previous: Option<&Rules>) -> Taxonomy {
    let mut taxonomy = taxonomy.clone();
    let parsed = |source: &Source| match source.documents.last() {
        Some(text) if TaxonomyDocument::is_one(text) => Some(TaxonomyDocument::parse(text)),
        _ => None,
    };
    for source in sources {
        match parsed(source) {
            None => {}
            Some(Ok(additions)) => taxonomy.extend(additions),
            Some(Err(_)) => {
                let before = previous.map_or(&[][..], |rules| &rules.sources).iter();
                let before = before.filter(|old| old.path == source.path).filter_map(parsed);
                before.flatten().for_each(|additions| taxonomy.extend(additions));
            }
        }
    }
    taxonomy
}

fn compile_one(
    source: &Source,
    fields: &mut Fields,
    taxonomy: &Taxonomy,
) -> Result<Option<Document>, Defect> {
    let compiled = match source.documents.last() {
        Some(text) if OrgsDocument::is_one(text) => {
            OrgsDocument::parse(text).map(|document| Some(Document::Orgs(document)))
        }
        Some(text) if TaxonomyDocument::is_one(text) => {
            TaxonomyDocument::parse(text).map(|_| Some(Document::Taxonomy(hash(source))))
        }
        _ => Rsigma.compile(&source.texts(), &hash(source), fields, taxonomy),
    };
    compiled.map_err(|refusal| {
        refused(&source.path, source.line + refusal.line.map_or(0, |line| line - 1), refusal.reason)
    })
}
