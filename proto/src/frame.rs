//! Frames: chunks, compressed and checksummed, as they are sent and stored.
//!
//! A frame is the length of its payload (`u32`, little endian), the CRC-32C of its payload (`u32`,
//! little endian) and the payload, a chunk compressed with zstd.

use std::io::{self, Read};

use prost::Message;

use crate::capture_file::CaptureFileError;
use crate::entries::{self, MAX_CHUNK_ENTRIES};
use crate::pb;

/// Largest payload of a frame, compressed.
pub const MAX_FRAME_BYTES: usize = 64 << 20;
/// Largest chunk, decompressed.
pub const MAX_CHUNK_BYTES: usize = 64 << 20;
/// Length and checksum.
pub(crate) const FRAME_HEADER_BYTES: usize = 8;
/// zstd's default: a good ratio at some hundred megabytes a second.
const COMPRESSION_LEVEL: i32 = 3;
/// 8 MiB, the largest window of zstd's levels up to 19; the decoder allocates the window that a
/// frame asks for before it has seen the data.
const MAX_WINDOW_LOG: u32 = 23;

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than the header says, or more.
    #[error("its length is {expected} bytes, but {found} are there")]
    Length {
        /// What the header says, header included.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// No payload: the end of a file, not a frame of it.
    #[error("it has no payload")]
    Empty,
    /// A payload larger than any that is written.
    #[error("its payload is {0} bytes, more than the {MAX_FRAME_BYTES} that are possible")]
    FrameTooLarge(usize),
    /// The payload is not what was written.
    #[error("its checksum does not match: it was damaged")]
    Checksum,
    /// Not zstd.
    #[error("it cannot be decompressed: {0}")]
    Decompress(io::Error),
    /// Compression failed.
    #[error("it cannot be compressed: {0}")]
    Compress(io::Error),
    /// A chunk larger than any that is written.
    #[error("its chunk is more than the {MAX_CHUNK_BYTES} bytes that are possible")]
    ChunkTooLarge,
    /// A chunk of more entries than any that is written.
    #[error("its chunk holds more than the {MAX_CHUNK_ENTRIES} entries that are possible")]
    TooManyEntries,
    /// Not a chunk.
    #[error("its content is not a chunk of a capture: {0}")]
    Decode(prost::DecodeError),
}

/// Encodes a chunk as a frame.
///
/// # Errors
/// Fails where the chunk is larger than [`MAX_CHUNK_BYTES`] or [`MAX_CHUNK_ENTRIES`], which no
/// reader would accept; those of [`chunks`](crate::chunks) are about 1 MiB.
pub fn encode_frame(chunk: &pb::Chunk) -> Result<Vec<u8>, CaptureFileError> {
    Ok(encode(chunk)?)
}

fn encode(chunk: &pb::Chunk) -> Result<Vec<u8>, FrameError> {
    let chunk = chunk.encode_to_vec();
    if chunk.len() > MAX_CHUNK_BYTES {
        return Err(FrameError::ChunkTooLarge);
    }
    if !entries::within_limit(&chunk) {
        return Err(FrameError::TooManyEntries);
    }
    let payload = zstd::bulk::compress(&chunk, COMPRESSION_LEVEL).map_err(FrameError::Compress)?;
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_FRAME_BYTES)
        .ok_or(FrameError::FrameTooLarge(payload.len()))?;
    let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame)
}

/// Decodes a frame.
///
/// # Errors
/// Says what is wrong with it; any damage is found.
pub fn decode_frame(frame: &[u8]) -> Result<pb::Chunk, CaptureFileError> {
    Ok(decode(frame).map(|(chunk, _)| chunk)?)
}

/// The chunk in a frame, and its size in bytes.
pub(crate) fn decode(frame: &[u8]) -> Result<(pb::Chunk, usize), FrameError> {
    let (_, payload) = split(frame)?;
    let chunk = decompress(payload).map_err(FrameError::Decompress)?;
    if chunk.len() > MAX_CHUNK_BYTES {
        return Err(FrameError::ChunkTooLarge);
    }
    if !entries::within_limit(&chunk) {
        return Err(FrameError::TooManyEntries);
    }
    let bytes = chunk.len();
    let chunk = pb::Chunk::decode(chunk.as_slice()).map_err(FrameError::Decode)?;
    Ok((chunk, bytes))
}

/// The content of a payload, cut one byte after [`MAX_CHUNK_BYTES`].
fn decompress(payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    let mut content = Vec::new();
    let limit = MAX_CHUNK_BYTES as u64 + 1;
    decoder.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

/// The checksum and the payload of a frame, after both were found to be right.
pub(crate) fn split(frame: &[u8]) -> Result<(u32, &[u8]), FrameError> {
    let found = frame.len();
    let Some((header, payload)) = frame.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        let expected = FRAME_HEADER_BYTES;
        return Err(FrameError::Length { expected, found });
    };
    let (length, checksum) = read_header(*header);
    if length == 0 {
        return Err(FrameError::Empty);
    }
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::FrameTooLarge(length));
    }
    if length != payload.len() {
        let expected = FRAME_HEADER_BYTES + length;
        return Err(FrameError::Length { expected, found });
    }
    if crc32c::crc32c(payload) != checksum {
        return Err(FrameError::Checksum);
    }
    Ok((checksum, payload))
}

/// The length of the payload and its checksum.
pub(crate) fn read_header(header: [u8; FRAME_HEADER_BYTES]) -> (usize, u32) {
    let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
    (
        u32::from_le_bytes([l0, l1, l2, l3]) as usize,
        u32::from_le_bytes([c0, c1, c2, c3]),
    )
}
