use std::collections::BTreeMap;
use std::io::Read;

use super::*;
use crate::render::order;
use crate::sample_capture;

fn decoded(event: Event) -> wire::Profile {
    decode(&sample_capture::capture(), event)
}

fn decode(capture: &Capture, event: Event) -> wire::Profile {
    let view = View::new(capture, event, false).unwrap();
    let mut gz = Vec::new();
    write(&view, &mut gz).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(gz.as_slice())
        .read_to_end(&mut bytes)
        .unwrap();
    wire::Profile::decode(bytes.as_slice()).unwrap()
}

/// Samples with everything they refer to, as text.
fn readable(profile: &wire::Profile) -> String {
    let string = |id: i64| profile.string_table[id as usize].as_str();
    let unit = |t: &wire::ValueType| format!("{}/{}", string(t.r#type), string(t.unit));
    let units: Vec<_> = profile.sample_type.iter().map(unit).collect();
    let mut text = format!("{} every {}\n", units.join(" "), profile.period);
    for comment in &profile.comment {
        text += &format!("# {}\n", string(*comment));
    }
    for sample in &profile.sample {
        text += &format!("\n{:?}", sample.value);
        for label in &sample.label {
            let value = match label.str {
                0 => format!("{}{}", label.num, string(label.num_unit)),
                text => string(text).to_owned(),
            };
            text += &format!(" {}={value}", string(label.key));
        }
        for id in &sample.location_id {
            let location = &profile.location[*id as usize - 1];
            text += &format!("\n  {:#x}", location.address);
            if let Some(mapping) = location.mapping_id.checked_sub(1) {
                let mapping = &profile.mapping[mapping as usize];
                let build_id = string(mapping.build_id);
                text += &format!(" in {} ({build_id})", string(mapping.filename));
            }
            for line in &location.line {
                let function = &profile.function[line.function_id as usize - 1];
                let (name, file) = (string(function.name), string(function.filename));
                text += &format!("\n    {name} {file}:{}", line.line);
            }
        }
    }
    text
}

#[test]
fn profiles() {
    insta::assert_snapshot!(readable(&decoded(Event::Cpu)));
    insta::assert_snapshot!(readable(&decoded(Event::OffCpu)));
    insta::assert_snapshot!(readable(&decoded(Event::Io)));
}

/// Samples by their functions, root first.
fn stacks(profile: &wire::Profile) -> BTreeMap<Vec<String>, u64> {
    let string = |id: i64| profile.string_table[id as usize].clone();
    let function = |line: &wire::Line| {
        let function = &profile.function[line.function_id as usize - 1];
        string(function.name)
    };
    let mut stacks = BTreeMap::new();
    for sample in &profile.sample {
        let locations = sample.location_id.iter().rev();
        let locations = locations.map(|id| &profile.location[*id as usize - 1]);
        let frames = locations.flat_map(|location| location.line.iter().rev().map(function));
        *stacks.entry(frames.collect()).or_default() += sample.value[0] as u64;
    }
    stacks
}

proptest::proptest! {
    #[test]
    fn frames_stay_as_they_are(stacks_taken in order::stacks()) {
        let capture = order::capture(&stacks_taken);
        let expected = order::expected(&stacks_taken, |_, frames| {
            frames.iter().map(|frame| frame.function.to_owned()).collect()
        });
        proptest::prop_assert_eq!(stacks(&decode(&capture, Event::Cpu)), expected);
    }
}

#[test]
fn inlined_functions_are_lines_of_one_location() {
    let profile = decode(&sample_capture::languages(), Event::Cpu);
    let string = |id: i64| profile.string_table[id as usize].as_str();
    let function = |line: &wire::Line| string(profile.function[line.function_id as usize - 1].name);
    let inlined = profile
        .location
        .iter()
        .find(|location| location.line.len() == 3);
    let functions: Vec<_> = inlined.unwrap().line.iter().map(function).collect();
    assert_eq!(
        functions,
        ["core::hash::mix", "core::hash::write", "app::parse"]
    );
}

#[test]
fn a_mapping_says_what_is_known_of_it() {
    let profile = decode(&sample_capture::languages(), Event::Cpu);
    let known = |file: &str| {
        let mapping = profile
            .mapping
            .iter()
            .find(|mapping| profile.string_table[mapping.filename as usize] == file);
        let mapping = mapping.unwrap();
        (
            mapping.has_functions,
            mapping.has_filenames,
            mapping.has_line_numbers,
            mapping.has_inline_frames,
        )
    };
    assert_eq!(known("/usr/bin/app"), (true, true, true, true));
    assert_eq!(known("[vdso]"), (true, true, true, false));
    let libc = known("/usr/lib/x86_64-linux-gnu/libc.so.6");
    assert_eq!(libc, (true, false, false, false));
    // A script is no mapping: it is the file of its functions.
    let files: Vec<_> = profile
        .function
        .iter()
        .map(|function| profile.string_table[function.filename as usize].as_str())
        .collect();
    assert!(files.contains(&"/srv/app.py"));
    assert_eq!(profile.mapping.len(), 5);
}

#[test]
fn every_reference_is_to_something() {
    for event in Event::ALL {
        let profile = decoded(event);
        assert_eq!(profile.string_table.first().map(String::as_str), Some(""));
        for sample in &profile.sample {
            assert_eq!(sample.value.len(), profile.sample_type.len());
            for id in &sample.location_id {
                assert_eq!(profile.location[*id as usize - 1].id, *id);
            }
        }
        for function in &profile.function {
            assert!(function.name > 0 && function.system_name == 0);
        }
        for location in &profile.location {
            assert!(location.mapping_id as usize <= profile.mapping.len());
            for line in &location.line {
                assert_eq!(
                    profile.function[line.function_id as usize - 1].id,
                    line.function_id
                );
            }
        }
    }
}
