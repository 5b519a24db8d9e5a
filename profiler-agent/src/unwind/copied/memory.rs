//! The copied part of a stack.

use profiler_abi::STACK_COPY_BYTES;

use super::Stop;

/// Bytes of a stack and where they were.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory<'a> {
    /// Address of the first byte.
    pub start: u64,
    /// What stood there.
    pub bytes: &'a [u8],
}

impl Memory<'_> {
    /// The word at an address.
    ///
    /// # Errors
    /// [`Stop::Cut`] beyond the end of a copy that is as long as any, which a
    /// longer one might have had, else [`Stop::Unreadable`].
    pub(super) fn word(&self, address: u64) -> Result<u64, Stop> {
        self.number(address, 8)
    }

    /// The little-endian number of `size` bytes, 8 at most.
    pub(super) fn number(&self, address: u64, size: usize) -> Result<u64, Stop> {
        let is_full = self.bytes.len() >= STACK_COPY_BYTES;
        let outside = || match address >= self.start && is_full {
            true => Stop::Cut,
            false => Stop::Unreadable,
        };
        let at = address.checked_sub(self.start).ok_or_else(outside)?;
        let at = usize::try_from(at).map_err(|_| outside())?;
        let stored = at
            .checked_add(size)
            .and_then(|end| self.bytes.get(at..end))
            .ok_or_else(outside)?;
        let mut word = [0; 8];
        word.get_mut(..size)
            .ok_or(Stop::Unsupported)?
            .copy_from_slice(stored);
        Ok(u64::from_le_bytes(word))
    }
}
