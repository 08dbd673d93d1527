//! The embedded store: a directory of YAML for people, which programs may write to as well.
//!
//! Reading is [`super::directory`]'s and [`super::watch`]'s. A write replaces one document in its
//! file and leaves the file's other text alone; a new resource gets a file of its own,
//! `KIND/[NAMESPACE.]NAME.yaml`. Files are replaced whole by rename. Writers of several processes
//! take turns by a lock on `.lock`; a revision is a hash of the content, so that an edit by hand
//! counts as a change too. Left out: a history, and with it watches from a revision.

use super::datastore::{Datastore, Document, Listing, Revision, StoreError};
use super::directory::Directory;
use super::text::{self, Place};
use super::watch::{self, Batch};
use super::{Fault, directory};
use crate::resource::Key;
use serde_json::Value;
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

#[cfg(test)]
mod tests;

/// The directory as a datastore.
#[derive(Debug, Clone)]
pub struct Embedded {
    path: PathBuf,
}

/// Where a document stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spot {
    file: PathBuf,
    place: Place,
}

/// Documents with their places, and what cannot be read.
type Content = (BTreeMap<Key, (Spot, Document)>, Vec<Fault>);

impl Embedded {
    /// The store in this directory, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Embedded {
        Embedded { path: path.into() }
    }

    /// Every document of all files that counts, by key; of several with one key, the first.
    fn read(&self) -> Result<Content, StoreError> {
        let mut found = BTreeMap::new();
        let mut faults = Vec::new();
        for file in directory::files(&self.path).map_err(|error| self.fails(&error))? {
            let content = match std::fs::read_to_string(&file) {
                Ok(content) => content,
                Err(error) => {
                    faults.push(directory::whole(&file, error.to_string(), "a readable file"));
                    continue;
                }
            };
            let values = match text::values(&file.display().to_string(), &content) {
                Ok(values) => values,
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            };
            for (place, value) in values {
                match Document::new(value) {
                    Ok(mut document) => {
                        document.revision = Some(revision(&document));
                        let spot = Spot { file: file.clone(), place };
                        found.entry(document.key.clone()).or_insert((spot, document));
                    }
                    Err(error) => {
                        let mend = "a resource of Calico's API";
                        faults.push(directory::whole(&file, error.to_string(), mend));
                    }
                }
            }
        }
        Ok((found, faults))
    }

    fn find(&self, key: &Key) -> Result<(Spot, Document), StoreError> {
        self.read()?.0.remove(key).ok_or_else(|| StoreError::NotFound(key.clone()))
    }

    /// Finds what is to be replaced, if it still is what the writer has read.
    fn find_unchanged(&self, document: &Document) -> Result<Spot, StoreError> {
        let wanted = document.read_revision()?;
        let (spot, now) = self.find(&document.key)?;
        match now.revision.as_ref() == Some(wanted) {
            true => Ok(spot),
            false => Err(StoreError::Conflict(document.key.clone())),
        }
    }

    /// One writer at a time, until the answer is dropped.
    fn lock(&self) -> Result<nix::fcntl::Flock<std::fs::File>, StoreError> {
        let open = || {
            std::fs::create_dir_all(&self.path)?;
            std::fs::OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .open(self.path.join(".lock"))
        };
        let file = open().map_err(|error| self.fails(&error))?;
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, error)| self.fails(&error.into()))
    }

    fn fails(&self, error: &io::Error) -> StoreError {
        StoreError::Refused(format!("{}: {error}", self.path.display()))
    }

    /// Writes a file whole, or removes it when nothing is left to be in it.
    fn replace(&self, file: &Path, content: &str) -> Result<(), StoreError> {
        let write = || {
            if text::is_empty(content) {
                return std::fs::remove_file(file);
            }
            let folder = file.parent().unwrap_or(&self.path);
            std::fs::create_dir_all(folder)?;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let temporary = folder.join(format!(".{name}.new"));
            let mut opened = std::fs::File::create(&temporary)?;
            opened.write_all(content.as_bytes())?;
            opened.sync_all()?;
            std::fs::rename(&temporary, file)
        };
        write().map_err(|error| StoreError::Refused(format!("{}: {error}", file.display())))
    }

    fn edit(&self, spot: &Spot, value: Option<&Value>) -> Result<(), StoreError> {
        let refused = |why: String| StoreError::Refused(format!("{}: {why}", spot.file.display()));
        let before =
            std::fs::read_to_string(&spot.file).map_err(|error| refused(error.to_string()))?;
        let edited = text::replaced(&before, spot.place, value).map_err(refused)?;
        self.replace(&spot.file, &edited)
    }

    /// A new resource's own file; one that is there already keeps its documents.
    fn add(&self, document: &Document) -> Result<(), StoreError> {
        let file = self.path.join(file_name(&document.key));
        let before = match std::fs::read_to_string(&file) {
            Ok(before) => format!("{}\n---\n", before.trim_end()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(StoreError::Refused(format!("{}: {error}", file.display()))),
        };
        let added = text::written(&Value::Object(document.value.clone()));
        self.replace(&file, &format!("{before}{added}"))
    }
}

impl Datastore for Embedded {
    async fn list(&self, kind: &str) -> Result<Listing, StoreError> {
        let (found, faults) = self.read()?;
        let documents: Vec<Document> = found
            .into_values()
            .map(|(_, document)| document)
            .filter(|document| document.key.kind == kind)
            .collect();
        let mut hash = Sha1::new();
        for document in &documents {
            hash.update(document.revision.as_ref().map_or("", |revision| &revision.0));
        }
        Ok(Listing { documents, faults, revision: Some(number(hash)) })
    }

    async fn get(&self, key: &Key) -> Result<Document, StoreError> {
        self.find(key).map(|(_, document)| document)
    }

    async fn create(&self, mut document: Document) -> Result<Document, StoreError> {
        let _turn = self.lock()?;
        if self.find(&document.key).is_ok() {
            return Err(StoreError::Exists(document.key));
        }
        self.add(&document)?;
        document.revision = Some(revision(&document));
        Ok(document)
    }

    async fn update(&self, mut document: Document) -> Result<Document, StoreError> {
        let _turn = self.lock()?;
        let spot = self.find_unchanged(&document)?;
        self.edit(&spot, Some(&Value::Object(document.value.clone())))?;
        document.revision = Some(revision(&document));
        Ok(document)
    }

    async fn delete(&self, document: &Document) -> Result<(), StoreError> {
        let _turn = self.lock()?;
        let spot = self.find_unchanged(document)?;
        self.edit(&spot, None)
    }

    fn watch(&self) -> mpsc::Receiver<Batch> {
        watch::start(Directory::new(&self.path))
    }
}

/// Hash of the content, which has its keys in order.
fn revision(document: &Document) -> Revision {
    let mut hash = Sha1::new();
    hash.update(Value::Object(document.value.clone()).to_string());
    number(hash)
}

/// A number, as resource versions are everywhere else.
fn number(hash: Sha1) -> Revision {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    Revision((u64::from_be_bytes(first) >> 1).to_string())
}

/// `kind/namespace.name.yaml`, with what file names cannot hold as `%xx`.
fn file_name(key: &Key) -> PathBuf {
    let safe = |text: &str| -> String {
        let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let escaped = text.bytes().map(|byte| match keep(byte) {
            true => (byte as char).to_string(),
            false => format!("%{byte:02x}"),
        });
        escaped.collect()
    };
    let name = match key.namespace.is_empty() {
        true => safe(&key.name),
        false => format!("{}.{}", safe(&key.namespace), safe(&key.name)),
    };
    // A leading dot would hide the file.
    let hides = usize::from(name.starts_with('.'));
    let name = name.replacen('.', "%2e", hides);
    Path::new(&safe(&key.kind.to_lowercase())).join(format!("{name}.yaml"))
}
