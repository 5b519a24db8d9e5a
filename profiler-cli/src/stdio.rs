//! Writing to standard output and standard error without panicking when nobody reads them.

use std::fmt::Display;
use std::io::{self, Write};

use crate::error::CliError;

/// Writes to standard output. A reader that has gone away is [`CliError::ClosedPipe`].
pub(crate) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CliError> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    write(&mut out)
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::ClosedPipe,
            _ => CliError::Stdout(error),
        })
}

/// Writes a line to standard error, where it is still open.
pub(crate) fn tell(line: impl Display) {
    tell_raw(&format!("{line}\n"));
}

/// Writes text to standard error, where it is still open.
pub(crate) fn tell_raw(text: &str) {
    // When standard error is closed there is nobody left to tell.
    io::stderr().write_all(text.as_bytes()).unwrap_or_default();
}
