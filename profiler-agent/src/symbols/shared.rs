//! What all sessions of an agent share to name frames.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use super::{cache::Cache, debuginfod::Downloads, sources::Sources};

/// What the configuration says about names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SymbolSettings {
    /// Where names are kept; `None`: nowhere.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that may take.
    pub cache_bytes: u64,
    /// Most bytes of debug information of one file that are read.
    pub debug_bytes: u64,
    /// Servers of debug files.
    pub debuginfod_urls: Vec<String>,
}

impl Default for SymbolSettings {
    /// Nothing on disk, nothing from the network.
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_bytes: 256 << 20,
            debug_bytes: 512 << 20,
            debuginfod_urls: Vec::new(),
        }
    }
}

/// The cache and the servers, opened when a session first asks for them. What
/// cannot be used is said in the log and left out: frames have names without it.
#[derive(Default)]
pub struct Symbols {
    settings: SymbolSettings,
    cache: OnceLock<Option<Arc<Cache>>>,
    downloads: OnceLock<Option<Downloads>>,
}

impl fmt::Debug for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl Symbols {
    /// By these settings.
    pub fn new(settings: SymbolSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            ..Self::default()
        })
    }

    /// What the configuration says.
    pub fn settings(&self) -> &SymbolSettings {
        &self.settings
    }

    /// Names on disk.
    pub fn cache(&self) -> Option<&Arc<Cache>> {
        let open = || {
            let folder = self.settings.cache_dir.as_deref()?;
            Cache::open(folder, self.settings.cache_bytes)
                .inspect_err(|error| tracing::warn!("names are not kept on disk: {error}"))
                .map(Arc::new)
                .ok()
        };
        self.cache.get_or_init(open).as_ref()
    }

    fn downloads(&self) -> Option<&Downloads> {
        let start = || {
            let urls = self.settings.debuginfod_urls.clone();
            if urls.is_empty() {
                return None;
            }
            let Some(cache) = self.cache() else {
                tracing::warn!("debuginfod_urls is of no use without cache_dir");
                return None;
            };
            // One file must not take the place of all that is known of others.
            let limit = self.settings.debug_bytes.min(self.settings.cache_bytes / 2);
            Downloads::start(urls, Arc::clone(cache), limit)
                .inspect_err(|error| tracing::warn!("no debug files are fetched: {error}"))
                .ok()
        };
        self.downloads.get_or_init(start).as_ref()
    }

    /// Where fetched files are, if any are fetched.
    pub fn fetched(&self) -> Option<&Path> {
        self.downloads()?;
        Some(self.cache()?.folder())
    }

    /// Has a file fetched that could tell more about this one.
    pub fn want(&self, sources: &Sources) {
        if sources.lacks_debug_file()
            && !sources.build_id().is_empty()
            && let Some(downloads) = self.downloads()
        {
            downloads.want(sources.build_id());
        }
    }
}
