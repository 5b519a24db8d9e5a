//! Lets gimli read a section of a file as it goes, without mapping the file:
//! its owner could cut it off, and the section may have 20 MB of which one rule
//! needs 100 bytes.

use std::{
    borrow::Cow,
    cell::RefCell,
    fmt::{self, Debug, Formatter},
};

use gimli::{Error, LittleEndian, Reader, ReaderOffsetId};

use crate::unwind::elf::ReadAt;

/// Read at once.
const PAGE: u64 = 4096;

/// Pages kept of a file: those that a binary search begins with, the common
/// information entries, and what was read last.
const SLOTS: usize = 16;

/// Most bytes that gimli may have as a whole: none of what it is used for here
/// asks for more than an expression.
const MAX_SLICE: usize = 64 << 10;

/// Longest string that is looked for the end of: the only ones are the names of
/// augmentations, of 8 bytes at most.
const MAX_STRING: usize = 64;

/// The pages of a file that were read last, each in the slot that its number
/// selects.
#[derive(Default)]
pub(super) struct Pages {
    slots: [Option<Page>; SLOTS],
}

struct Page {
    number: u64,
    bytes: Vec<u8>,
}

impl Pages {
    /// Memory they take.
    pub(super) fn bytes(&self) -> usize {
        let kept = self.slots.iter().flatten();
        kept.map(|page| page.bytes.capacity()).sum()
    }

    /// The bytes of a page, fewer than [`PAGE`] where the file ends.
    fn page(&mut self, file: &dyn ReadAt, number: u64) -> Option<&[u8]> {
        let slot = &mut self.slots[(number % SLOTS as u64) as usize];
        if slot.as_ref().is_none_or(|page| page.number != number) {
            let mut bytes = slot.take().map(|page| page.bytes).unwrap_or_default();
            bytes.resize(PAGE as usize, 0);
            let read = read_full(file, &mut bytes, number.checked_mul(PAGE)?)?;
            bytes.truncate(read);
            *slot = Some(Page { number, bytes });
        }
        slot.as_ref().map(|page| page.bytes.as_slice())
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Option<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file
            .read_at(rest, offset.checked_add(filled as u64)?)
            .ok()?
        {
            0 => break,
            read => filled = filled.saturating_add(read),
        }
    }
    Some(filled.min(buffer.len()))
}

/// A file and what has been read of it.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub file: &'a dyn ReadAt,
    pub pages: &'a RefCell<Pages>,
}

impl<'a> Source<'a> {
    /// Fills a buffer from an offset in the file.
    ///
    /// # Errors
    /// Fails where the file ends before or cannot be read.
    pub(super) fn read(&self, mut buffer: &mut [u8], mut offset: u64) -> gimli::Result<()> {
        let mut pages = self.pages.borrow_mut();
        while !buffer.is_empty() {
            let page = pages.page(self.file, offset / PAGE).ok_or(Error::Io)?;
            let stored = page.get((offset % PAGE) as usize..).unwrap_or_default();
            let count = stored.len().min(buffer.len());
            if count == 0 {
                return Err(Error::Io);
            }
            let (now, later) = buffer.split_at_mut(count);
            now.copy_from_slice(&stored[..count]);
            buffer = later;
            offset = offset.checked_add(count as u64).ok_or(Error::Io)?;
        }
        Ok(())
    }

    /// A part of the file, cut where offsets end.
    pub(super) fn section(self, offset: u64, len: u64) -> PageReader<'a> {
        let len = len.min(u64::MAX - offset);
        PageReader {
            source: self,
            offset,
            len: usize::try_from(len).unwrap_or(usize::MAX),
        }
    }
}

/// Part of a file, read when it is asked for.
#[derive(Clone)]
pub(super) struct PageReader<'a> {
    source: Source<'a>,
    /// In the file. With `len` added it does not overflow.
    offset: u64,
    len: usize,
}

impl Debug for PageReader<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes at {}", self.len, self.offset)
    }
}

impl PageReader<'_> {
    fn advance(&mut self, len: usize) -> gimli::Result<()> {
        self.len = self
            .len
            .checked_sub(len)
            .ok_or(Error::UnexpectedEof(self.offset_id()))?;
        self.offset += len as u64;
        Ok(())
    }
}

impl Reader for PageReader<'_> {
    type Endian = LittleEndian;
    type Offset = usize;

    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    fn len(&self) -> usize {
        self.len
    }

    fn empty(&mut self) {
        self.len = 0;
    }

    fn truncate(&mut self, len: usize) -> gimli::Result<()> {
        if len > self.len {
            return Err(Error::UnexpectedEof(self.offset_id()));
        }
        self.len = len;
        Ok(())
    }

    fn offset_from(&self, base: &Self) -> usize {
        self.offset.wrapping_sub(base.offset) as usize
    }

    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.offset)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        let offset = usize::try_from(id.0.checked_sub(self.offset)?).ok()?;
        (offset <= self.len).then_some(offset)
    }

    fn find(&self, byte: u8) -> gimli::Result<usize> {
        let mut rest = self.clone();
        while rest.len > 0 && self.len - rest.len < MAX_STRING {
            if rest.read_u8()? == byte {
                return Ok(self.len - rest.len - 1);
            }
        }
        Err(Error::UnexpectedEof(self.offset_id()))
    }

    fn skip(&mut self, len: usize) -> gimli::Result<()> {
        self.advance(len)
    }

    fn split(&mut self, len: usize) -> gimli::Result<Self> {
        let mut head = self.clone();
        head.truncate(len)?;
        self.advance(len)?;
        Ok(head)
    }

    fn to_slice(&self) -> gimli::Result<Cow<'_, [u8]>> {
        if self.len > MAX_SLICE {
            return Err(Error::UnexpectedEof(self.offset_id()));
        }
        let mut bytes = vec![0; self.len];
        self.source.read(&mut bytes, self.offset)?;
        Ok(bytes.into())
    }

    fn to_string(&self) -> gimli::Result<Cow<'_, str>> {
        let bytes = self.to_slice()?.into_owned();
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err(Error::BadUtf8),
        }
    }

    fn to_string_lossy(&self) -> gimli::Result<Cow<'_, str>> {
        let bytes = self.to_slice()?;
        Ok(String::from_utf8_lossy(&bytes).into_owned().into())
    }

    fn read_slice(&mut self, buffer: &mut [u8]) -> gimli::Result<()> {
        let offset = self.offset;
        self.advance(buffer.len())?;
        self.source.read(buffer, offset)
    }
}
