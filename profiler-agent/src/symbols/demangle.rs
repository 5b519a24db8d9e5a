//! Names as their programmers wrote them.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions};

/// Longest name kept, in bytes: C++ templates grow to megabytes.
pub const MAX_NAME: usize = 1024;

/// Longest mangled name that is looked into. The work of a demangler grows
/// faster than its input, which anybody may have made.
const MAX_MANGLED: usize = 16 << 10;

/// Depth of nesting up to which C++ names are followed. A template in another
/// one takes about five.
const MAX_DEPTH: u32 = 160;

/// Bytes of stack that a thread must have which demangles foreign names: in a
/// build without optimisation [`MAX_DEPTH`] does not fit into the usual 2 MiB.
pub const STACK: usize = 16 << 20;

/// The name of a symbol: of Rust by both manglings (without the hash of the
/// old one), of C++ by the Itanium ABI, all others as they are. At most
/// [`MAX_NAME`] bytes and, where that cuts it, an ellipsis.
pub fn demangled(symbol: &str) -> String {
    if symbol.len() <= MAX_MANGLED {
        // `foo@@VERSION` is how linkers write versions into a symbol's name.
        if let Ok(name) = rustc_demangle::try_demangle(symbol) {
            return Bounded::of(|out| write!(out, "{name:#}"));
        }
        if let Some(name) = cpp(symbol) {
            return name;
        }
    }
    Bounded::of(|out| out.write_str(symbol))
}

fn cpp(symbol: &str) -> Option<String> {
    if !symbol.starts_with("_Z") && !symbol.starts_with("_GLOBAL_") {
        return None;
    }
    let options = ParseOptions::default().recursion_limit(MAX_DEPTH);
    let parsed = cpp_demangle::Symbol::new_with_options(symbol, &options).ok()?;
    let options = DemangleOptions::default().recursion_limit(MAX_DEPTH);
    let mut out = Bounded::default();
    match parsed.structured_demangle(&mut out, &options) {
        Ok(()) => Some(out.finish()),
        // It stopped because there is more than is kept.
        Err(_) if out.is_cut => Some(out.finish()),
        Err(_) => None,
    }
}

/// Text that stops growing.
#[derive(Default)]
struct Bounded {
    text: String,
    is_cut: bool,
}

impl Bounded {
    fn of(write: impl FnOnce(&mut Self) -> fmt::Result) -> String {
        let mut out = Self::default();
        // It fails where it is cut, which is what is wanted.
        if write(&mut out).is_err() {
            out.is_cut = true;
        }
        out.finish()
    }

    fn finish(mut self) -> String {
        if self.is_cut {
            self.text.push_str("...");
        }
        self.text
    }
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = MAX_NAME - self.text.len();
        if more.len() <= room {
            self.text.push_str(more);
            return Ok(());
        }
        self.text.push_str(&more[..more.floor_char_boundary(room)]);
        self.is_cut = true;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_manglings_are_undone() {
        for (symbol, name) in [
            (
                "_ZN4core9panicking9panic_fmt17h5f1a6fd39197ad62E",
                "core::panicking::panic_fmt",
            ),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            (
                "_RNvMsr_NtCs3ssYzQotkvD_3std4pathNtB5_7PathBuf3new",
                "<std::path::PathBuf>::new",
            ),
            (
                "_ZNSt6vectorIiSaIiEE9push_backEOi",
                "std::vector<int, std::allocator<int> >::push_back(int&&)",
            ),
            (
                "_ZZ4mainENKUlvE_clEv",
                "main::{lambda()#1}::operator()() const",
            ),
            ("_ZN3foo3barEv.part.0", "foo::bar() [clone .part.0]"),
            ("main", "main"),
            ("", ""),
            ("_Z", "_Z"),
            ("_ZZZZ", "_ZZZZ"),
        ] {
            assert_eq!(demangled(symbol), name);
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let cut = demangled(&"\u{e9}".repeat(MAX_NAME));
        assert_eq!(cut.len(), MAX_NAME + "...".len());
        let odd = demangled(&format!("x{}", "\u{e9}".repeat(MAX_NAME)));
        assert_eq!(odd.len(), MAX_NAME - 1 + "...".len());
        assert_eq!(demangled(&"x".repeat(MAX_NAME)).len(), MAX_NAME);
    }

    /// Each substitution doubles what the name says: megabytes, were it not cut.
    #[test]
    fn names_that_explode_are_cut_early() {
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn(try_to_explode).unwrap().join().unwrap();
    }

    fn try_to_explode() {
        let mut symbol = "_Z1fIiE".to_owned();
        symbol.push_str("v1A");
        let doubling: String = (0..30u32)
            .map(|n| {
                let id = if n == 0 {
                    String::new()
                } else {
                    char::from_digit(n - 1, 36)
                        .unwrap()
                        .to_uppercase()
                        .to_string()
                };
                format!("1AIS{id}_S{id}_E")
            })
            .collect();
        let start = std::time::Instant::now();
        assert!(demangled(&format!("_Z1f1AIiiE{doubling}")).len() <= MAX_NAME + 3);
        let deep = format!("_Z1f{}i", "P".repeat(MAX_MANGLED - 10));
        assert!(demangled(&deep).len() <= MAX_NAME + 3);
        let templates = format!("_Z1f{}i{}", "1AI".repeat(2000), "E".repeat(2000));
        assert!(demangled(&templates).len() <= MAX_NAME + 3);
        let nested = format!("_RNvC1a{}", "NvB_1b".repeat(2000));
        assert!(demangled(&nested).len() <= MAX_NAME + 3);
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }
}
