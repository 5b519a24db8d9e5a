//! How long a capture takes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::capture_spec::SpecError;

/// Units of a written duration, largest first, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// How long a capture takes: 100 ms to 24 h.
///
/// Written as whole numbers with units, largest unit first: `10s`, `500ms`, `1m30s`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct CaptureDuration(Duration);

impl CaptureDuration {
    /// 100 ms: about ten ticks at the default frequency.
    pub const MIN: Self = Self(Duration::from_millis(100));
    /// 24 h: longer windows are the flight recorder's business.
    pub const MAX: Self = Self(Duration::from_secs(24 * 3600));
    /// 10 s.
    pub const DEFAULT: Self = Self(Duration::from_secs(10));

    /// The duration.
    pub fn get(self) -> Duration {
        self.0
    }

    /// The duration in nanoseconds.
    pub fn as_ns(self) -> u64 {
        // At most 24 h, so that it always fits.
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Default for CaptureDuration {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<Duration> for CaptureDuration {
    type Error = SpecError;

    fn try_from(duration: Duration) -> Result<Self, SpecError> {
        if (Self::MIN.0..=Self::MAX.0).contains(&duration) {
            Ok(Self(duration))
        } else {
            Err(SpecError::DurationRange(format!("{duration:?}")))
        }
    }
}

impl FromStr for CaptureDuration {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let millis = parse_millis(text).ok_or_else(|| SpecError::Duration(text.to_owned()))?;
        let duration = Self(Duration::from_millis(millis));
        if duration < Self::MIN || duration > Self::MAX {
            return Err(SpecError::DurationRange(text.to_owned()));
        }
        Ok(duration)
    }
}

/// Reads `1h2m3s4ms`, each unit at most once and the larger before the smaller.
fn parse_millis(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut units = UNITS.as_slice();
    let mut millis = 0_u64;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(unit_len);
        let position = units.iter().position(|(name, _)| *name == unit)?;
        // A number too large for u64 is as much out of range as u64::MAX is.
        let number = match number.parse::<u64>() {
            Ok(number) => number,
            Err(_) if !number.is_empty() => u64::MAX,
            Err(_) => return None,
        };
        millis = millis.saturating_add(number.saturating_mul(units[position].1));
        units = &units[position + 1..];
        rest = tail;
    }
    (!text.is_empty()).then_some(millis)
}

impl fmt::Display for CaptureDuration {
    /// To the millisecond, as it can be read back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        for (unit, millis) in UNITS {
            if rest >= millis {
                text.push_str(&format!("{}{unit}", rest / millis));
                rest %= millis;
            }
        }
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Duration, String> {
        let parsed = text.parse::<CaptureDuration>();
        parsed.map(CaptureDuration::get).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("1h2m3s4ms", 3_723_004),
            ("90s", 90_000),
            ("24h", 86_400_000),
            ("100ms", 100),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest_and_says_what_is_accepted() {
        for text in [
            "", "10", "s", "10 s", "-1s", "1.5s", "1s1s", "30s1m", "1d", "1ss", "ä", "1sä", "1S",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(&format!("`{text}`")), "{error}");
            assert!(error.contains("500ms"), "{error}");
        }
    }

    #[test]
    fn range_errors_name_value_and_bounds() {
        for text in ["99ms", "0s", "25h", "24h1ms", "99999999999999999999999h"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(text), "{error}");
            assert!(error.contains("100ms") && error.contains("24h"), "{error}");
        }
        let error = CaptureDuration::try_from(Duration::from_nanos(5)).unwrap_err();
        assert!(error.to_string().contains("5ns"), "{error}");
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["100ms", "10s", "1m30s", "24h", "1h500ms"] {
            let duration: CaptureDuration = text.parse().unwrap();
            assert_eq!(duration.to_string(), text);
        }
        let duration: CaptureDuration = "90s".parse().unwrap();
        assert_eq!(duration.to_string(), "1m30s");
    }
}
