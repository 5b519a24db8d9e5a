//! Capture files: a header, frames, and an end frame.
//!
//! The header is [`MAGIC`], the version and a reserved zero, both `u32` little endian. The end
//! frame has length 0, and for a checksum the CRC-32C of the checksums of all frames before it, so
//! that a file that was cut, even between two frames, is known as one.

use std::io::{self, Read, Write};

use crate::assembler::{CaptureAssembler, ModelError};
use crate::capture::Capture;
use crate::chunk::chunks;
use crate::frame::{self, FRAME_HEADER_BYTES, FrameError, MAX_FRAME_BYTES, encode_frame};

/// The version that is written.
pub const FORMAT_VERSION: u32 = 1;
/// The oldest version that is read.
const OLDEST_VERSION: u32 = 1;
/// Most that all chunks of one file may hold, decompressed: 50 million samples and more.
pub const MAX_CAPTURE_BYTES: usize = 1 << 30;
/// The first bytes of every capture file. As in PNG, a byte that is not ASCII and a CR LF show
/// when something took the file for text.
const MAGIC: [u8; 8] = *b"\x89PROF\r\n\x1a";
const HEADER_BYTES: usize = 16;

/// Why a capture file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureFileError {
    /// The file cannot be read.
    #[error("reading the capture failed")]
    Read(#[source] io::Error),
    /// The file cannot be written.
    #[error("writing the capture failed")]
    Write(#[source] io::Error),
    /// It does not begin as a capture does.
    #[error("not a capture file")]
    NotACapture,
    /// It is of a version that this program does not know.
    #[error("version {found}, this program reads {OLDEST_VERSION} to {FORMAT_VERSION}")]
    Version {
        /// The version of the file.
        found: u32,
    },
    /// It ends too early.
    #[error("cut after frame {0}: the rest of the capture is missing")]
    Cut(u64),
    /// A field that must be 0 is not.
    #[error("the header is damaged: a reserved field is {0}, not 0")]
    Reserved(u32),
    /// A frame of a file that is not whole or not right. Frames are counted from 1.
    #[error("frame {number} of the capture is broken: {error}")]
    Frame {
        /// Which frame.
        number: u64,
        /// What is wrong with it.
        error: FrameError,
    },
    /// A frame that is not whole or not right, outside of a file.
    #[error("a frame of the capture is broken: {0}")]
    LoneFrame(FrameError),
    /// A frame is missing, was added or was exchanged.
    #[error("the checksum at the end of the capture does not match its {0} frames")]
    EndChecksum(u64),
    /// More comes after the end.
    #[error("the file goes on after the end of the capture")]
    TrailingBytes,
    /// More than any capture that is written.
    #[error("the capture holds more than the {0} bytes that are possible")]
    TooLarge(usize),
    /// A chunk that no agent sends.
    #[error("frame {number} of the capture does not make sense: {error}")]
    Chunk {
        /// Which frame.
        number: u64,
        /// What is wrong with its chunk.
        error: ModelError,
    },
    /// The chunks do not make a capture.
    #[error("the capture does not make sense: {0}")]
    Capture(ModelError),
}

impl From<FrameError> for CaptureFileError {
    fn from(error: FrameError) -> Self {
        Self::LoneFrame(error)
    }
}

impl From<ModelError> for CaptureFileError {
    fn from(error: ModelError) -> Self {
        Self::Capture(error)
    }
}

/// Writes a capture file frame by frame.
#[derive(Debug)]
pub struct CaptureFileWriter<W> {
    writer: W,
    /// CRC-32C over the checksums of the frames so far.
    checksums: u32,
}

impl<W: Write> CaptureFileWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Fails where writing does.
    pub fn new(mut writer: W) -> Result<Self, CaptureFileError> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        writer.write_all(&header).map_err(CaptureFileError::Write)?;
        Ok(Self {
            writer,
            checksums: 0,
        })
    }

    /// Writes a frame as it is, so that fields this program does not know survive.
    ///
    /// # Errors
    /// Fails where the frame is not whole or its checksum does not match, and where writing does.
    pub fn write_frame(&mut self, frame: &[u8]) -> Result<(), CaptureFileError> {
        let (checksum, _) = frame::split(frame)?;
        self.checksums = crc32c::crc32c_append(self.checksums, &checksum.to_le_bytes());
        self.writer
            .write_all(frame)
            .map_err(CaptureFileError::Write)
    }

    /// Writes the end and flushes. Without it the file is one that was cut.
    ///
    /// # Errors
    /// Fails where writing does.
    pub fn finish(mut self) -> Result<W, CaptureFileError> {
        let mut end = [0; FRAME_HEADER_BYTES];
        end[4..].copy_from_slice(&self.checksums.to_le_bytes());
        self.writer
            .write_all(&end)
            .and_then(|()| self.writer.flush())
            .map_err(CaptureFileError::Write)?;
        Ok(self.writer)
    }
}

/// Reads a capture file frame by frame.
#[derive(Debug)]
pub struct CaptureFileReader<R> {
    reader: R,
    checksums: u32,
    frames: u64,
    ended: bool,
}

impl<R: Read> CaptureFileReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// Fails where it is not that of a capture file of a known version.
    pub fn new(mut reader: R) -> Result<Self, CaptureFileError> {
        let header = read_up_to(&mut reader, HEADER_BYTES)?;
        let begins_alike = header
            .iter()
            .zip(MAGIC)
            .all(|(found, magic)| *found == magic);
        if header.is_empty() || !begins_alike {
            return Err(CaptureFileError::NotACapture);
        }
        let Some((_, fields)) = header.split_first_chunk::<8>() else {
            return Err(CaptureFileError::Cut(0));
        };
        let &[v0, v1, v2, v3, r0, r1, r2, r3] = fields else {
            return Err(CaptureFileError::Cut(0));
        };
        let found = u32::from_le_bytes([v0, v1, v2, v3]);
        if !(OLDEST_VERSION..=FORMAT_VERSION).contains(&found) {
            return Err(CaptureFileError::Version { found });
        }
        let reserved = u32::from_le_bytes([r0, r1, r2, r3]);
        if reserved != 0 {
            return Err(CaptureFileError::Reserved(reserved));
        }
        Ok(Self {
            reader,
            checksums: 0,
            frames: 0,
            ended: false,
        })
    }

    /// The next frame, whole and with the right checksum; none at the end.
    ///
    /// # Errors
    /// Fails where the file was cut or damaged, and where reading does.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, CaptureFileError> {
        if self.ended {
            return Ok(None);
        }
        let mut frame = read_up_to(&mut self.reader, FRAME_HEADER_BYTES)?;
        let Some(header) = frame.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err(CaptureFileError::Cut(self.frames));
        };
        let (length, checksum) = frame::read_header(*header);
        if length == 0 {
            self.end(checksum)?;
            return Ok(None);
        }
        if length > MAX_FRAME_BYTES {
            return Err(self.broken(FrameError::FrameTooLarge(length)));
        }
        let payload = read_up_to(&mut self.reader, length)?;
        if payload.len() < length {
            return Err(CaptureFileError::Cut(self.frames));
        }
        frame.extend_from_slice(&payload);
        frame::split(&frame).map_err(|error| self.broken(error))?;
        self.checksums = crc32c::crc32c_append(self.checksums, &checksum.to_le_bytes());
        self.frames += 1;
        Ok(Some(frame))
    }

    /// How many frames were read.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// An error of the frame that is being read.
    fn broken(&self, error: FrameError) -> CaptureFileError {
        let number = self.frames + 1;
        CaptureFileError::Frame { number, error }
    }

    fn end(&mut self, checksum: u32) -> Result<(), CaptureFileError> {
        if checksum != self.checksums {
            return Err(CaptureFileError::EndChecksum(self.frames));
        }
        if !read_up_to(&mut self.reader, 1)?.is_empty() {
            return Err(CaptureFileError::TrailingBytes);
        }
        self.ended = true;
        Ok(())
    }
}

/// Reads that many bytes, fewer only at the end of the input. Memory grows with what is there, not
/// with what was asked for.
fn read_up_to(reader: &mut impl Read, bytes: usize) -> Result<Vec<u8>, CaptureFileError> {
    let mut read = Vec::new();
    reader
        .take(bytes as u64)
        .read_to_end(&mut read)
        .map_err(CaptureFileError::Read)?;
    Ok(read)
}

/// Reads a capture from a file.
///
/// # Errors
/// Says what is wrong with the file. A file that is cut or damaged anywhere is an error, never a
/// capture with less in it.
pub fn read_capture(reader: impl Read) -> Result<Capture, CaptureFileError> {
    read_limited(reader, MAX_CAPTURE_BYTES)
}

fn read_limited(reader: impl Read, max_bytes: usize) -> Result<Capture, CaptureFileError> {
    let mut reader = CaptureFileReader::new(reader)?;
    let mut assembler = CaptureAssembler::new();
    let mut total_bytes = 0_usize;
    while let Some(frame) = reader.next_frame()? {
        let number = reader.frames();
        let (chunk, bytes) =
            frame::decode(&frame).map_err(|error| CaptureFileError::Frame { number, error })?;
        total_bytes = total_bytes.saturating_add(bytes);
        if total_bytes > max_bytes {
            return Err(CaptureFileError::TooLarge(max_bytes));
        }
        assembler
            .push(chunk)
            .map_err(|error| CaptureFileError::Chunk { number, error })?;
    }
    Ok(assembler.finish()?)
}

/// Writes a capture as a file.
///
/// # Errors
/// Fails where writing does, or where an entry of the capture is larger than a frame can be.
pub fn write_capture(capture: &Capture, writer: impl Write) -> Result<(), CaptureFileError> {
    let mut writer = CaptureFileWriter::new(writer)?;
    for chunk in chunks(capture) {
        writer.write_frame(&encode_frame(&chunk)?)?;
    }
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::client_chunk;

    #[test]
    fn the_size_of_all_chunks_is_bounded() {
        let frame = encode_frame(&client_chunk(vec!["a".repeat(1000)], None)).unwrap();
        let mut writer = CaptureFileWriter::new(Vec::new()).unwrap();
        for _ in 0..3 {
            writer.write_frame(&frame).unwrap();
        }
        let file = writer.finish().unwrap();
        let error = read_limited(file.as_slice(), 3000).unwrap_err();
        assert!(matches!(error, CaptureFileError::TooLarge(3000)), "{error}");
        // Large enough, and still no capture.
        let error = read_limited(file.as_slice(), 4000).unwrap_err();
        assert!(matches!(error, CaptureFileError::Capture(_)), "{error}");
    }

    #[test]
    fn what_the_system_says_is_the_source() {
        #[derive(Debug)]
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let kind = |error: CaptureFileError| match error {
            CaptureFileError::Read(error) | CaptureFileError::Write(error) => Some(error.kind()),
            _ => None,
        };
        let error = read_capture(Broken).unwrap_err();
        assert_eq!(kind(error), Some(io::ErrorKind::PermissionDenied));
        let error = CaptureFileWriter::new(Broken).unwrap_err();
        assert_eq!(kind(error), Some(io::ErrorKind::StorageFull));
    }
}
