//! Functions and the functions inlined into them.

use gimli::{AttributeValue, constants};

use super::{
    Level, Location, MAX_LEVELS, Slice, Stopped, Targets, Unit, lines,
    units::{Units, each_range},
};

/// A function whose entry the walk is inside of.
struct Holder {
    depth: isize,
    place: usize,
    /// Whether any of the addresses lies in it.
    is_wanted: bool,
}

/// Finds the functions of a unit that hold any of the addresses. The tree of
/// entries is read as the list it is stored as, so that its depth costs
/// nothing.
pub(super) fn find<'a>(
    units: &mut Units<'a>,
    unit: &Unit<'a>,
    targets: &mut Targets<'_>,
) -> Result<(), Stopped> {
    let Ok(mut entries) = unit.entries_raw(None) else {
        return Ok(());
    };
    let mut files = lines::Files::new(unit, units.dwarf());
    let mut holders: Vec<Holder> = Vec::new();
    let mut attributes = Vec::new();
    while !entries.is_empty() {
        targets.tick()?;
        let (depth, place) = (entries.next_depth(), entries.next_offset().0);
        let abbreviation = match entries.read_abbreviation() {
            Ok(Some(abbreviation)) => abbreviation,
            Ok(None) => continue,
            Err(_) => break,
        };
        while holders.last().is_some_and(|holder| holder.depth >= depth) {
            holders.pop();
        }
        let specifications = abbreviation.attributes();
        let is_read = match abbreviation.tag() {
            constants::DW_TAG_subprogram => entries
                .read_attributes(specifications, &mut attributes)
                .map(|()| {
                    let is_wanted = add_function(units, unit, &attributes, targets, place);
                    is_wanted.map(|is_wanted| {
                        // No compiler nests as deep as that.
                        if holders.len() < MAX_LEVELS {
                            holders.push(Holder {
                                depth,
                                place,
                                is_wanted,
                            });
                        }
                    })
                }),
            constants::DW_TAG_inlined_subroutine
                if let Some(holder) = holders.last().filter(|holder| holder.is_wanted) =>
            {
                entries
                    .read_attributes(specifications, &mut attributes)
                    .map(|()| {
                        add_inlined(units, unit, &attributes, targets, holder.place, &mut files)
                    })
            }
            _ => entries.skip_attributes(specifications).map(Ok),
        };
        match is_read {
            Ok(done) => done?,
            Err(_) => break,
        }
    }
    Ok(())
}

type Attributes<'s, 'a> = &'s [gimli::Attribute<Slice<'a>>];

/// Whether any address lies in the function.
fn add_function<'a>(
    units: &mut Units<'a>,
    unit: &Unit<'a>,
    attributes: Attributes<'_, 'a>,
    targets: &mut Targets<'_>,
    place: usize,
) -> Result<bool, Stopped> {
    let within = indices(units, unit, attributes, targets)?;
    if within.is_empty() {
        return Ok(false);
    }
    let level = Level {
        name: units.name(unit, attributes, targets)?,
        call: Location::default(),
    };
    for index in within {
        let found = &mut targets.found[index];
        found.holder = Some(place);
        found.levels.clear();
        found.levels.push(level.clone());
    }
    Ok(true)
}

fn add_inlined<'a>(
    units: &mut Units<'a>,
    unit: &Unit<'a>,
    attributes: Attributes<'_, 'a>,
    targets: &mut Targets<'_>,
    holder: usize,
    files: &mut lines::Files<'_, 'a>,
) -> Result<(), Stopped> {
    let within = indices(units, unit, attributes, targets)?;
    if within.is_empty() {
        return Ok(());
    }
    let level = Level {
        name: units.name(unit, attributes, targets)?,
        call: call_site(attributes, files, targets)?,
    };
    for index in within {
        let found = &mut targets.found[index];
        if found.holder == Some(holder) && found.levels.len() < MAX_LEVELS {
            found.levels.push(level.clone());
        }
    }
    Ok(())
}

fn indices<'a>(
    units: &Units<'a>,
    unit: &Unit<'a>,
    attributes: Attributes<'_, 'a>,
    targets: &mut Targets<'_>,
) -> Result<Vec<usize>, Stopped> {
    let mut indices = Vec::new();
    each_range(
        units.dwarf(),
        unit,
        attributes,
        targets,
        |targets, begin, end| {
            indices.extend(targets.within(begin, end));
            // As many ranges as one likes may hold all addresses.
            if indices.len() > 2 * targets.addresses.len() {
                sort_and_dedup(&mut indices);
            }
        },
    )?;
    // Ranges that overlap must not add a level twice.
    sort_and_dedup(&mut indices);
    Ok(indices)
}

fn sort_and_dedup(indices: &mut Vec<usize>) {
    indices.sort_unstable();
    indices.dedup();
}

fn call_site(
    attributes: Attributes<'_, '_>,
    files: &mut lines::Files<'_, '_>,
    targets: &mut Targets<'_>,
) -> Result<Location, Stopped> {
    let mut location = Location::default();
    for attribute in attributes {
        match attribute.name() {
            constants::DW_AT_call_file => {
                let index = match attribute.value() {
                    AttributeValue::FileIndex(index) => Some(index),
                    value => value.udata_value(),
                };
                location.file = match index {
                    Some(index) => files.path(index, targets)?,
                    None => None,
                };
            }
            constants::DW_AT_call_line => {
                let line = attribute.udata_value().unwrap_or_default();
                location.line = u32::try_from(line).unwrap_or_default();
            }
            _ => {}
        }
    }
    Ok(location)
}
