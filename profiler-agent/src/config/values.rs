//! Values of the configuration that are checked where they are read: in a flag or in the file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::bpf::OffcpuRung;

/// A value that cannot be used. Every message names the value and what is accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ValueError {
    /// Not a whole number in the range.
    #[error("`{value}` is not a whole number from {min} to {max}")]
    Number {
        /// As it was written.
        value: String,
        /// The smallest number accepted.
        min: u64,
        /// The largest number accepted.
        max: u64,
    },
    /// The kernel could not make such a ring buffer, or it would take too much memory.
    #[error("`{value}` is not a power of two from {min} (one page) to {max}")]
    RingBytes {
        /// As it was written.
        value: String,
        /// The size of a page.
        min: u32,
        /// [`RingBytes::MAX`].
        max: u32,
    },
    /// The socket would lie wherever the agent happened to be started.
    #[error("`{}` is not the absolute path of a file", .0.display())]
    SocketNotAbsolute(PathBuf),
    /// Longer than an address of a Unix socket can be.
    #[error("`{}` has {} bytes; the path of a Unix socket has at most {max}",
        .0.display(), .0.as_os_str().len(), max = SocketPath::MAX_BYTES)]
    SocketTooLong(PathBuf),
    /// No such rung.
    #[error("`{0}` is not a way to measure off-CPU; there are auto, {names}",
        names = OffcpuRung::ALL.map(OffcpuRung::name).join(", "))]
    Rung(String),
    /// The names would be kept wherever the agent happened to be started.
    #[error("`{}` is not the absolute path of a folder, nor empty", .0.display())]
    CacheNotAbsolute(PathBuf),
    /// Not a server that could be asked.
    #[error("`{0}` is not the address of a server, such as https://debuginfod.debian.net")]
    Server(String),
    /// Not a log filter.
    #[error(
        "`{0}` is not a log filter; write error, warn, info, debug or trace, \
         or one for each module, like info,profiler_agent::session=debug"
    )]
    LogFilter(String),
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "u64")]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

/// How many sessions may run at the same time. Each has its own programs and maps in the kernel.
pub type MaxSessions = Bounded<1, 64>;

/// How many samples one session keeps in memory. The bounds are those of the agent's own memory:
/// below the first no capture is of use, and the last is some gigabytes.
pub type MaxSamples = Bounded<1_000, 100_000_000>;

/// Bytes of names that are kept on disk: 1 MiB to 1 TiB.
pub type CacheBytes = Bounded<0x10_0000, 0x100_0000_0000>;

/// Most bytes of debug information of one file that are read: none to 64 GiB.
pub type DebugBytes = Bounded<0, 0x10_0000_0000>;

/// Kernel memory of unwind tables: one chunk of the heap to all there can be.
pub type UnwindBytes = Bounded<0x20_0000, 0x800_0000>;

/// CPU seconds in each minute for building unwind tables.
pub type UnwindCpuSeconds = Bounded<1, 60>;

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// A number known when the program is built; outside the bounds it does not compile where
    /// it makes a constant.
    pub const fn new(number: u64) -> Self {
        assert!(MIN <= number && number <= MAX);
        Self(number)
    }

    /// The number.
    pub fn get(self) -> usize {
        // The agent runs on 64 bit machines only.
        self.0 as usize
    }

    fn error(value: impl fmt::Display) -> ValueError {
        ValueError::Number {
            value: value.to_string(),
            min: MIN,
            max: MAX,
        }
    }
}

impl<const MIN: u64, const MAX: u64> TryFrom<u64> for Bounded<MIN, MAX> {
    type Error = ValueError;

    fn try_from(number: u64) -> Result<Self, ValueError> {
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Self::error(number))
        }
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Bounded<MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number: u64 = text.parse().map_err(|_| Self::error(text))?;
        number.try_into()
    }
}

/// Size of the ring buffer between the kernel programs of one session and the agent, in bytes:
/// a power of two and at least a page, as the kernel demands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "u64")]
pub struct RingBytes(u32);

impl RingBytes {
    /// 256 MiB: it is locked memory of the kernel's, once per session.
    pub const MAX: u32 = 1 << 28;

    /// The size.
    pub fn get(self) -> u32 {
        self.0
    }

    fn checked(value: &str, page: u32) -> Result<Self, ValueError> {
        let usable = |bytes: &u32| bytes.is_power_of_two() && (page..=Self::MAX).contains(bytes);
        match value.parse().ok().filter(usable) {
            Some(bytes) => Ok(Self(bytes)),
            None => Err(ValueError::RingBytes {
                value: value.to_owned(),
                min: page,
                max: Self::MAX,
            }),
        }
    }
}

impl Default for RingBytes {
    /// 1 MiB.
    fn default() -> Self {
        Self(1 << 20)
    }
}

impl FromStr for RingBytes {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // No page of any architecture comes near 4 GiB.
        let page = u32::try_from(rustix::param::page_size()).unwrap_or(u32::MAX);
        Self::checked(text, page)
    }
}

impl TryFrom<u64> for RingBytes {
    type Error = ValueError;

    fn try_from(bytes: u64) -> Result<Self, ValueError> {
        bytes.to_string().parse()
    }
}

/// Where the agent listens: the absolute path of a Unix socket.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "PathBuf")]
pub struct SocketPath(PathBuf);

impl SocketPath {
    /// `sun_path` of `sockaddr_un` holds 108 bytes with its final NUL; 12 of them are for the
    /// folder in which the socket is made ready.
    pub const MAX_BYTES: usize = 107 - 12;

    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl Default for SocketPath {
    /// Where the command line looks for an agent.
    fn default() -> Self {
        Self("/run/profiler/agent.sock".into())
    }
}

impl TryFrom<PathBuf> for SocketPath {
    type Error = ValueError;

    fn try_from(path: PathBuf) -> Result<Self, ValueError> {
        if !path.is_absolute() || path.file_name().is_none() {
            Err(ValueError::SocketNotAbsolute(path))
        } else if path.as_os_str().len() > Self::MAX_BYTES {
            Err(ValueError::SocketTooLong(path))
        } else {
            Ok(Self(path))
        }
    }
}

impl FromStr for SocketPath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        PathBuf::from(text).try_into()
    }
}

/// Where names are kept on disk: the absolute path of a folder, or nowhere.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "PathBuf")]
pub struct CacheDir(Option<PathBuf>);

impl CacheDir {
    /// The folder; `None`: nowhere.
    pub fn into_path(self) -> Option<PathBuf> {
        self.0
    }
}

impl Default for CacheDir {
    /// That of the systemd unit. Only root can use it.
    fn default() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        Self(is_root.then(|| "/var/cache/profiler".into()))
    }
}

impl TryFrom<PathBuf> for CacheDir {
    type Error = ValueError;

    fn try_from(path: PathBuf) -> Result<Self, ValueError> {
        if path.as_os_str().is_empty() {
            Ok(Self(None))
        } else if path.is_absolute() && path.file_name().is_some() {
            Ok(Self(Some(path)))
        } else {
            Err(ValueError::CacheNotAbsolute(path))
        }
    }
}

impl FromStr for CacheDir {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        PathBuf::from(text).try_into()
    }
}

/// The address of a debuginfod server.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct ServerUrl(String);

impl ServerUrl {
    /// The address, without a slash at its end.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl FromStr for ServerUrl {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let host = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let is_usable = |host: &str| {
            !host.is_empty()
                && !host.starts_with('/')
                && host
                    .chars()
                    .all(|c| c.is_ascii_graphic() && !matches!(c, '?' | '#'))
        };
        match host.is_some_and(is_usable) {
            true => Ok(Self(text.trim_end_matches('/').to_owned())),
            false => Err(ValueError::Server(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ServerUrl {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

/// Which rung of the off-CPU ladder may be used: `auto` for the best that this kernel has, or one
/// by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct RungChoice(Option<OffcpuRung>);

impl RungChoice {
    /// The only rung that may be used; none where any may.
    pub fn get(self) -> Option<OffcpuRung> {
        self.0
    }
}

impl FromStr for RungChoice {
    type Err = ValueError;

    fn from_str(name: &str) -> Result<Self, ValueError> {
        if name == "auto" {
            return Ok(Self(None));
        }
        let rung = OffcpuRung::ALL.into_iter().find(|rung| rung.name() == name);
        match rung {
            Some(rung) => Ok(Self(Some(rung))),
            None => Err(ValueError::Rung(name.to_owned())),
        }
    }
}

impl TryFrom<String> for RungChoice {
    type Error = ValueError;

    fn try_from(name: String) -> Result<Self, ValueError> {
        name.parse()
    }
}

/// What is logged: a level, or directives of `tracing_subscriber`'s `EnvFilter`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter's text, which [`EnvFilter`] can parse.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// From a variable that other programs read too: what they accept is accepted.
    ///
    /// # Errors
    /// Fails where [`EnvFilter`] cannot parse it.
    pub fn from_environment(text: &str) -> Result<Self, ValueError> {
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(ValueError::LogFilter(text.to_owned())),
        }
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A lone word would be taken for the name of a module, and a misspelt level would then
        // silence the agent without a word.
        let bare = !text.contains(['=', ',']);
        let is_level = !text.is_empty() && text.parse::<LevelFilter>().is_ok();
        if bare && !is_level {
            return Err(ValueError::LogFilter(text.to_owned()));
        }
        Self::from_environment(text)
    }
}

impl TryFrom<String> for LogFilter {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_bounds() {
        assert_eq!("1".parse::<MaxSessions>().unwrap().get(), 1);
        assert_eq!("64".parse::<MaxSessions>().unwrap().get(), 64);
        for text in ["0", "65", "-1", "4.0", "four", ""] {
            let error = text.parse::<MaxSessions>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("`{text}` is not a whole number from 1 to 64")
            );
        }
    }

    #[test]
    fn ring_sizes_are_what_the_kernel_accepts() {
        assert_eq!(RingBytes::checked("4096", 4096).unwrap().get(), 4096);
        assert_eq!(
            RingBytes::checked("268435456", 4096).unwrap().get(),
            1 << 28
        );
        for (text, page) in [
            ("0", 4096),
            ("2048", 4096),
            ("4096", 65536),
            ("1000000", 4096),
            ("536870912", 4096),
            ("4294967296", 4096),
            ("1MiB", 4096),
        ] {
            let error = RingBytes::checked(text, page).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is not a power of two from {page}")));
        }
    }

    #[test]
    fn the_default_ring_fits_every_page_size_in_use() {
        assert_eq!(
            RingBytes::checked("1048576", 65536),
            Ok(RingBytes::default())
        );
    }

    #[test]
    fn socket_paths_are_absolute_and_fit_an_address() {
        let longest = format!("/{}", "x".repeat(SocketPath::MAX_BYTES - 1));
        assert!(longest.parse::<SocketPath>().is_ok());
        let error = format!("{longest}x").parse::<SocketPath>().unwrap_err();
        assert!(error.to_string().contains("has 96 bytes"), "{error}");
        for text in ["agent.sock", "", "/", "/run/.."] {
            let error = text.parse::<SocketPath>().unwrap_err();
            assert!(matches!(error, ValueError::SocketNotAbsolute(_)), "{text}");
        }
    }

    #[test]
    fn caches_are_absolute_or_none() {
        let path = |text: &str| text.parse::<CacheDir>().map(CacheDir::into_path);
        assert_eq!(path(""), Ok(None));
        assert_eq!(path("/var/cache/x"), Ok(Some("/var/cache/x".into())));
        for text in ["cache", "./x", "/", "/.."] {
            assert!(path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn servers_are_web_addresses() {
        for (text, url) in [
            (
                "https://debuginfod.debian.net",
                "https://debuginfod.debian.net",
            ),
            ("http://[::1]:8002/", "http://[::1]:8002"),
            ("https://host/path/", "https://host/path"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().into_string(), url);
        }
        for text in [
            "",
            "host",
            "https://",
            "ftp://host",
            "https:///x",
            "https://a b",
            "http://h?x",
        ] {
            assert!(text.parse::<ServerUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_rung_can_be_chosen() {
        assert_eq!("auto".parse::<RungChoice>().unwrap().get(), None);
        for rung in OffcpuRung::ALL {
            let choice: RungChoice = rung.name().parse().unwrap();
            assert_eq!(choice.get(), Some(rung));
        }
        let error = "best".parse::<RungChoice>().unwrap_err().to_string();
        assert!(
            error.ends_with("auto, sched_exit_tp, fentry, kprobe, switch-out"),
            "{error}"
        );
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_module() {
        for text in ["error", "INFO", "off", "info,profiler_agent::session=debug"] {
            assert_eq!(text.parse::<LogFilter>().unwrap().as_str(), text);
        }
        for text in ["", "inof", "info,=", "a=loud"] {
            assert!(text.parse::<LogFilter>().is_err(), "{text}");
        }
    }
}
