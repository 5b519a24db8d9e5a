//! The unwinder that all sessions of an agent share, started when the first of
//! them asks for it.

use std::sync::{Arc, OnceLock};

use super::loader::{UnwindSettings, UnwindStatus, Unwinder};

/// An [`Unwinder`] that runs from its first use on.
#[derive(Debug, Default)]
pub struct SharedUnwinder {
    settings: UnwindSettings,
    /// Or why there is none, in words.
    started: OnceLock<Result<Arc<Unwinder>, String>>,
}

impl SharedUnwinder {
    /// By these settings.
    pub fn new(settings: UnwindSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            started: OnceLock::new(),
        })
    }

    /// The unwinder.
    ///
    /// # Errors
    /// Fails where it could not be started; the error is a sentence.
    pub fn get(&self) -> Result<&Arc<Unwinder>, &str> {
        self.started
            .get_or_init(|| Unwinder::new(self.settings).map_err(|error| error.to_string()))
            .as_ref()
            .map_err(String::as_str)
    }

    /// What it takes; `None`: no session has asked for it yet.
    pub fn status(&self) -> Option<UnwindStatus> {
        let unwinder = self.started.get()?.as_ref().ok()?;
        Some(unwinder.status())
    }
}
