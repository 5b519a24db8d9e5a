//! Names on disk: what a place in a file is called, by the file's build-id, so
//! that a binary that was named once costs little afterwards.
//!
//! Only root may write there, and what is read is checked as if anybody could:
//! an entry that is damaged, of another version or made from other sources
//! than are there today is as good as none. A build-id proves nothing, because
//! whoever links a file chooses it. Names of a file that others than root can
//! change are therefore kept for exactly that file.

mod entry;

use std::{
    fs::{self, DirBuilder, File, FileTimes, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

pub use entry::Entry;
use entry::MAX_ENTRY;

use super::{debug_files::hex, sections::Binary};

/// Files that were not finished, by an agent that was killed, are removed when
/// they are this old.
const STALE: Duration = Duration::from_secs(3600);

/// How long it is remembered that no server has a file.
pub(super) const MISSING_TIME: Duration = Duration::from_secs(24 * 3600);

/// What a file takes at least, however little is in it: its place in the folder
/// and in the file system's tables.
const LEAST_BYTES: u64 = 4096;

// The kinds of files there are. No other file is ever removed.
const NAMES: &str = "names";
pub(super) const DEBUG: &str = "debug";
pub(super) const MISSING: &str = "missing";
const UNFINISHED: &str = "unfinished";

/// How names of files begin that are being written.
const TEMPORARY: &str = ".profiler-";

/// A folder that cannot be a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It is not there and cannot be made, or cannot be looked at.
    #[error("cache_dir {}: {source}", path.display())]
    System {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could put names there.
    #[error("cache_dir {}: others than the agent's user may use it; it must be a folder of that user with mode 0700", .0.display())]
    Open(PathBuf),
}

/// Which entry is meant: the file and where its names come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    name: String,
    sources: [u8; 16],
}

impl Key {
    /// The key of a file; `None` where it has no build-id. `debug` is where its
    /// debug information comes from, `settings` what else decides about names.
    pub fn of(
        binary: &Binary,
        build_id: &[u8],
        debug: &[&Binary],
        settings: &[u64],
    ) -> Option<Self> {
        if build_id.is_empty() {
            return None;
        }
        let name = match binary.file().is_roots() {
            true => hex(build_id),
            false => {
                let mut hash = blake3::Hasher::new();
                hash_file(&mut hash, binary).ok()?;
                format!(
                    "{}-{}",
                    hex(build_id),
                    hex(&hash.finalize().as_bytes()[..8])
                )
            }
        };
        let mut hash = blake3::Hasher::new();
        for file in debug {
            hash_file(&mut hash, file).ok()?;
        }
        for setting in settings {
            hash.update(&setting.to_le_bytes());
        }
        let sources = *hash.finalize().as_bytes().first_chunk()?;
        Some(Self { name, sources })
    }
}

/// What changes when a file is replaced or written to.
fn hash_file(hash: &mut blake3::Hasher, binary: &Binary) -> io::Result<()> {
    let metadata = binary.file().file().metadata()?;
    for number in [
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime() as u64,
        metadata.mtime_nsec() as u64,
        metadata.ctime() as u64,
        metadata.ctime_nsec() as u64,
    ] {
        hash.update(&number.to_le_bytes());
    }
    Ok(())
}

/// The folder.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Bytes it may hold.
    limit: u64,
}

impl Cache {
    /// Uses a folder, which is made if it is not there.
    ///
    /// # Errors
    /// Fails where that is not possible, and where others may write to it.
    pub fn open(folder: &Path, limit: u64) -> Result<Self, CacheError> {
        let failed = |source| CacheError::System {
            path: folder.to_owned(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(failed)?;
        let metadata = fs::symlink_metadata(folder).map_err(failed)?;
        let is_ours = metadata.is_dir()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.permissions().mode() & 0o077 == 0;
        match is_ours {
            true => Ok(Self {
                folder: folder.to_owned(),
                limit,
            }),
            false => Err(CacheError::Open(folder.to_owned())),
        }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is known under a key; nothing where there is no entry that can be
    /// believed.
    pub fn load(&self, key: &Key) -> Entry {
        let path = self.path(key);
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Entry::default(),
            Err(error) => {
                tracing::debug!("{}: {error}", path.display());
                return Entry::default();
            }
        };
        match Entry::decode(&bytes, &key.sources) {
            Some(entry) => {
                self.touch(&path);
                entry
            }
            None => {
                tracing::debug!("{} is out of date or damaged", path.display());
                Entry::default()
            }
        }
    }

    /// Keeps an entry, in place of what was there.
    ///
    /// # Errors
    /// Fails where it cannot be written.
    pub fn store(&self, key: &Key, entry: &Entry) -> io::Result<()> {
        let bytes = entry.encode(&key.sources);
        self.write(&self.path(key), |file| file.write_all(&bytes))
    }

    /// Writes a file that is there whole or not at all.
    ///
    /// # Errors
    /// Fails where `write` does, or the system.
    pub fn write(
        &self,
        path: &Path,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .suffix(&format!(".{UNFINISHED}"))
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(&self.folder)?;
        write(temporary.as_file_mut())?;
        temporary.persist(path)?;
        Ok(())
    }

    /// Removes what was not used for longest until the rest is within the limit.
    ///
    /// # Errors
    /// Fails where the folder cannot be read or a file not removed.
    pub fn shrink(&self) -> io::Result<()> {
        let mut files = self.files()?;
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        files.sort_by_key(|file| file.used);
        let now = SystemTime::now();
        for file in files {
            let is_older = |time| now.duration_since(file.used).is_ok_and(|age| age > time);
            let is_stale = match kind_of(&file.path) {
                Some(UNFINISHED) => is_older(STALE),
                Some(MISSING) => is_older(MISSING_TIME),
                _ => false,
            };
            if bytes > self.limit || is_stale {
                remove(&file.path)?;
                bytes = bytes.saturating_sub(file.bytes);
            }
        }
        Ok(())
    }

    /// Its own: whatever else somebody has put there stays.
    fn files(&self) -> io::Result<Vec<Stored>> {
        let mut files = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let metadata = match file.metadata() {
                Ok(metadata) => metadata,
                // Another session has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_file() && kind_of(&file.path()).is_some() {
                files.push(Stored {
                    path: file.path(),
                    bytes: metadata.blocks().saturating_mul(512).max(LEAST_BYTES),
                    used: metadata.modified()?,
                });
            }
        }
        Ok(files)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.{NAMES}", key.name))
    }

    /// Marks a file as used now.
    pub fn touch(&self, path: &Path) {
        let times = FileTimes::new().set_modified(SystemTime::now());
        let touched = OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|file| file.set_times(times));
        if let Err(error) = touched {
            tracing::debug!("{}: {error}", path.display());
        }
    }
}

struct Stored {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Which kind of the cache's own files one is, by its name: that of a temporary
/// file, else a build-id and what follows it in [`Key`].
fn kind_of(path: &Path) -> Option<&'static str> {
    let (name, kind) = path.file_name()?.to_str()?.rsplit_once('.')?;
    let kind = [NAMES, DEBUG, MISSING, UNFINISHED]
        .into_iter()
        .find(|known| *known == kind)?;
    let is_own = match kind {
        UNFINISHED => name.starts_with(TEMPORARY),
        _ => name
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-')),
    };
    (is_own && !name.is_empty()).then_some(kind)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_ENTRY as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > MAX_ENTRY {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests;
