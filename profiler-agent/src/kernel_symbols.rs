//! Names of kernel addresses, from `/proc/kallsyms`.
//!
//! The kernel needs 100 ms of CPU time to print its symbols, so they are read
//! once per agent, and again only when the modules have changed. Kept here as
//! sorted addresses and one string, about 4 MiB; blazesym's table of the same
//! symbols takes 20 MiB, stays bound to one thread and cannot tell an address
//! of a BPF program loaded since from the function below it.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// The kernel's functions, and where code may be.
#[derive(Debug, Default)]
pub struct KernelSymbols {
    /// Start of a function and where its name begins in `names`, sorted.
    functions: Vec<(u64, u32)>,
    /// Names, each ended by a newline.
    names: String,
    /// Where the kernel's own text and that of modules lies. Other addresses
    /// are BPF programs and trampolines.
    text: Vec<Range<u64>>,
    /// Start of the kernel's own text (`_stext`), 0 where addresses are hidden.
    base: u64,
    /// The modules these symbols belong to.
    modules: Vec<Module>,
}

/// A loaded module. How often it is used, which changes all the time, is left out.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    name: String,
    /// Where it lies; empty where addresses are hidden.
    text: Range<u64>,
}

/// The table every session shares.
static CURRENT: Mutex<Option<Arc<KernelSymbols>>> = Mutex::new(None);

impl KernelSymbols {
    /// The running kernel's symbols as they are now. Where they cannot be read,
    /// no address has a name.
    pub fn current() -> Arc<Self> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        // A kernel without modules has no such file.
        let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
        let modules = parse_modules(&modules);
        if let Some(symbols) = current.as_ref()
            && symbols.modules == modules
        {
            return Arc::clone(symbols);
        }
        let symbols = File::open("/proc/kallsyms")
            .and_then(|file| Self::read(BufReader::new(file), modules))
            .unwrap_or_else(|error| {
                tracing::warn!("read /proc/kallsyms: {error}; kernel frames have no names");
                Self::default()
            });
        let symbols = Arc::new(symbols);
        *current = Some(Arc::clone(&symbols));
        symbols
    }

    /// Lines are `address type name`, and `[module]` behind a tab.
    fn read(mut lines: impl BufRead, modules: Vec<Module>) -> io::Result<Self> {
        let mut symbols = Self {
            modules,
            ..Self::default()
        };
        let mut end = 0;
        let mut line = String::new();
        while {
            line.clear();
            lines.read_line(&mut line)? > 0
        } {
            let mut fields = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let address = u64::from_str_radix(address, 16).unwrap_or(0);
            if address == 0 || !matches!(kind, "t" | "T" | "w" | "W") {
                continue;
            }
            match name {
                "_stext" => symbols.base = address,
                "_etext" => end = address,
                _ => symbols.add(address, name),
            }
        }
        symbols.functions.sort_by_key(|(address, _)| *address);
        symbols.functions.dedup_by_key(|(address, _)| *address);
        symbols.functions.shrink_to_fit();
        symbols.names.shrink_to_fit();
        if symbols.base < end {
            symbols.text.push(symbols.base..end);
        }
        let modules = symbols.modules.iter().map(|module| module.text.clone());
        symbols.text.extend(modules);
        Ok(symbols)
    }

    fn add(&mut self, address: u64, name: &str) {
        let at = self.names.len() as u32;
        self.names.push_str(name);
        self.names.push('\n');
        self.functions.push((address, at));
    }

    /// Start of the kernel's text; frames are named relative to it.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Whether there is kernel or module code at `address`; else it is
    /// generated code, such as a BPF program.
    pub fn is_text(&self, address: u64) -> bool {
        self.text.iter().any(|range| range.contains(&address))
    }

    /// The function at `address`.
    pub fn name(&self, address: u64) -> Option<&str> {
        if !self.is_text(address) {
            return None;
        }
        let after = self
            .functions
            .partition_point(|(start, _)| *start <= address);
        let (_, at) = self.functions[..after].last()?;
        self.names[*at as usize..].lines().next()
    }
}

/// Lines of `/proc/modules`: name, size, uses, users, state, address.
fn parse_modules(modules: &str) -> Vec<Module> {
    let module = |line: &str| {
        let mut fields = line.split(' ');
        let name = fields.next()?.to_owned();
        let size: u64 = fields.next()?.parse().ok()?;
        let address = fields.nth(3)?.strip_prefix("0x")?;
        let start = u64::from_str_radix(address, 16).ok()?;
        let end = if start == 0 { 0 } else { start + size };
        Some(Module {
            name,
            text: start..end,
        })
    };
    modules.lines().filter_map(module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str = "ffff1000 T _stext\nffff1000 T first\nffff1100 t second\n\
        ffff1180 d data\nffff2000 T _etext\nffff9000 t inside\t[mod]\nffffa000 t bpf_prog_1\t[bpf]\n";
    const MODULES: &str = "mod 4096 0 - Live 0xffff9000 (E)\nhidden 4096 0 - Live 0x0\n";

    fn symbols() -> KernelSymbols {
        KernelSymbols::read(SYMBOLS.as_bytes(), parse_modules(MODULES)).unwrap()
    }

    #[test]
    fn names_kernel_and_module_functions() {
        let symbols = symbols();
        assert_eq!(symbols.name(0xffff_1000), Some("first"));
        assert_eq!(symbols.name(0xffff_10ff), Some("first"));
        assert_eq!(symbols.name(0xffff_1fff), Some("second"));
        assert_eq!(symbols.name(0xffff_9fff), Some("inside"));
        assert_eq!(symbols.base(), 0xffff_1000);
    }

    #[test]
    fn names_nothing_that_is_not_text() {
        let symbols = symbols();
        for address in [0, 0xffff_0fff, 0xffff_2000, 0xffff_a010, u64::MAX] {
            assert_eq!(symbols.name(address), None, "{address:#x}");
        }
    }

    #[test]
    fn hidden_addresses_have_no_names() {
        let hidden = "0000000000000000 T _stext\n0000000000000000 T first\n";
        let symbols = KernelSymbols::read(hidden.as_bytes(), Vec::new()).unwrap();
        assert_eq!(symbols.name(0), None);
        assert_eq!(symbols.base(), 0);
    }

    #[test]
    fn modules_are_the_same_however_often_they_are_used() {
        let modules = parse_modules(MODULES);
        assert_eq!(modules.len(), 2);
        let used = MODULES.replace(" 0 - ", " 2 other,another, ");
        assert_eq!(parse_modules(&used), modules);
        let moved = MODULES.replace("0xffff9000", "0xffffb000");
        assert_ne!(parse_modules(&moved), modules);
    }
}
