//! Where results go: chosen by the ending of a path, written beside it and renamed when whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use profiler_proto::Event;
use tempfile::TempPath;

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
        let other = format!(", .{CAPTURE_ENDING}, or in / for a directory");
        let format = format_of(path, &FORMATS, &other)?;
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

/// The one of `formats` that the ending of `path` names. `other` says in the error what else may be given.
pub(crate) fn format_of(
    path: &Path,
    formats: &[&'static Format],
    other: &str,
) -> Result<&'static Format, CliError> {
    let format = formats
        .iter()
        .find(|format| has_ending(path, format.ending));
    format.copied().ok_or_else(|| {
        let endings: Vec<_> = formats.iter().map(|f| format!(".{}", f.ending)).collect();
        CliError::Usage(format!(
            "cannot tell a format from the name {}: it must end in {}{other}",
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
    // Buffered, because captures are written in pieces. Written past `NamedTempFile`, whose errors hide the
    // system's own behind a name that is of no use to the reader.
    file: BufWriter<File>,
    temporary: TempPath,
    path: PathBuf,
    replaces: bool,
}

impl PendingFile {
    /// Begins the file `path`, in its directory, so that a place that cannot be written is known early.
    pub(crate) fn create(path: &Path) -> Result<Self, CliError> {
        let (file, temporary) = tempfile::Builder::new()
            .prefix(".profiler-")
            // With the permissions of any new file: everybody's, less the umask.
            .make_in(directory(path), |path| File::create_new(path))
            .map_err(|error| CliError::file("write", path, error))?
            .into_parts();
        Ok(Self {
            file: BufWriter::new(file),
            temporary,
            path: path.to_owned(),
            replaces: true,
        })
    }

    /// Gives it another name in the same directory, with a number behind it if it is taken.
    pub(crate) fn rename_beside_others(&mut self, name: &str) {
        self.path.set_file_name(name);
        self.replaces = false;
    }

    /// The name it is to have.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An error of this file.
    pub(crate) fn failed(&self, error: io::Error) -> CliError {
        CliError::file("write", &self.path, error)
    }

    /// Makes everything written so far durable; what remains is the renaming.
    pub(crate) fn seal(self) -> Result<SealedFile, CliError> {
        let Self {
            file,
            temporary,
            path,
            replaces,
        } = self;
        let failed = |error| CliError::file("write", &path, error);
        let file = file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        Ok(SealedFile {
            temporary,
            path,
            replaces,
        })
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
    temporary: TempPath,
    path: PathBuf,
    replaces: bool,
}

impl SealedFile {
    /// Gives it its name; returns it. Replaces what was there, unless it was to stand beside it.
    pub(crate) fn publish(self) -> Result<PathBuf, CliError> {
        let Self {
            temporary,
            path,
            replaces,
        } = self;
        let path = if replaces {
            temporary
                .persist(&path)
                .map_err(|error| CliError::file("write", &path, error.error))?;
            path
        } else {
            publish_beside_others(temporary, &path)?
        };
        // So that the name survives a crash too. Some file systems cannot; the file is there anyway.
        File::open(directory(&path))
            .and_then(|dir| dir.sync_all())
            .unwrap_or_default();
        Ok(path)
    }
}

/// Takes the first of `x.capture`, `x-2.capture`, `x-3.capture`, ... that is free.
fn publish_beside_others(mut temporary: TempPath, path: &Path) -> Result<PathBuf, CliError> {
    let mut name = path.to_owned();
    let mut number = 1_u64;
    loop {
        match temporary.persist_noclobber(&name) {
            Ok(()) => return Ok(name),
            Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => {
                temporary = taken.path;
            }
            Err(failed) => return Err(CliError::file("write", &name, failed.error)),
        }
        number += 1;
        name = numbered(path, number);
    }
}

fn numbered(path: &Path, number: u64) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{number}.{ending}"))
}

/// A directory made for results, removed again if none came.
pub(crate) struct OutputDirectory {
    path: PathBuf,
    // Those that were not there before, the deepest first.
    made: Vec<PathBuf>,
}

impl OutputDirectory {
    /// Makes the directory, and those above it, unless they are there.
    pub(crate) fn create(path: &Path) -> Result<Self, CliError> {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made = path.ancestors().take_while(missing).map(Path::to_owned);
        let directory = Self {
            path: path.to_owned(),
            made: made.collect(),
        };
        fs::create_dir_all(path).map_err(|error| CliError::file("create", path, error))?;
        Ok(directory)
    }

    /// A path in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Results have come: it stays.
    pub(crate) fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        for path in &self.made {
            // Fails where somebody else has put something there, which must stay.
            fs::remove_dir(path).unwrap_or_default();
        }
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
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
        drop(OutputDirectory::create(&path.join("a/b/c")).unwrap());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn a_file_beside_others_takes_a_name_that_is_free() {
        let dir = tempfile::tempdir().unwrap();
        for expected in ["a.b.capture", "a.b-2.capture", "a.b-3.capture"] {
            let mut file = PendingFile::create(&dir.path().join("this capture")).unwrap();
            file.rename_beside_others("a.b.capture");
            file.write_all(expected.as_bytes()).unwrap();
            let path = file.seal().unwrap().publish().unwrap();
            assert_eq!(path, dir.path().join(expected));
        }
        let first = fs::read_to_string(dir.path().join("a.b.capture"));
        assert_eq!(first.unwrap(), "a.b.capture");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn errors_name_the_file_and_say_what_the_system_says() {
        let error = |path: &str| PendingFile::create(Path::new(path)).err().unwrap();
        assert_eq!(
            error("/no/such/x.svg").to_string(),
            "cannot write /no/such/x.svg: No such file or directory (os error 2)"
        );
        let path = "/dev/null/x.svg";
        assert!(error(path).to_string().contains("Not a directory"));
    }
}
