//! Which threads a capture is about.

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::capture_spec::SpecError;
use crate::pb;

/// A process id: 1 to 4194304, the kernel's `PID_MAX_LIMIT`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Pid(NonZeroU32);

impl Pid {
    /// The kernel's `PID_MAX_LIMIT` on 64-bit machines.
    pub const MAX: u32 = 4_194_304;

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl TryFrom<u32> for Pid {
    type Error = SpecError;

    fn try_from(number: u32) -> Result<Self, SpecError> {
        match NonZeroU32::new(number) {
            Some(pid) if number <= Self::MAX => Ok(Self(pid)),
            _ => Err(SpecError::Pid(number.to_string())),
        }
    }
}

impl FromStr for Pid {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let number: u32 = text.parse().map_err(|_| SpecError::Pid(text.to_owned()))?;
        number.try_into()
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A command name as the kernel keeps it: 1 to 15 bytes, without NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Comm(String);

impl Comm {
    /// `TASK_COMM_LEN` without the final NUL.
    pub const MAX_BYTES: usize = 15;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Comm {
    type Err = SpecError;

    fn from_str(name: &str) -> Result<Self, SpecError> {
        if name.is_empty() || name.len() > Self::MAX_BYTES || name.contains('\0') {
            return Err(SpecError::Comm(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Which threads: each kind that is given must match, within one kind any may. Nothing given means
/// the whole host.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Target {
    /// Process ids, sorted, at most [`Target::MAX_PIDS`].
    pub pids: Vec<Pid>,
    /// Also processes that the pids fork from now on.
    pub follow_forks: bool,
    /// Command names of the thread or its process, sorted, at most [`Target::MAX_COMMS`].
    pub comms: Vec<Comm>,
    /// Absolute path of a cgroup directory; the cgroups below it are included.
    pub cgroup: Option<PathBuf>,
}

impl Target {
    /// The kernel side keeps the pids of one session in a map of this size.
    pub const MAX_PIDS: usize = 1024;
    /// The kernel side compares names one by one, for every event.
    pub const MAX_COMMS: usize = 8;
    /// `PATH_MAX` without the final NUL.
    const MAX_PATH_BYTES: usize = 4095;

    /// Checks the numbers and the path; sorts, and drops what is there twice.
    ///
    /// # Errors
    /// Fails where there are too many pids or names, or where the cgroup is no absolute path that
    /// can be sent as text.
    pub fn new(
        mut pids: Vec<Pid>,
        follow_forks: bool,
        mut comms: Vec<Comm>,
        cgroup: Option<PathBuf>,
    ) -> Result<Self, SpecError> {
        pids.sort_unstable();
        pids.dedup();
        comms.sort_unstable();
        comms.dedup();
        if pids.len() > Self::MAX_PIDS {
            return Err(SpecError::TooManyPids(pids.len()));
        }
        if comms.len() > Self::MAX_COMMS {
            return Err(SpecError::TooManyComms(comms.len()));
        }
        if let Some(path) = &cgroup {
            check_cgroup(path)?;
        }
        Ok(Self {
            pids,
            follow_forks,
            comms,
            cgroup,
        })
    }

    /// Whether nothing limits it.
    pub fn is_whole_host(&self) -> bool {
        self.pids.is_empty() && self.comms.is_empty() && self.cgroup.is_none()
    }
}

fn check_cgroup(path: &Path) -> Result<(), SpecError> {
    let acceptable = path.is_absolute()
        && path
            .to_str()
            .is_some_and(|text| text.len() <= Target::MAX_PATH_BYTES && !text.contains('\0'));
    if acceptable {
        Ok(())
    } else {
        Err(SpecError::Cgroup(path.to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.pids.is_empty() {
            let children = if self.follow_forks {
                " and children"
            } else {
                ""
            };
            parts.push(format!("pid {}{children}", list(&self.pids)));
        }
        if !self.comms.is_empty() {
            parts.push(format!("command {}", list(&self.comms)));
        }
        if let Some(path) = &self.cgroup {
            parts.push(format!("cgroup {}", path.display()));
        }
        if parts.is_empty() {
            parts.push("whole host".to_owned());
        }
        f.pad(&parts.join("; "))
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(", ")
}

impl TryFrom<pb::Target> for Target {
    type Error = SpecError;

    fn try_from(target: pb::Target) -> Result<Self, SpecError> {
        let pb::Target {
            pids,
            follow_forks,
            comms,
            cgroup,
        } = target;
        let pids: Result<_, _> = pids.into_iter().map(Pid::try_from).collect();
        let comms: Result<_, _> = comms.iter().map(|name| name.parse()).collect();
        let cgroup = (!cgroup.is_empty()).then(|| PathBuf::from(cgroup));
        Self::new(pids?, follow_forks, comms?, cgroup)
    }
}

impl From<&Target> for pb::Target {
    fn from(target: &Target) -> Self {
        let Target {
            pids,
            follow_forks,
            comms,
            cgroup,
        } = target;
        Self {
            pids: pids.iter().map(|pid| pid.get()).collect(),
            follow_forks: *follow_forks,
            comms: comms.iter().map(|comm| comm.0.clone()).collect(),
            cgroup: cgroup
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: u32) -> Pid {
        number.try_into().unwrap()
    }

    #[test]
    fn pids_have_the_kernel_s_range() {
        assert_eq!("1".parse::<Pid>().unwrap().get(), 1);
        assert_eq!("4194304".parse::<Pid>().unwrap().get(), Pid::MAX);
        for text in ["0", "4194305", "-1", "", "x", "99999999999"] {
            let error = text.parse::<Pid>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
            assert!(error.contains("4194304"), "{error}");
        }
    }

    #[test]
    fn command_names_fit_the_kernel_s_field() {
        assert_eq!("a".repeat(15).parse::<Comm>().unwrap().as_str().len(), 15);
        for name in ["", "sixteen bytes ab", "nul\0"] {
            let error = name.parse::<Comm>().unwrap_err().to_string();
            assert!(error.contains("15 bytes"), "{error}");
        }
    }

    #[test]
    fn targets_read_as_people_say_them() {
        let target =
            |pids, follow, comms, cgroup| Target::new(pids, follow, comms, cgroup).unwrap();
        assert_eq!(Target::default().to_string(), "whole host");
        assert!(Target::default().is_whole_host());
        let two = target(vec![pid(13), pid(12), pid(13)], false, vec![], None);
        assert_eq!(two.to_string(), "pid 12, 13");
        assert!(!two.is_whole_host());
        let all = target(
            vec![pid(1)],
            true,
            vec!["sh".parse().unwrap()],
            Some("/sys/fs/cgroup/a".into()),
        );
        assert_eq!(
            all.to_string(),
            "pid 1 and children; command sh; cgroup /sys/fs/cgroup/a"
        );
    }

    #[test]
    fn too_many_and_relative_are_refused() {
        let pids = (1..=1025).map(pid).collect();
        let error = Target::new(pids, false, vec![], None).unwrap_err();
        assert!(error.to_string().contains("1025 pids"), "{error}");
        let comms = (0..9).map(|n| n.to_string().parse().unwrap()).collect();
        let error = Target::new(vec![], false, comms, None).unwrap_err();
        assert!(error.to_string().contains('9'), "{error}");
        for path in ["user.slice".to_owned(), format!("/{}", "a".repeat(4095))] {
            let error = Target::new(vec![], false, vec![], Some(path.clone().into())).unwrap_err();
            assert!(error.to_string().contains(&path), "{error}");
        }
    }
}
