//! What is measured.

use std::fmt;
use std::str::FromStr;

use crate::pb;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Event {
    /// Time on a CPU, sampled.
    Cpu,
    /// Time off the CPU: waiting for something, or for a CPU.
    OffCpu,
    /// Requests to block devices.
    Io,
}

impl Event {
    /// Every event, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::OffCpu, Self::Io];

    /// The name used in flags and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::OffCpu => "offcpu",
            Self::Io => "io",
        }
    }

    /// The unit of folded lines and of pictures made from them.
    pub fn folded_unit(self) -> &'static str {
        match self {
            Self::Cpu => "samples",
            Self::OffCpu | Self::Io => "microseconds",
        }
    }

    /// The event that a message names by number.
    ///
    /// # Errors
    /// Fails where the number is none of the events this program knows.
    pub fn from_wire(number: i32) -> Result<Self, UnknownEvent> {
        match pb::Event::try_from(number) {
            Ok(event) => event.try_into(),
            Err(_) => Err(UnknownEvent(number)),
        }
    }

    /// The number that names the event in a message.
    pub fn to_wire(self) -> i32 {
        pb::Event::from(self) as i32
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Event {
    type Err = UnknownEventName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|event| event.name() == name)
            .ok_or_else(|| UnknownEventName(name.to_owned()))
    }
}

impl From<Event> for pb::Event {
    fn from(event: Event) -> Self {
        match event {
            Event::Cpu => Self::Cpu,
            Event::OffCpu => Self::Offcpu,
            Event::Io => Self::Io,
        }
    }
}

impl TryFrom<pb::Event> for Event {
    type Error = UnknownEvent;

    fn try_from(event: pb::Event) -> Result<Self, Self::Error> {
        match event {
            pb::Event::Cpu => Ok(Self::Cpu),
            pb::Event::Offcpu => Ok(Self::OffCpu),
            pb::Event::Io => Ok(Self::Io),
            pb::Event::Unspecified => Err(UnknownEvent(event as i32)),
        }
    }
}

/// A message names an event by a number that this program does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("event number {0} is not known to this version; known are 1 (cpu), 2 (offcpu) and 3 (io)")]
pub struct UnknownEvent(pub i32);

/// A name that is no event's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not an event; the events are cpu, offcpu and io")]
pub struct UnknownEventName(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back_to_the_event() {
        for event in Event::ALL {
            assert_eq!(event.name().parse(), Ok(event));
            assert_eq!(Event::from_wire(event.to_wire()), Ok(event));
        }
    }

    #[test]
    fn errors_name_the_value_and_what_is_accepted() {
        let error = "disk".parse::<Event>().unwrap_err().to_string();
        assert_eq!(
            error,
            "`disk` is not an event; the events are cpu, offcpu and io"
        );
        assert_eq!(Event::from_wire(0), Err(UnknownEvent(0)));
        assert_eq!(Event::from_wire(77), Err(UnknownEvent(77)));
    }
}
