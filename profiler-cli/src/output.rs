//! Where results go: chosen by the ending of a path, written beside it and renamed when whole.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use profiler_proto::Event;
use tempfile::NamedTempFile;

use crate::error::CliError;
use crate::render::{CAPTURE_ENDING, FORMATS, Format};

/// What `-o` asks for.
#[derive(Clone, Copy)]
pub(crate) enum Destination<'a> {
    /// `<host>-<UTC time>.capture` in the current directory.
    Default,
    /// A capture file.
    Capture(&'a Path),
    /// One event in one format.
    Single(&'a Path, &'static Format, Event),
    /// The capture, and every event in every format.
    Directory(&'a Path),
}

impl<'a> Destination<'a> {
    /// Reads the ending of `out`; a format that shows one event needs exactly one.
    pub(crate) fn parse(out: Option<&'a Path>, events: &[Event]) -> Result<Self, CliError> {
        let Some(path) = out else {
            return Ok(Self::Default);
        };
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir() {
            return Ok(Self::Directory(path));
        }
        if has_ending(path, CAPTURE_ENDING) {
            return Ok(Self::Capture(path));
        }
        let format = single_format(path)?;
        match events {
            [event] => Ok(Self::Single(path, format, *event)),
            _ => Err(CliError::Usage(format!(
                "{} shows one event, and {} were asked for: choose one with -e, or write a directory with \
                 `-o {}/`",
                path.display(),
                events.len(),
                path.with_extension("").display()
            ))),
        }
    }
}

/// The format that the ending of `path` names, of those that show one event.
pub(crate) fn single_format(path: &Path) -> Result<&'static Format, CliError> {
    let format = FORMATS
        .iter()
        .find(|format| has_ending(path, format.ending));
    format.copied().ok_or_else(|| {
        let endings: Vec<_> = FORMATS.iter().map(|f| format!(".{}", f.ending)).collect();
        CliError::Usage(format!(
            "cannot tell a format from the name {}: it must end in .{CAPTURE_ENDING}, {}, or in / for a \
             directory",
            path.display(),
            endings.join(", ")
        ))
    })
}

fn has_ending(path: &Path, ending: &str) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let stem = name.strip_suffix(ending.as_bytes());
    stem.and_then(|stem| stem.strip_suffix(b"."))
        .is_some_and(|stem| !stem.is_empty())
}

/// A file that appears under its name only when whole. Dropped before, it leaves nothing.
pub(crate) struct PendingFile {
    // Buffered, because captures are written in pieces.
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl PendingFile {
    /// Begins the file `path`, in its directory, so that a place that cannot be written is known early.
    pub(crate) fn create(path: &Path) -> Result<Self, CliError> {
        // As `open` would have it: everybody may read and write what the umask leaves.
        let everybody = Permissions::from_mode(0o666);
        let file = tempfile::Builder::new()
            .prefix(".profiler-")
            .permissions(everybody)
            .tempfile_in(directory(path))
            .map_err(|error| CliError::file("write", path, plain(error)))?;
        Ok(Self {
            file: BufWriter::new(file),
            path: path.to_owned(),
        })
    }

    /// Gives it another name in the same directory.
    pub(crate) fn rename(&mut self, name: &str) {
        self.path.set_file_name(name);
    }

    /// An error of this file.
    pub(crate) fn failed(&self, error: io::Error) -> CliError {
        CliError::file("write", &self.path, plain(error))
    }

    /// Makes everything written so far durable; what remains is the renaming.
    pub(crate) fn seal(self) -> Result<SealedFile, CliError> {
        let Self { file, path } = self;
        let failed = |error| CliError::file("write", &path, plain(error));
        let file = file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        Ok(SealedFile { file, path })
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A whole file that has not got its name yet.
pub(crate) struct SealedFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl SealedFile {
    /// Renames it over whatever was there; returns the name.
    pub(crate) fn publish(self) -> Result<PathBuf, CliError> {
        let Self { file, path } = self;
        file.persist(&path)
            .map_err(|error| CliError::file("write", &path, plain(error.error)))?;
        // So that the name survives a crash too. Some file systems cannot; the file is there anyway.
        File::open(directory(&path))
            .and_then(|dir| dir.sync_all())
            .unwrap_or_default();
        Ok(path)
    }
}

/// A directory made for results, removed again if none came.
pub(crate) struct OutputDirectory {
    path: PathBuf,
    remove: bool,
}

impl OutputDirectory {
    /// Makes the directory unless it is there.
    pub(crate) fn create(path: &Path) -> Result<Self, CliError> {
        let remove = !path.is_dir();
        fs::create_dir_all(path).map_err(|error| CliError::file("create", path, error))?;
        Ok(Self {
            path: path.to_owned(),
            remove,
        })
    }

    /// A path in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Results have come: it stays.
    pub(crate) fn keep(mut self) {
        self.remove = false;
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        if self.remove {
            // Fails where somebody else has put something there, which must stay.
            fs::remove_dir(&self.path).unwrap_or_default();
        }
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Without the temporary name that is of no use to the reader: tempfile adds it
/// in a way that hides the system's own error, of which the kind remains.
fn plain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::from(error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Event] = &Event::ALL;

    #[test]
    fn the_ending_decides() {
        let parse = |path| Destination::parse(Some(Path::new(path)), &[Event::Cpu]).ok();
        assert!(matches!(parse("a.capture"), Some(Destination::Capture(_))));
        assert!(matches!(parse("new/"), Some(Destination::Directory(_))));
        assert!(matches!(parse("/tmp"), Some(Destination::Directory(_))));
        for (path, ending) in [
            ("a.svg", "svg"),
            ("b/a.folded", "folded"),
            ("a.pb.gz", "pb.gz"),
        ] {
            assert!(
                matches!(parse(path), Some(Destination::Single(_, f, Event::Cpu)) if f.ending == ending)
            );
        }
        for path in ["a", "a.txt", "a.gz", ".svg", "a.SVG", "svg"] {
            assert!(parse(path).is_none(), "{path}");
        }
        assert!(matches!(
            Destination::parse(None, ALL),
            Ok(Destination::Default)
        ));
    }

    #[test]
    fn one_picture_shows_one_event() {
        let error = Destination::parse(Some(Path::new("x.svg")), ALL)
            .err()
            .unwrap();
        assert_eq!(error.exit_code(), crate::error::exit::USAGE);
        assert!(error.to_string().contains("-o x/"), "{error}");
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.svg");
        let names = || fs::read_dir(dir.path()).unwrap().count();
        let mut dropped = PendingFile::create(&path).unwrap();
        dropped.write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(names(), 0);
        let mut file = PendingFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        let sealed = file.seal().unwrap();
        assert!(!path.exists());
        assert_eq!(sealed.publish().unwrap(), path);
        assert_eq!(
            (fs::read(&path).unwrap().as_slice(), names()),
            (&b"whole"[..], 1)
        );
    }

    #[test]
    fn a_directory_without_results_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        drop(OutputDirectory::create(&path).unwrap());
        assert!(!path.exists());
        OutputDirectory::create(&path).unwrap().keep();
        drop(OutputDirectory::create(&path).unwrap());
        assert!(path.is_dir());
    }
}
