//! The table of rooms in ARCHITECTURE.md, held against the sources; and neither rooms nor the files of one go in a circle.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

type Uses = BTreeMap<String, BTreeSet<String>>;

/// The rooms that each room may use, by the page.
fn allowed() -> Uses {
    let page = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let table = page.split("| room of `src/` |").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let rows = table.lines().skip(2).map(|row| row.split('|').collect::<Vec<_>>());
    rows.map(|cells| (names(cells[1]).pop_first().unwrap(), names(cells[3]))).collect()
}

/// The first names of the paths that follow `prefix`, within braces too.
fn named_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let first = |part: &str| part.trim_start().split(|letter| !is_name(letter)).next().unwrap_or_default().to_owned();
    let mut names = BTreeSet::new();
    for (start, _) in code.match_indices(prefix).filter(|(start, _)| !code[..*start].ends_with([':', '_'])) {
        let rest = &code[start + prefix.len()..];
        let (mut depth, mut from) = (0, usize::from(rest.starts_with('{')));
        for (at, letter) in rest.char_indices() {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            if depth == 0 || (letter == ',' && depth == 1) {
                names.insert(first(&rest[from..]));
                from = at + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

/// The siblings that the sources at `path` use, tests aside: by `prefix`, or upward from `depth` folders below.
fn used(path: &Path, prefix: &str, depth: usize) -> BTreeSet<String> {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        return entries.flat_map(|entry| used(&entry, prefix, depth + 1)).collect();
    }
    let name = path.to_str().unwrap();
    let is_tests = name.contains("/tests/") || name.ends_with("/tests.rs");
    let text = if is_tests || path.extension().is_none_or(|extension| extension != "rs") {
        String::new()
    } else {
        fs::read_to_string(path).unwrap()
    };
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines();
    let code = code.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    named_after(&code, prefix).into_iter().chain(named_after(&code, &"super::".repeat(depth))).collect()
}

/// What stands in `room`, and which of each other it uses.
fn neighbours(room: &Path, prefix: &str) -> Uses {
    let mut all = Uses::new();
    for path in fs::read_dir(room).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        all.entry(name).or_default().extend(used(&path, prefix, usize::from(!path.is_dir())));
    }
    all.retain(|name, _| !["lib", "main", "tests"].contains(&name.as_str()));
    let names: BTreeSet<_> = all.keys().cloned().collect();
    for (name, used) in &mut all {
        used.retain(|other| other != name && names.contains(other));
    }
    all
}

/// What is left when whatever uses nothing is taken away, again and again: circles, and what leads into them.
fn circles(mut uses: Uses) -> Uses {
    while let Some(name) = uses.iter().find(|(_, used)| used.is_empty()).map(|(name, _)| name.clone()) {
        uses.remove(&name);
        for used in uses.values_mut() {
            used.retain(|other| *other != name);
        }
    }
    uses
}

#[test]
fn no_room_uses_one_that_it_may_not() {
    let allowed = allowed();
    for (room, used) in neighbours(Path::new("src"), "crate::") {
        let may = allowed.get(&room).unwrap_or_else(|| panic!("ARCHITECTURE.md does not name the room {room}"));
        let more: Vec<_> = used.difference(may).collect();
        assert!(more.is_empty(), "{room} uses {more:?}, which ARCHITECTURE.md does not name behind it");
    }
    assert_eq!(circles(allowed), Uses::new());
}

#[test]
fn nothing_in_a_room_goes_round_in_a_circle() {
    let crates = ["src", "crates/core/src", "crates/config/src", "crates/control/src", "crates/issuer/src"];
    let crates = crates.map(PathBuf::from);
    let mut rooms: Vec<_> = crates.into_iter().map(|root| (root, "crate::".to_owned())).collect();
    while let Some((room, prefix)) = rooms.pop() {
        let found = circles(neighbours(&room, &prefix));
        assert!(found.is_empty(), "in {}: {found:?}", room.display());
        let folders = fs::read_dir(&room).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        rooms.extend(folders.map(|path| (path.clone(), format!("{prefix}{}::", name(&path)))));
    }
}
