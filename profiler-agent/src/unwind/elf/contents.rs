//! What a section holds, decompressed where it is compressed.

use std::io::{self, Read};

use super::{ElfImage, ReadAt, Section, u32_at, u64_at};

/// Largest window of zstd, as a power of two: 8 MiB, what its levels up to 19 use.
const MAX_WINDOW_LOG: u32 = 23;

/// Why a section's contents are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// There is more than was asked for at most.
    #[error("section {0} is larger than {1} bytes")]
    TooLarge(String, u64),
    /// It is compressed in a way that is not known.
    #[error("section {0} is compressed in an unknown way ({1})")]
    Compression(String, u32),
    /// It cannot be read or decompressed.
    #[error("section {0}: {1}")]
    Read(String, io::Error),
}

impl ElfImage {
    /// The bytes of a section, if there are at most `limit` of them,
    /// decompressed where it has `SHF_COMPRESSED` (zlib or zstd).
    ///
    /// # Errors
    /// Fails where there are more, or where they cannot be read.
    pub fn contents(
        &self,
        file: &dyn ReadAt,
        section: &Section,
        limit: u64,
    ) -> Result<Vec<u8>, ContentsError> {
        if section.size > limit {
            return Err(ContentsError::TooLarge(section.name.clone(), limit));
        }
        let failed = |error| ContentsError::Read(section.name.clone(), error);
        let mut bytes = vec![0; section.size as usize];
        file.read_exact_at(&mut bytes, section.offset)
            .map_err(failed)?;
        match section.is_compressed() {
            false => Ok(bytes),
            true => decompress(&bytes, section, limit),
        }
    }
}

/// By `Elf64_Chdr`: type, padding, size, alignment, then the data.
fn decompress(bytes: &[u8], section: &Section, limit: u64) -> Result<Vec<u8>, ContentsError> {
    const HEADER: usize = 24;
    const ELFCOMPRESS_ZLIB: u32 = 1;
    const ELFCOMPRESS_ZSTD: u32 = 2;
    let failed = |error| ContentsError::Read(section.name.clone(), error);
    let size = u64_at(bytes, 8);
    if size > limit {
        return Err(ContentsError::TooLarge(section.name.clone(), limit));
    }
    let data = bytes.get(HEADER..).unwrap_or_default();
    let mut contents = Vec::with_capacity(size as usize);
    // What comes out is believed no more than what the header says of it.
    match u32_at(bytes, 0) {
        ELFCOMPRESS_ZLIB => flate2::read::ZlibDecoder::new(data)
            .take(size)
            .read_to_end(&mut contents),
        ELFCOMPRESS_ZSTD => {
            zstd::stream::read::Decoder::with_buffer(data).and_then(|mut decoder| {
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                decoder.take(size).read_to_end(&mut contents)
            })
        }
        other => return Err(ContentsError::Compression(section.name.clone(), other)),
    }
    .map_err(failed)?;
    Ok(contents)
}
