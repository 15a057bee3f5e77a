//! The pages as somebody pastes from them: each configuration in them is one that the program takes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use pingora::server::configuration::ServerConf;
use serde_yaml::{Mapping, Value};

/// Blocks of YAML, with where they stand.
fn blocks() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.chain([root.join("README.md")]).filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    pages.flat_map(|page| blocks_of(&page, "yaml")).collect()
}

fn blocks_of(page: &PathBuf, kind: &str) -> Vec<(String, String)> {
    let start = format!("```{kind}");
    let text = std::fs::read_to_string(page).unwrap();
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut indent = None;
    for (number, line) in text.lines().enumerate() {
        match (indent, line.trim()) {
            (None, line_of_start) if line_of_start == start => {
                indent = Some(line.len() - line.trim_start().len());
                blocks.push((format!("{}:{}", page.display(), number + 1), String::new()));
            }
            (Some(_), "```") => indent = None,
            (Some(indent), _) => {
                let (_, block) = blocks.last_mut().unwrap();
                block.push_str(line.get(indent..).unwrap_or_default());
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

/// A folder with all that blocks name beside them.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["keys.example".to_owned()]).unwrap();
    std::fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), made.key_pair.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("keys.yaml"), "keys: []").unwrap();
    folder
}

/// What a configuration must have, where a block shows another part of it.
fn completed(block: &str) -> String {
    let written: Mapping = serde_yaml::from_str(block).unwrap();
    let mut completed = block.to_owned();
    if !written.contains_key("upstreams") {
        completed.push_str("upstreams: [{name: a, url: 'http://127.0.0.1:1'}]\n");
    }
    if !written.contains_key("keys") {
        completed.push_str("keys: {yaml: {path: keys.yaml}}\n");
    }
    completed
}

#[test]
fn every_configuration_in_the_pages_is_taken() {
    let (mut of_gateways, mut of_keys) = (0, 0);
    for (place, block) in blocks() {
        let folder = folder();
        let (file, keys) = (folder.path().join("keymeter.yaml"), folder.path().join("keys.yaml"));
        // A hash that a reader fills in; two keys of one file have two.
        let filled_in = block.split("sha256:…").enumerate().fold(String::new(), |text, (index, part)| match index {
            0 => part.to_owned(),
            _ => format!("{text}sha256:{index:0>64}{part}"),
        });
        let value: Value = serde_yaml::from_str(&filled_in).unwrap_or_else(|error| panic!("{place}: {error}"));
        if value.get("upgrade_sock").is_some() {
            ServerConf::from_yaml(&filled_in).unwrap_or_else(|error| panic!("{place}: {error}"));
            continue;
        }
        let is_of_keys = value.get("keys").is_some_and(Value::is_sequence) || value.get("teams").is_some();
        if is_of_keys {
            std::fs::write(&keys, filled_in).unwrap();
            std::fs::write(&file, completed("limits: {store: data/limits}\n")).unwrap();
            of_keys += 1;
        } else {
            std::fs::write(&file, completed(&filled_in)).unwrap();
            of_gateways += 1;
        }
        // What the environment is to say, in as many characters as a token needs, and no two alike.
        let environment = |name: &str| Some(format!("{name:x>40}"));
        let loaded = keymeter_config::load(&file, &environment);
        assert!(loaded.is_ok(), "{place}: {:?}", loaded.err());
    }
    assert!(of_gateways >= 8 && of_keys >= 2, "{of_gateways} configurations and {of_keys} files of keys were found");
}

#[test]
fn a_key_map_of_nginx_is_taken_as_its_page_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/moving-from-nginx.md");
    let only = |kind: &str| blocks_of(&page, kind).into_iter().next().unwrap().1;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("nginx.conf"), only("nginx")).unwrap();
    std::fs::write(folder.path().join("keymeter.yaml"), only("yaml")).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_keymeter")).parent().unwrap().display().to_string();
    let mut shell = Command::new("sh");
    shell.args(["-ec", &only("sh")]).current_dir(&folder).env("PATH", programs + ":/usr/bin:/bin");
    let taken = shell.output().unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let loaded = keymeter_config::load(&folder.path().join("keymeter.yaml"), &|_| None).unwrap();
    let found: Vec<_> = loaded.keys.iter().map(|key| (key.name.as_str(), key.hash)).collect();
    let secret = |text: &str| keymeter_core::key::Secret::new(text).hash();
    assert_eq!(
        found,
        [("Client alice", secret("sk-alice-0123456789abcdef")), ("Client batch", secret("sk-batch-fedcba9876543210"))]
    );
}
