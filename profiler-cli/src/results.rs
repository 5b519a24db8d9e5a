//! Writing what a capture gave to where `-o` says: prepared before the capture, published after it.

use std::fs;
use std::path::PathBuf;

use profiler_proto::{Capture, Event};

use crate::capture_file::CaptureFile;
use crate::error::CliError;
use crate::output::{Destination, OutputDirectory, PendingFile, SealedFile};
use crate::render::{CAPTURE_ENDING, FORMATS, Format};
use crate::text;
use crate::view::View;

/// Name of the capture in a directory of results.
const CAPTURE_NAME: &str = "host.capture";

/// Begun files, which leave nothing when dropped.
pub(crate) struct Results<'a> {
    destination: Destination<'a>,
    // Before `directory`: the file must be gone when the directory is removed.
    file: Option<PendingFile>,
    directory: Option<OutputDirectory>,
    all: bool,
}

impl<'a> Results<'a> {
    /// Begins the files, which proves that they can be written. `all` is for [`View::new`].
    pub(crate) fn prepare(destination: Destination<'a>, all: bool) -> Result<Self, CliError> {
        let mut directory = None;
        let path = match destination {
            Destination::Default => PathBuf::from("this capture"),
            Destination::Capture(path) | Destination::Single(path, ..) => path.to_owned(),
            Destination::Directory(path) => {
                let made = directory.insert(OutputDirectory::create(path)?);
                made.join(CAPTURE_NAME)
            }
        };
        Ok(Self {
            destination,
            file: Some(PendingFile::create(&path)?),
            directory,
            all,
        })
    }

    /// The file that frames are to be written to as they come; none where no capture file is wanted.
    pub(crate) fn take_capture_file(&mut self) -> Result<Option<CaptureFile>, CliError> {
        if matches!(self.destination, Destination::Single(..)) {
            return Ok(None);
        }
        self.file.take().map(CaptureFile::begin).transpose()
    }

    /// Writes everything, then gives every file its name.
    pub(crate) fn write(
        self,
        capture: &Capture,
        frames: Option<CaptureFile>,
    ) -> Result<Written, CliError> {
        let mut sealed = Vec::new();
        if let Some(frames) = frames {
            let mut file = frames.finish()?;
            if matches!(self.destination, Destination::Default) {
                file.rename_beside_others(&default_name(capture));
            }
            sealed.push(file.seal()?);
        }
        if let (Destination::Single(_, format, event), Some(file)) = (self.destination, self.file) {
            let view = View::open(capture, event, self.all)?;
            sealed.push(render(&view, format, file)?);
        }
        if let Some(directory) = &self.directory {
            for event in &capture.facts.spec.events {
                sealed.extend(render_all(capture, *event, self.all, directory)?);
            }
        }
        let mut removed = match &self.directory {
            Some(directory) => outdated(directory),
            None => Vec::new(),
        };
        let files: Result<Vec<_>, _> = sealed.into_iter().map(SealedFile::publish).collect();
        let files = files?;
        removed.retain(|path| !files.contains(path));
        for path in &removed {
            fs::remove_file(path).map_err(|error| CliError::file("remove", path, error))?;
        }
        if let Some(directory) = self.directory {
            directory.keep();
        }
        Ok(Written { files, removed })
    }
}

/// What became of the files.
#[derive(Debug)]
pub(crate) struct Written {
    /// Those that were written.
    pub(crate) files: Vec<PathBuf>,
    /// Those of an earlier capture that are gone.
    pub(crate) removed: Vec<PathBuf>,
}

/// Pictures of an earlier capture in the same directory. Those that are not replaced must go: beside the new
/// capture they would be taken for its own.
fn outdated(directory: &OutputDirectory) -> Vec<PathBuf> {
    if !directory.join(CAPTURE_NAME).exists() {
        return Vec::new();
    }
    let names = Event::ALL.iter().flat_map(|event| {
        let formats = FORMATS.iter();
        formats.map(move |format| format!("{event}.{}", format.ending))
    });
    names
        .map(|name| directory.join(&name))
        .filter(|path| path.exists())
        .collect()
}

/// One event in every format; nothing where the event was not measured.
fn render_all(
    capture: &Capture,
    event: Event,
    all: bool,
    directory: &OutputDirectory,
) -> Result<Vec<SealedFile>, CliError> {
    let Some(view) = View::new(capture, event, all) else {
        return Ok(Vec::new());
    };
    let formats = FORMATS.iter().map(|format| {
        let path = directory.join(&format!("{event}.{}", format.ending));
        render(&view, format, PendingFile::create(&path)?)
    });
    formats.collect()
}

fn render(view: &View<'_>, format: &Format, mut file: PendingFile) -> Result<SealedFile, CliError> {
    (format.write)(view, &mut file).map_err(|error| file.failed(error))?;
    file.seal()
}

/// `<host>-<UTC time>.capture`, with nothing in the host's name that could lead elsewhere.
fn default_name(capture: &Capture) -> String {
    let facts = &capture.facts;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let host: String = facts
        .host
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    // A leading dot would hide the file, a leading dash make it an option.
    let host = host.trim_start_matches(['.', '-']);
    let host = if host.is_empty() { "host" } else { host };
    format!(
        "{host}-{}.{CAPTURE_ENDING}",
        text::utc_compact(facts.start_ns)
    )
}

#[cfg(test)]
mod tests {
    use profiler_proto::{chunks, read_capture};

    use super::*;
    use crate::sample_capture;

    fn write(destination: Destination<'_>, capture: &Capture) -> Result<Written, CliError> {
        let mut results = Results::prepare(destination, false)?;
        let mut file = results.take_capture_file()?;
        for chunk in chunks(capture) {
            file.as_mut().map_or(Ok(()), |file| file.append(&chunk))?;
        }
        results.write(capture, file)
    }

    #[test]
    fn a_directory_holds_every_event_in_every_format() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut capture = sample_capture::capture();
        capture.canonicalize();
        let written = write(Destination::Directory(&out), &capture).unwrap();
        assert!(written.removed.is_empty());
        let written = written.files;
        assert_eq!(written.len(), 1 + 3 * FORMATS.len());
        assert_eq!(fs::read_dir(&out).unwrap().count(), written.len());
        let file = fs::File::open(out.join(CAPTURE_NAME)).unwrap();
        let mut back = read_capture(file).unwrap();
        back.canonicalize();
        assert_eq!(back, capture);
    }

    #[test]
    fn pictures_of_an_earlier_capture_do_not_stay_beside_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::Directory(dir.path());
        fs::write(dir.path().join("io.svg"), "somebody's own").unwrap();
        write(destination, &sample_capture::lossy()).unwrap();
        assert!(dir.path().join("io.svg").exists());
        write(destination, &sample_capture::capture()).unwrap();
        let written = write(destination, &sample_capture::lossy()).unwrap();
        assert!(!dir.path().join("io.svg").exists());
        assert!(written.removed.contains(&dir.path().join("io.svg")));
        assert_eq!(written.removed.len(), FORMATS.len());
        assert!(dir.path().join("cpu.svg").exists());
    }

    #[test]
    fn an_event_that_was_not_measured_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("io.svg");
        let destination = Destination::Single(&path, FORMATS[0], Event::Io);
        let error = write(destination, &sample_capture::lossy()).unwrap_err();
        assert_eq!(error.exit_code(), crate::error::exit::PARTIAL);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_host_s_name_cannot_lead_elsewhere() {
        let mut capture = sample_capture::capture();
        capture.facts.host = "../../etc/x".to_owned();
        let name = default_name(&capture);
        assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
        capture.facts.host.clear();
        assert_eq!(default_name(&capture), "host-20261120T135501Z.capture");
    }
}
