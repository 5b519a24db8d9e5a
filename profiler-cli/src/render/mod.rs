//! Output formats, one file each.

use std::io::{self, Write};

use crate::view::View;

pub(crate) mod folded;
pub(crate) mod json;
pub(crate) mod ledger;
#[cfg(test)]
mod order;
pub(crate) mod pprof;
pub(crate) mod summary;
pub(crate) mod svg;
pub(crate) mod top;
pub(crate) mod wholeness;

/// A file format that shows one event. A new one is a file here and a line in [`FORMATS`].
pub(crate) struct Format {
    /// How file names of the format end, without the dot.
    pub(crate) ending: &'static str,
    /// Writes one event.
    pub(crate) write: fn(&View<'_>, &mut dyn Write) -> io::Result<()>,
}

/// Every format that shows one event.
pub(crate) static FORMATS: [&Format; 3] = [&svg::FORMAT, &folded::FORMAT, &pprof::FORMAT];

/// The ending of a capture file, without the dot.
pub(crate) const CAPTURE_ENDING: &str = "capture";
