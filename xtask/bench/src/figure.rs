//! A measured number beside its target, and the table of all of them.

use serde::Serialize;

/// What a number counts.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "ns")]
    Nanoseconds,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "%")]
    Percent,
    /// Millions of bytes.
    #[serde(rename = "MB")]
    Megabytes,
    /// Thousands a second.
    #[serde(rename = "k/s")]
    Thousands,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::Percent => format!("{value:.2} %"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Thousands => format!("{value:.0} k/s"),
        }
    }
}

/// Middle and spread of several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    /// First and third quartile; of three runs and fewer the least and the most.
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) runs: usize,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (sorted.first()?, sorted.last()?);
        let runs = sorted.len();
        let quarter = runs.div_ceil(4) - 1;
        let at = |index: usize, or: &f64| *sorted.get(index).unwrap_or(or);
        Some(Self {
            median: f64::midpoint(at((runs - 1) / 2, first), at(runs / 2, last)),
            low: at(quarter, first),
            high: at(runs - 1 - quarter, last),
            runs,
        })
    }
}

/// One measured number.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    name: String,
    unit: Unit,
    #[serde(flatten)]
    spread: Spread,
    /// Most that it is to be.
    target: Option<f64>,
    reached: Option<bool>,
    /// What the number means, and what else was seen.
    note: String,
}

impl Figure {
    fn cells(&self) -> [String; 7] {
        let show = |value| self.unit.show(value);
        let Spread {
            median,
            low,
            high,
            runs,
        } = self.spread;
        [
            self.name.clone(),
            show(median),
            if runs > 1 {
                format!("{} .. {}", show(low), show(high))
            } else {
                String::new()
            },
            runs.to_string(),
            self.target.map_or_else(String::new, show),
            match self.reached {
                Some(true) => "reached",
                Some(false) => "MISSED",
                None => "",
            }
            .to_owned(),
            self.note.clone(),
        ]
    }
}

/// Figures in the making: the values of one run after the other.
#[derive(Debug, Default)]
pub(crate) struct Series(Vec<Row>);

/// One figure in the making.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    unit: Unit,
    values: Vec<f64>,
    target: Option<f64>,
    note: String,
}

impl Series {
    /// The value of one more run. Figures stay in the order of their first values.
    pub(crate) fn add(&mut self, name: &str, unit: Unit, value: f64) -> &mut Row {
        let known = self.0.iter().position(|row| row.name == name);
        let index = known.unwrap_or(self.0.len());
        if known.is_none() {
            self.0.push(Row {
                name: name.to_owned(),
                unit,
                values: Vec::new(),
                target: None,
                note: String::new(),
            });
        }
        let row = &mut self.0[index];
        row.values.push(value);
        row
    }

    pub(crate) fn figures(self) -> Vec<Figure> {
        self.0.into_iter().filter_map(Row::figure).collect()
    }
}

impl Row {
    /// The median is to be no more than this.
    pub(crate) fn at_most(&mut self, target: f64) -> &mut Self {
        self.target = Some(target);
        self
    }

    /// Takes the place of the note of an earlier run.
    pub(crate) fn note(&mut self, note: impl Into<String>) -> &mut Self {
        self.note = note.into();
        self
    }

    fn figure(self) -> Option<Figure> {
        let spread = Spread::of(&self.values)?;
        Some(Figure {
            name: self.name,
            unit: self.unit,
            spread,
            target: self.target,
            reached: self.target.map(|target| spread.median <= target),
            note: self.note,
        })
    }
}

const HEADINGS: [&str; 7] = [
    "figure",
    "median",
    "quartiles",
    "runs",
    "target <=",
    "",
    "note",
];

/// All figures, in columns.
pub(crate) fn table(figures: &[Figure]) -> String {
    let rows: Vec<_> = std::iter::once(HEADINGS.map(str::to_owned))
        .chain(figures.iter().map(Figure::cells))
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Words to the left, numbers to the right.
            if matches!(column, 0 | 5 | 6) {
                line += &format!("{cell:<width$}  ");
            } else {
                line += &format!("{cell:>width$}  ");
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_and_quartiles() {
        let of = |values: &[f64]| {
            let spread = Spread::of(values).unwrap();
            (spread.low, spread.median, spread.high)
        };
        assert_eq!(of(&[2.0]), (2.0, 2.0, 2.0));
        assert_eq!(of(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
        assert_eq!(of(&[5.0, 4.0, 3.0, 2.0, 1.0]), (2.0, 3.0, 4.0));
        assert_eq!(
            of(&[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
            (2.0, 4.5, 7.0)
        );
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_target_is_reached_by_the_median() {
        let mut series = Series::default();
        for value in [250.0, 100.0, 900.0] {
            let row = series.add("cost", Unit::Nanoseconds, value);
            row.at_most(250.0).note("by itself");
            series.add("other", Unit::Percent, value).at_most(249.0);
        }
        let text = table(&series.figures());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("cost"), "{text}");
        assert!(lines[1].ends_with("reached  by itself"), "{text}");
        assert!(lines[1].contains(" 100 ns .. 900 ns     3 "), "{text}");
        assert!(lines[2].starts_with("other"), "{text}");
        assert!(lines[2].ends_with("MISSED"), "{text}");
    }
}
