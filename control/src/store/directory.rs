//! A directory of resources as a set that changes.
//!
//! [`Directory::scan`] compares the files with what they said before and tells the difference.
//! Files are `*.yaml`, `*.yml` and `*.json` at any depth, hidden ones left out. A resource that
//! two files have is taken from the file whose path sorts first; the other is reported.

use super::document;
use super::{Event, Fault, Report};
use crate::resource::{Key, Resource};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Largest file that is read, in bytes.
pub const FILE_MAX: u64 = 256 << 20;
/// Most files that are read; further ones, by path, are reported.
pub const FILES_MAX: usize = 200_000;
/// Deepest folder below the directory that is read.
pub const DEPTH_MAX: usize = 16;
/// Faults kept for reports.
pub const FAULTS_MAX: usize = 100;
/// A file changed so lately is read again even if its time and size are the same: the clock of
/// file systems ticks in milliseconds.
const FRESH: Duration = Duration::from_secs(2);

/// The directory and what it said at the last scan.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    current: BTreeMap<Key, Resource>,
    report: Report,
    readable: bool,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    resources: BTreeMap<Key, Resource>,
    faults: Vec<Fault>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
}

impl Directory {
    /// A directory that has not been looked at.
    pub fn new(path: impl Into<PathBuf>) -> Directory {
        Directory {
            path: path.into(),
            files: BTreeMap::new(),
            current: BTreeMap::new(),
            report: Report::default(),
            readable: false,
        }
    }

    /// True when a scan has seen the whole directory. Until then nothing is known of what is not
    /// in it.
    pub fn is_known(&self) -> bool {
        self.readable
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// State and faults as of the last scan.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Looks at the files that changed; the events make the set seen before equal to the set now.
    pub fn scan(&mut self) -> Vec<Event> {
        let mut faults = Vec::new();
        let mut found = BTreeSet::new();
        let complete = match collect(&self.path, 0, &mut found) {
            Ok(()) => true,
            Err(error) => {
                let mend = "what was read before stays in force; make the directory readable";
                faults.push(whole(&self.path, error.to_string(), mend));
                false
            }
        };
        self.readable |= complete;
        if complete {
            self.files.retain(|path, _| found.contains(path));
        }
        for path in found.iter().skip(FILES_MAX) {
            let what = format!("more than {FILES_MAX} files");
            faults.push(whole(path, what, "put several resources into one file"));
        }
        for path in found.into_iter().take(FILES_MAX) {
            let file = self.files.entry(path.clone()).or_default();
            file.refresh(&path);
        }
        self.merge(faults)
    }

    fn merge(&mut self, mut faults: Vec<Fault>) -> Vec<Event> {
        let mut wanted: BTreeMap<&Key, (&Resource, &Path)> = BTreeMap::new();
        for (path, file) in &self.files {
            faults.extend(file.faults.iter().cloned());
            for (key, resource) in &file.resources {
                if let Some((_, first)) = wanted.get(key) {
                    let what = format!("{key} is in {} too", first.display());
                    faults.push(whole(path, what, "keep it in one file"));
                    continue;
                }
                wanted.insert(key, (resource, path));
            }
        }
        let mut events: Vec<Event> = Vec::new();
        for key in self.current.keys().filter(|key| !wanted.contains_key(key)) {
            events.push(Event::Remove(key.clone()));
        }
        for (key, (resource, _)) in &wanted {
            if self.current.get(*key) != Some(*resource) {
                events.push(Event::Put((*key).clone(), (*resource).clone()));
            }
        }
        let mut resources: BTreeMap<String, usize> = BTreeMap::new();
        wanted.keys().for_each(|key| *resources.entry(key.kind.clone()).or_default() += 1);
        faults.sort();
        faults.truncate(FAULTS_MAX);
        self.report = Report { files: self.files.len(), resources, faults, ..Report::default() };
        for event in &events {
            match event {
                Event::Put(key, resource) => {
                    self.current.insert(key.clone(), resource.clone());
                }
                Event::Remove(key) => {
                    self.current.remove(key);
                }
            }
        }
        events
    }
}

/// The files that count, in the order in which they count. A directory that is not there has none.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, std::io::Error> {
    let mut found = BTreeSet::new();
    match collect(path, 0, &mut found) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !path.exists() => {}
        outcome => outcome?,
    }
    Ok(found.into_iter().take(FILES_MAX).collect())
}

fn collect(
    folder: &Path,
    depth: usize,
    found: &mut BTreeSet<PathBuf>,
) -> Result<(), std::io::Error> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && depth < DEPTH_MAX => {
                collect(&path, depth + 1, found)?;
            }
            Ok(metadata) if metadata.is_file() && has_suffix(&name) => {
                found.insert(path);
            }
            _ => {}
        }
    }
    Ok(())
}

impl File {
    fn refresh(&mut self, path: &Path) {
        let stamp = std::fs::metadata(path).ok().map(|metadata| Stamp {
            modified: metadata.modified().ok(),
            size: metadata.size(),
            inode: metadata.ino(),
        });
        if stamp == self.stamp && !stamp.as_ref().is_some_and(Stamp::is_fresh) {
            return;
        }
        match self.read(path, stamp.as_ref()) {
            Ok(()) => {}
            Err(fault) => self.faults = vec![fault],
        }
        self.stamp = stamp;
    }

    fn read(&mut self, path: &Path, stamp: Option<&Stamp>) -> Result<(), Fault> {
        if stamp.is_some_and(|stamp| stamp.size > FILE_MAX) {
            let what = format!("larger than {} MiB", FILE_MAX >> 20);
            return Err(whole(path, what, "split it"));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| whole(path, error.to_string(), "a readable file in UTF-8"))?;
        let content = document::read(&path.display().to_string(), &text)?;
        let mut faults = Vec::new();
        let mut resources = BTreeMap::new();
        for (line, key, resource) in content.resources {
            if resources.contains_key(&key) {
                let mut fault = whole(path, format!("{key} is here twice"), "keep one of them");
                fault.line = line;
                faults.push(fault);
                continue;
            }
            resources.insert(key, resource);
        }
        for (key, fault) in content.faults {
            faults.push(fault);
            let Some(key) = key else { continue };
            if let Some(before) = self.resources.remove(&key) {
                resources.entry(key).or_insert(before);
            }
        }
        (self.resources, self.faults) = (resources, faults);
        Ok(())
    }
}

impl Stamp {
    fn is_fresh(&self) -> bool {
        self.modified
            .and_then(|modified| SystemTime::now().duration_since(modified).ok())
            .is_none_or(|age| age < FRESH)
    }
}

fn has_suffix(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|suffix| name.ends_with(suffix))
}

/// A fault of a file as a whole.
pub(super) fn whole(path: &Path, what: String, mend: &str) -> Fault {
    Fault { file: path.display().to_string(), line: 0, what, mend: mend.to_owned() }
}
