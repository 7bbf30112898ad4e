//! The targets in `fuzz/`: a crate of its own that mounts this one's parsers, so that nothing but this holds both together.

use std::collections::BTreeMap;

use toml::Table;

use crate::common::here;

fn read(path: &str) -> Table {
    let path = here(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The version that is asked for of each dependency.
fn wanted(manifest: &Table) -> BTreeMap<String, String> {
    let wanted = manifest["dependencies"].as_table().expect("a table").iter().map(|(name, dependency)| {
        let version = dependency.as_str().or_else(|| dependency.get("version")?.as_str());
        (name.clone(), version.expect("a version").to_owned())
    });
    wanted.collect()
}

/// Every version of each package in a lock file.
fn locked(lock: &Table) -> BTreeMap<&str, Vec<&str>> {
    let mut locked: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("packages") {
        let field = |name: &str| package[name].as_str().expect("a text");
        locked.entry(field("name")).or_default().push(field("version"));
    }
    locked
}

#[test]
fn the_targets_are_built_with_the_service_s_own_libraries() {
    let (own, service) = (wanted(&read("fuzz/Cargo.toml")), wanted(&read("Cargo.toml")));
    for (name, version) in own.iter().filter(|(name, _)| *name != "libfuzzer-sys") {
        assert_eq!(Some(version), service.get(name), "{name} in fuzz/Cargo.toml and in Cargo.toml");
    }
    let (own, service) = (read("fuzz/Cargo.lock"), read("Cargo.lock"));
    let (own, service) = (locked(&own), locked(&service));
    let mine = ["answerd-fuzz", "libfuzzer-sys"];
    let others = own.iter().filter(|&(name, versions)| {
        let known = service.get(name).map(Vec::as_slice).unwrap_or_default();
        !mine.contains(name) && !versions.iter().all(|version| known.contains(version))
    });
    let others: Vec<_> = others.collect();
    assert!(
        others.is_empty(),
        "not as in Cargo.lock: {others:?}. Put these right with `cp Cargo.lock fuzz/ && cargo metadata --manifest-path fuzz/Cargo.toml >/dev/null`"
    );
}

#[test]
fn every_target_is_named_with_a_corpus_and_a_line_of_documentation() {
    let manifest = read("fuzz/Cargo.toml");
    let fuzz = here("fuzz");
    let documented = std::fs::read_to_string(fuzz.join("README.md")).expect("fuzz/README.md");
    let mut named: Vec<&str> =
        manifest["bin"].as_array().expect("targets").iter().map(|bin| bin["name"].as_str().expect("a name")).collect();
    named.sort_unstable();
    let sources = std::fs::read_dir(fuzz.join("fuzz_targets")).expect("fuzz/fuzz_targets");
    let mut found: Vec<String> = sources
        .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    found.sort_unstable();
    assert_eq!(named, found, "in fuzz/Cargo.toml and in fuzz/fuzz_targets");
    for target in named {
        let inputs = std::fs::read_dir(fuzz.join("corpus").join(target)).map_or(0, Iterator::count);
        assert!(inputs > 0, "fuzz/corpus/{target} is empty");
        assert!(documented.contains(&format!("`{target}`")), "fuzz/README.md says nothing of {target}");
    }
}
