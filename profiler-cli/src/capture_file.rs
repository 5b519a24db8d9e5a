//! The capture file that frames are written to as they come.

use std::path::{Path, PathBuf};

use profiler_proto::{CaptureFileError, CaptureFileWriter, encode_frame, pb};

use crate::error::{CliError, sentence};
use crate::output::PendingFile;

/// A capture file that is being written. Its errors name the file that was asked for.
pub(crate) struct CaptureFile {
    writer: CaptureFileWriter<PendingFile>,
    path: PathBuf,
}

impl CaptureFile {
    /// Begins the capture.
    pub(crate) fn begin(file: PendingFile) -> Result<Self, CliError> {
        let path = file.path().to_owned();
        match CaptureFileWriter::new(file) {
            Ok(writer) => Ok(Self { writer, path }),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// Writes a frame as the agent sent it.
    pub(crate) fn write_frame(&mut self, frame: &[u8]) -> Result<(), CliError> {
        let written = self.writer.write_frame(frame);
        written.map_err(|error| failed(&self.path, error))
    }

    /// Appends a chunk of our own behind the agent's.
    pub(crate) fn append(&mut self, chunk: &pb::Chunk) -> Result<(), CliError> {
        let frame = encode_frame(chunk).map_err(|error| CliError::Failed(sentence(&error)))?;
        self.write_frame(&frame)
    }

    /// Ends the capture; the file remains to be sealed.
    pub(crate) fn finish(self) -> Result<PendingFile, CliError> {
        let finished = self.writer.finish();
        finished.map_err(|error| failed(&self.path, error))
    }
}

fn failed(path: &Path, error: CaptureFileError) -> CliError {
    match error {
        CaptureFileError::Write(error) => CliError::file("write", path, error),
        other => CliError::file("write", path, other),
    }
}
