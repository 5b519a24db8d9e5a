//! What to capture, validated once, where it enters.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::duration::CaptureDuration;
use crate::event::{Event, UnknownEvent};
use crate::pb;
use crate::target::Target;

/// How often each CPU is sampled: 1 to 10000 Hz.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Frequency(u32);

impl Frequency {
    /// 1 Hz.
    pub const MIN: Self = Self(1);
    /// 10 kHz: at about 2.5 us per sample already 2.5 % of every CPU.
    pub const MAX: Self = Self(10_000);
    /// 99 Hz: not in step with timers that fire 100 times a second.
    pub const DEFAULT: Self = Self(99);

    /// Samples per second and CPU.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Nanoseconds from one sample to the next, rounded down.
    pub fn period_ns(self) -> u64 {
        1_000_000_000 / u64::from(self.0)
    }
}

impl Default for Frequency {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u32> for Frequency {
    type Error = SpecError;

    fn try_from(hertz: u32) -> Result<Self, SpecError> {
        if (Self::MIN.0..=Self::MAX.0).contains(&hertz) {
            Ok(Self(hertz))
        } else {
            Err(SpecError::Frequency(hertz.to_string()))
        }
    }
}

impl FromStr for Frequency {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let hertz = text.parse::<u32>();
        let hertz = hertz.map_err(|_| SpecError::Frequency(text.to_owned()))?;
        hertz.try_into()
    }
}

impl fmt::Display for Frequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} Hz", self.0))
    }
}

/// What to capture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaptureSpec {
    /// Sorted, distinct, not empty.
    pub events: Vec<Event>,
    /// Which threads.
    pub target: Target,
    /// How long.
    pub duration: CaptureDuration,
    /// How often `cpu` samples.
    pub frequency: Frequency,
}

impl CaptureSpec {
    /// Sorts the events and drops what is there twice.
    ///
    /// # Errors
    /// Fails where there is no event.
    pub fn new(
        mut events: Vec<Event>,
        target: Target,
        duration: CaptureDuration,
        frequency: Frequency,
    ) -> Result<Self, SpecError> {
        events.sort_unstable();
        events.dedup();
        if events.is_empty() {
            return Err(SpecError::NoEvents);
        }
        Ok(Self {
            events,
            target,
            duration,
            frequency,
        })
    }
}

/// A value that is not part of any capture. Every message names the value and what is accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpecError {
    /// No event was asked for.
    #[error("no events given; at least one of cpu, offcpu and io is needed")]
    NoEvents,
    /// An event of another version.
    #[error(transparent)]
    Event(#[from] UnknownEvent),
    /// Not a whole number of hertz in the range.
    #[error("frequency `{0}` is not a whole number of hertz from 1 to 10000")]
    Frequency(String),
    /// Not a duration.
    #[error("duration `{0}` is not understood; write it like 10s, 500ms, 2m, 1h or 1m30s")]
    Duration(String),
    /// Too short or too long.
    #[error("duration `{0}` is out of range; from 100ms to 24h is possible")]
    DurationRange(String),
    /// Not a process id.
    #[error("pid `{0}` is not a process id; those are whole numbers from 1 to 4194304")]
    Pid(String),
    /// More pids than one session can follow.
    #[error("{0} pids given; at most 1024 are possible")]
    TooManyPids(usize),
    /// Not a command name.
    #[error("command name `{0}` is not one the kernel can hold: 1 to 15 bytes without NUL")]
    Comm(String),
    /// More names than one session can compare.
    #[error("{0} command names given; at most 8 are possible")]
    TooManyComms(usize),
    /// Not a path of a cgroup.
    #[error(
        "cgroup `{}` is not an absolute path of at most 4095 bytes of UTF-8 without NUL",
        .0.display()
    )]
    Cgroup(PathBuf),
}

impl TryFrom<pb::CaptureSpec> for CaptureSpec {
    type Error = SpecError;

    fn try_from(spec: pb::CaptureSpec) -> Result<Self, SpecError> {
        let pb::CaptureSpec {
            events,
            target,
            duration_ns,
            frequency_hz,
        } = spec;
        let events: Result<Vec<_>, _> = events.into_iter().map(Event::from_wire).collect();
        Self::new(
            events?,
            target.unwrap_or_default().try_into()?,
            Duration::from_nanos(duration_ns).try_into()?,
            frequency_hz.try_into()?,
        )
    }
}

impl From<&CaptureSpec> for pb::CaptureSpec {
    fn from(spec: &CaptureSpec) -> Self {
        let CaptureSpec {
            events,
            target,
            duration,
            frequency,
        } = spec;
        Self {
            events: events.iter().map(|event| event.to_wire()).collect(),
            target: Some(target.into()),
            duration_ns: duration.as_ns(),
            frequency_hz: frequency.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> CaptureSpec {
        let target = Target::new(
            vec!["12".parse().unwrap()],
            true,
            vec!["nginx".parse().unwrap()],
            Some("/sys/fs/cgroup".into()),
        );
        CaptureSpec::new(
            vec![Event::Io, Event::Cpu, Event::Io],
            target.unwrap(),
            "1m30s".parse().unwrap(),
            "997".parse().unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn survives_the_wire() {
        let spec = spec();
        assert_eq!(spec.events, [Event::Cpu, Event::Io]);
        assert_eq!(
            CaptureSpec::try_from(pb::CaptureSpec::from(&spec)),
            Ok(spec)
        );
    }

    #[test]
    fn the_wire_is_not_trusted() {
        type Change = fn(&mut pb::CaptureSpec);
        let cases: [(Change, &str); 7] = [
            (|spec| spec.events.clear(), "no events"),
            (|spec| spec.events.push(9), "event number 9"),
            (|spec| spec.duration_ns = 1, "`1ns`"),
            (|spec| spec.frequency_hz = 10_001, "`10001`"),
            (|spec| spec.target.as_mut().unwrap().pids.push(0), "pid `0`"),
            (
                |spec| spec.target.as_mut().unwrap().comms = vec![String::new()],
                "command name ``",
            ),
            (
                |spec| spec.target.as_mut().unwrap().cgroup = "relative".into(),
                "cgroup `relative`",
            ),
        ];
        for (change, expected) in cases {
            let mut message = pb::CaptureSpec::from(&spec());
            change(&mut message);
            let error = CaptureSpec::try_from(message).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn no_target_is_the_whole_host() {
        let message = pb::CaptureSpec {
            target: None,
            ..(&spec()).into()
        };
        let spec = CaptureSpec::try_from(message).unwrap();
        assert!(spec.target.is_whole_host());
    }

    #[test]
    fn frequencies() {
        assert_eq!(Frequency::default().period_ns(), 10_101_010);
        assert_eq!("10000".parse::<Frequency>().unwrap().period_ns(), 100_000);
        for text in ["0", "10001", "99.5", "99Hz", "-1", ""] {
            let error = text.parse::<Frequency>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
            assert!(error.contains("1 to 10000"), "{error}");
        }
    }
}
