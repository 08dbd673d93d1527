//! The file of the flow log: lines are added, and once it is large it is begun anew.
//!
//! A file that somebody else has moved or removed (logrotate) is opened anew too.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file of bounded size.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    max_size: u64,
    file: File,
    size: u64,
    inode: u64,
}

fn open(path: &Path) -> io::Result<(File, u64, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata.len(), metadata.ino()))
}

impl LogFile {
    /// Opens or creates it, to hold up to `max_size` bytes.
    pub(super) fn open(path: &Path, max_size: u64) -> io::Result<LogFile> {
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory)?;
        }
        let (file, size, inode) = open(path)?;
        Ok(LogFile { path: path.to_owned(), max_size, file, size, inode })
    }

    /// Adds whole lines.
    pub(super) fn add(&mut self, lines: &str) -> io::Result<()> {
        let is_there = std::fs::metadata(&self.path).is_ok_and(|there| there.ino() == self.inode);
        let is_full = self.size > 0 && self.size + lines.len() as u64 > self.max_size;
        if is_there && is_full {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
        }
        if !is_there || is_full {
            (self.file, self.size, self.inode) = open(&self.path)?;
        }
        self.file.write_all(lines.as_bytes())?;
        self.size += lines.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;

    #[test]
    fn a_full_file_is_begun_anew_and_a_moved_one_too() {
        let directory = Directory::new("flow-log");
        let path = directory.path().join("sub/flows.json");
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let mut file = LogFile::open(&path, 10).unwrap();
        file.add("12345\n").unwrap();
        file.add("789\n").unwrap();
        assert_eq!(read(&path), "12345\n789\n", "up to the bound");
        file.add("x\n").unwrap();
        let old = path.with_file_name("flows.json.1");
        assert_eq!((read(&old).as_str(), read(&path).as_str()), ("12345\n789\n", "x\n"));
        std::fs::rename(&path, directory.path().join("moved")).unwrap();
        file.add("y\n").unwrap();
        assert_eq!(read(&path), "y\n");
        drop(file);
        LogFile::open(&path, 10).unwrap().add("z\n").unwrap();
        assert_eq!(read(&path), "y\nz\n", "what is there stays");
    }
}
